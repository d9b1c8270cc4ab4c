//! The pickle reader against pickles made by hand.

use std::io;

use super::tree::MAX_DEPTH;
use super::*;

/// Reads the pieces, joined, as one pickle of protocol 2 with its STOP.
fn load(pieces: &[&[u8]]) -> Result<Value> {
    let mut bytes = b"\x80\x02".to_vec();
    bytes.extend(pieces.concat());
    bytes.push(b'.');
    Ok(unpickle(&mut &bytes[..])?.root)
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// `_rebuild_tensor_v2` over a float storage "0" of 6 elements.
fn tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    tensor_in(b"ctorch\nFloatStorage\n", offset, shape, strides)
}

fn tensor_in(storage: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        storage,
        &text("0"),
        &text("cpu"),
        b"K\x06tQ",
        offset,
        shape,
        strides,
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

#[test]
fn plain_data_of_every_kind() {
    let value = load(&[
        b"}(",
        &text("none"),
        b"N",
        &text("flag"),
        b"\x88",
        &text("ints"),
        b"](J\xfe\xff\xff\xffK\xffM\xff\xff\x8a\x00\x8a\x02\x00\x80\x8a\x08\0\0\0\0\0\0\0\x80e",
        &text("float"),
        b"G\x3f\xe0\0\0\0\0\0\0",
        &text("bytes"),
        b"C\x02ab",
        &text("tuple"),
        b"K\x01K\x02\x86\x85",
        b"u",
    ]);
    let value = value.unwrap();
    assert_eq!(value.get("none"), Some(&Value::None));
    assert_eq!(value.get("flag"), Some(&Value::Bool(true)));
    let ints = [-2, 255, 65535, 0, -32768, i64::MIN].map(Value::Int);
    assert_eq!(value.get("ints"), Some(&Value::List(ints.to_vec())));
    assert_eq!(value.get("float"), Some(&Value::Float(0.5)));
    assert_eq!(value.get("bytes"), Some(&Value::Bytes((*b"ab").into())));
    let pair = Value::Tuple(vec![Value::Int(1), Value::Int(2)]);
    assert_eq!(value.get("tuple"), Some(&Value::Tuple(vec![pair])));
    assert_eq!(value.get("absent"), None);
}

#[test]
fn protocol_4_frames_memo_and_stack_global() {
    let pickle =
        b"\x80\x04\x95\x20\0\0\0\0\0\0\0\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93)R\x94.";
    assert_eq!(
        unpickle(&mut &pickle[..]).unwrap().root,
        Value::Dict(vec![])
    );
}

#[test]
fn tensors_and_parameters() {
    let plain = tensor(b"K\x01", b"K\x02K\x02\x86", b"K\x01K\x02\x86");
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n",
        &plain[..],
        b"\x88ccollections\nOrderedDict\n)R\x87R",
    ];
    for value in [load(&[&plain]).unwrap(), load(&parameter).unwrap()] {
        assert_eq!(value.kind(), "tensor float32 [2, 2]");
        let Value::Tensor(tensor) = value else {
            panic!("wanted a tensor");
        };
        assert_eq!((tensor.offset, &tensor.strides[..]), (1, &[1, 2][..]));
        assert_eq!((&*tensor.storage.key, tensor.storage.numel), ("0", 6));
    }
}

#[test]
fn the_reader_stops_after_stop() {
    let mut input = &b"\x80\x02K\x01.\x80\x02K\x02."[..];
    assert_eq!(unpickle(&mut input).unwrap().root, Value::Int(1));
    assert_eq!(unpickle(&mut input).unwrap().root, Value::Int(2));
    assert!(input.is_empty());
}

/// The name of the class of the object that the pieces make.
fn object(pieces: &[&[u8]]) -> String {
    match load(pieces).unwrap() {
        Value::Opaque(class) => class.to_string(),
        other => panic!("wanted an object, got {other:?}"),
    }
}

#[test]
fn other_functions_and_classes_are_names_and_run_nothing() {
    let touch = text("touch owned");
    let (system, counter) = (b"cos\nsystem\n", b"ccollections\nCounter\n");
    assert_eq!(object(&[system]), "os.system");
    assert_eq!(object(&[system, &touch, b"\x85R"]), "os.system");
    let stack_global = [&text("builtins")[..], &text("eval"), b"\x93"].concat();
    assert_eq!(object(&[&stack_global]), "builtins.eval");
    // REDUCE, NEWOBJ, NEWOBJ_EX, INST, OBJ, then a state, items to append and to add.
    assert_eq!(
        object(&[counter, b"}K\x05K\x01s\x85R"]),
        "collections.Counter"
    );
    assert_eq!(object(&[b"ca.b\nC\n)\x81}b"]), "a.b.C");
    assert_eq!(object(&[b"ca.b\nC\n)}\x92Nb"]), "a.b.C");
    assert_eq!(object(&[b"(K\x01ia.b\nC\n"]), "a.b.C");
    assert_eq!(object(&[b"(ca.b\nC\nK\x01o}b"]), "a.b.C");
    assert_eq!(object(&[b"ca\ndeque\n)R(NNeNa"]), "a.deque");
    assert_eq!(object(&[b"\x8f(K\x01K\x02\x90"]), "builtins.set");
    assert_eq!(object(&[b"(K\x01\x91"]), "builtins.frozenset");
    // What is called may be the result of a call; and some functions make objects of their first argument.
    assert_eq!(object(&[b"cbuiltins\ngetattr\n)R)R"]), "builtins.getattr");
    let reconstruct =
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(tb";
    assert_eq!(object(&[reconstruct]), "numpy.ndarray");
    // Names nearly those of the functions that are known.
    assert_eq!(object(&[b"ctorch\nFloatTensor\n"]), "torch.FloatTensor");
    assert_eq!(
        object(&[b"cCollections\nOrderedDict\n)R"]),
        "Collections.OrderedDict"
    );
    // An escape sequence in a name does not reach the terminal.
    assert_eq!(object(&[b"cos\x1b[2J\nsystem\n"]), "os\\u{1b}[2J.system");
}

#[test]
fn an_object_filled_like_a_dict_is_one() {
    let pair = [&text("w")[..], b"K\x07"].concat();
    let dict = Value::Dict(vec![(Value::Str("w".into()), Value::Int(7))]);
    for class in [
        &b"cmmcv\nConfigDict\n)\x81"[..],
        b"ccollections\nOrderedDict\n)R",
        b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85R",
    ] {
        assert_eq!(load(&[class, &pair, b"s}b"]).unwrap(), dict);
        assert_eq!(load(&[class, b"(", &pair, b"u"]).unwrap(), dict);
    }
}

#[test]
fn tensors_of_unknown_kinds_are_objects() {
    let plain = tensor(b"K\0", b"K\x06\x85", b"K\x01\x85");
    let complex = b"ctorch\nComplexFloatStorage\n";
    let complex = tensor_in(complex, b"K\0", b"K\x06\x85", b"K\x01\x85");
    assert_eq!(object(&[&complex]), "torch.ComplexFloatStorage");
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n",
        &complex[..],
        b"\x88N\x87R",
    ];
    assert_eq!(object(&parameter), "torch.ComplexFloatStorage");
    // With attributes, as torch._tensor.Tensor.__reduce_ex__ writes them.
    let of_class = |class: &[u8]| {
        let call = b"ctorch._utils\n_rebuild_tensor_v2\n";
        let arguments = &plain[call.len()..plain.len() - 1];
        let function = b"ctorch._tensor\n_rebuild_from_type_v2\n(";
        [&function[..], call, class, arguments, b"}tR"].concat()
    };
    let attributes = load(&[&of_class(b"ctorch._tensor\nTensor\n")]).unwrap();
    assert_eq!(attributes.kind(), "tensor float32 [6]");
    assert_eq!(object(&[&of_class(b"cao\nQuantized\n")]), "ao.Quantized");
    let state = [
        b"ctorch._utils\n_rebuild_parameter_with_state\n(",
        &plain[..],
        b"\x88N}tR",
    ];
    assert_eq!(load(&state).unwrap().kind(), "tensor float32 [6]");
}

#[test]
fn what_python_2_and_longer_lengths_spell_otherwise() {
    assert_eq!(load(&[b"U\x02ab"]).unwrap(), Value::Str("ab".into()));
    assert_eq!(
        load(&[b"T\x01\0\0\0\xff"]).unwrap(),
        Value::Bytes((*b"\xff").into())
    );
    let eight = b"\x01\0\0\0\0\0\0\0a";
    assert_eq!(load(&[b"\x8d", eight]).unwrap(), Value::Str("a".into()));
    for opcode in [b"\x8e", b"\x96"] {
        assert_eq!(
            load(&[opcode, eight]).unwrap(),
            Value::Bytes((*b"a").into())
        );
    }
    assert_eq!(load(&[b"K\x05N0(NN1"]).unwrap(), Value::Int(5));
    assert_eq!(object(&[b"c_codecs\nencode\nNN\x86R"]), "builtins.bytes");
}

#[test]
fn instructions_outside_the_list_are_refused() {
    // EXT1, PERSID, INT, NEXT_BUFFER
    for opcode in *b"\x82PI\x97" {
        assert!(matches!(
            load(&[&[opcode]]),
            Err(PickleError::Opcode { opcode: found, at: 2 }) if found == opcode
        ));
    }
}

#[test]
fn other_protocols_are_refused() {
    for protocol in [0, 1, 6, 255] {
        let bytes = [0x80, protocol, b'N', b'.'];
        let error = unpickle(&mut &bytes[..]).unwrap_err();
        assert!(matches!(error, PickleError::Protocol { found, .. } if found == protocol));
    }
}

#[test]
fn known_functions_are_called_only_with_their_arguments() {
    let calls: [&[u8]; 11] = [
        b"K\x01)R",
        b"cos\nsystem\nNR",
        b"ctorch\nFloatStorage\n)R",
        b"ctorch\nSize\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch._utils\n_rebuild_parameter\nK\x01\x88N\x87R",
        b"ctorch._tensor\n_rebuild_from_type_v2\n)R",
        b"K\x01Nb",
        b"K\x01)\x81",
        b"ca\nB\nN\x81",
        b"(o",
    ];
    for call in calls {
        assert!(matches!(load(&[call]), Err(PickleError::Malformed { .. })));
    }
}

#[test]
fn declared_lengths_take_no_memory() {
    for pickle in [&b"X\xff\xff\xff\xff"[..], b"B\xff\xff\xff\x7f"] {
        let error = unpickle(&mut &pickle[..]).unwrap_err();
        assert!(matches!(error, PickleError::TooLong { .. }));
    }
    let error = unpickle(&mut &b"X\0\0\xf0\0abc"[..]).unwrap_err();
    assert!(matches!(error, PickleError::Truncated { at: 8 }));
}

#[test]
fn an_endless_pickle_is_too_long() {
    for opcode in *b"(N" {
        let error = unpickle(&mut io::repeat(opcode)).unwrap_err();
        assert!(matches!(error, PickleError::TooManyValues { .. }));
    }
    let mut memos = b"N".chain(io::repeat(0x94));
    let error = unpickle(&mut memos).unwrap_err();
    assert!(matches!(error, PickleError::TooManyValues { .. }));
    let error = unpickle(&mut io::repeat(0x95)).unwrap_err(); // FRAME makes nothing
    assert!(matches!(error, PickleError::TooLong { .. }));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| load(&[&b"]".repeat(depth), &b"a".repeat(depth - 1)]);
    assert!(nested(MAX_DEPTH + 1).is_ok());
    assert!(matches!(
        nested(MAX_DEPTH + 2),
        Err(PickleError::TooDeep { .. })
    ));
    assert!(matches!(
        nested(1_000_000),
        Err(PickleError::TooDeep { .. })
    ));
    assert!(matches!(
        load(&[b"]q\0h\0a"]),
        Err(PickleError::TooDeep { .. })
    ));
}

#[test]
fn sharing_does_not_multiply() {
    // Each list holds the one before it ten times: 10^40 values in 1 kB.
    let mut laughs = b"]q\0".to_vec();
    for level in 1..=40_u8 {
        laughs.extend(b"](");
        laughs.extend([b'h', level - 1].repeat(10));
        laughs.extend([b'e', b'q', level]);
    }
    assert!(matches!(
        load(&[&laughs]),
        Err(PickleError::TooManyValues { .. })
    ));
    // A list that holds itself a million times.
    let selves = load(&[b"]q\0(", &b"h\0".repeat(1_000_000), b"e"]);
    assert!(matches!(selves, Err(PickleError::TooManyValues { .. })));
    // A long string shared is one string.
    let long = "x".repeat(1 << 20);
    let shared = load(&[&text(&long), b"q\0](", &b"h\0".repeat(1000), b"e"]);
    let Ok(Value::List(items)) = shared else {
        panic!("wanted a list");
    };
    let (Value::Str(first), Value::Str(last)) = (&items[0], &items[999]) else {
        panic!("wanted strings");
    };
    assert!(Arc::ptr_eq(first, last));
}

#[test]
fn a_long_key_that_many_dicts_share_is_hashed_once() {
    // Half a million dicts with a key of 1 MB: 500 GB, if each looked at it.
    let key = text(&"k".repeat(1 << 20));
    let one = load(&[b"}", &key, b"Nsq\0](", &b"h\0".repeat(500_000), b"e"]);
    assert_eq!(one.unwrap().kind(), "list of 500000");
    let many = load(&[b"](", &key, b"q\0", &b"}h\0Ns".repeat(300_000), b"e"]);
    assert_eq!(many.unwrap().kind(), "list of 300001");
    // The same text twice in the pickle is still one key.
    let twice = load(&[b"}(", &key, b"N", &key, b"Nu"]).unwrap_err();
    let message = twice.to_string();
    assert!(message.contains("kkk...\" is in one dict twice") && message.len() < 400);
}

#[test]
fn long_arguments_are_not_copied_for_each_call() {
    let call = b"ccollections\nOrderedDict\nh\0R";
    let calls = [&call[..], b"0"].concat().repeat(100_000);
    let made = load(&[b"(", &b"N".repeat(100_000), b"tq\0", &calls, b"N"]);
    assert_eq!(made.unwrap(), Value::None);
}

#[test]
fn a_memo_slot_takes_no_memory_for_those_below_it() {
    assert_eq!(
        load(&[b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff"]).unwrap(),
        Value::None
    );
    assert!(load(&[b"h\0"]).is_err());
}

#[test]
fn the_stack_does_not_underflow() {
    let pickles = b"|t|e|u|a|s|b|R|Q|q\0|(|\x87|\x93|N(\x85|}Ns|}(Nu|]K\x01s|}K\x01a|NQ|NN\x93";
    for pickle in pickles.split(|&byte| byte == b'|') {
        assert!(
            matches!(load(&[pickle]), Err(PickleError::Malformed { .. })),
            "{pickle:?}"
        );
    }
}

#[test]
fn shapes_strides_and_offsets_count_from_zero() {
    let ok = tensor(b"K\0", b"K\x06\x85", b"K\x01\x85");
    assert!(load(&[&ok]).is_ok());
    let minus_one = b"J\xff\xff\xff\xff";
    let tuple = [&minus_one[..], b"\x85"].concat();
    for bad in [
        tensor(minus_one, b"K\x06\x85", b"K\x01\x85"),
        tensor(b"K\0", &tuple, b"K\x01\x85"),
        tensor(b"K\0", b"K\x06\x85", &tuple),
        tensor(b"K\0", b"K\x06\x85", b"K\x01K\x01\x86"),
        tensor(b"N", b"K\x06\x85", b"K\x01\x85"),
        tensor(b"K\0", b"](K\x06e", b"K\x01\x85"),
    ] {
        assert!(matches!(load(&[&bad]), Err(PickleError::Malformed { .. })));
    }
}

#[test]
fn a_storage_id_is_checked() {
    let id = |kind: &str, class: &[u8], tail: &[u8]| {
        load(&[
            b"(",
            &text(kind),
            class,
            &text("0"),
            &text("cpu"),
            tail,
            b"tQ",
        ])
    };
    let float = b"ctorch\nFloatStorage\n";
    assert_eq!(
        id("storage", float, b"K\x06").unwrap(),
        Value::Opaque(PyName::new("torch", "FloatStorage"))
    );
    assert!(id("storage", float, b"K\x06N").is_ok());
    assert!(id("module", float, b"K\x06").is_err());
    assert!(id("storage", b"ctorch\nSize\n", b"K\x06").is_err());
    // Files from before torch 1.6 name a network's class and its source so.
    let module = [
        &text("module")[..],
        b"ca\nNet\n",
        &text("a.py"),
        &text("class Net"),
    ]
    .concat();
    assert_eq!(object(&[b"(", &module, b"tQ"]), "a.Net");
    assert!(id("storage", float, b"K\x06K\x01").is_err());
    assert!(id("storage", float, b"J\xff\xff\xff\xff").is_err());
    // Keys are compared for each tensor, so they are short.
    let keyed = |key: &str| load(&[b"(", &text("storage"), float, &text(key), b"NK\x06tQ"]);
    assert!(keyed(&"0".repeat(256)).is_ok());
    assert!(keyed(&"0".repeat(257)).is_err());
}

#[test]
fn duplicate_keys_are_refused() {
    let twice = load(&[b"}(", &text("a"), b"N", &text("a"), b"Nu"]);
    assert_eq!(
        twice.unwrap_err().to_string(),
        "the key \"a\" is in one dict twice; do not trust this file"
    );
    let ints = load(&[b"}(K\x01NM\x01\0Nu"]);
    assert!(matches!(ints, Err(PickleError::DuplicateKey { .. })));
    assert!(load(&[b"}(K\x01N", &text("1"), b"Nu"]).is_ok());
}

#[test]
fn wide_integers_are_objects_and_bad_text_is_refused() {
    let wide = b"\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    assert_eq!(object(&[b"\x8a", wide]), "builtins.int");
    assert_eq!(object(&[b"\x8b\x0a\0\0\0", &wide[1..]]), "builtins.int");
    assert_eq!(load(&[b"\x8b\x01\0\0\0\xff"]).unwrap(), Value::Int(-1));
    let bad = load(&[b"X\x02\0\0\0\xc3\x28"]);
    assert!(matches!(bad, Err(PickleError::NotUtf8 { .. })));
}

#[test]
fn kinds_are_short() {
    assert_eq!(Value::Int(5).kind(), "int 5");
    assert_eq!(Value::Float(1.0).kind(), "float 1.0");
    assert_eq!(Value::Dict(vec![]).kind(), "dict of 0");
    let long = Value::Str("\u{e9}".repeat(1000).into());
    assert!(long.kind().chars().count() < 50);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        drop(unpickle(&mut &bytes[..]));
    }

    #[test]
    fn no_instructions_panic(
        picks in proptest::collection::vec(proptest::sample::select(
            b"NKJMGXBCTU])}(t01io\x81\x92\x8f\x90\x91\x85\x86\x87aesuqrhjcQRb\x80\x88\x89\x8a\x8b\x8c\x93\x94\x95.\0\x01\x02\n"
                .to_vec()
        ), 0..200)
    ) {
        drop(unpickle(&mut &picks[..]));
    }
}

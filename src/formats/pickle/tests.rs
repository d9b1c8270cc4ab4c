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
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        b"ctorch\nFloatStorage\n",
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

#[test]
fn imports_outside_the_list_are_refused_by_name() {
    let global = load(&[b"cos\nsystem\n", &text("touch owned"), b"\x85R"]);
    assert!(global.unwrap_err().to_string().contains("\"os.system\""));
    let stack_global = load(&[&text("builtins"), &text("eval"), b"\x93"]);
    let message = stack_global.unwrap_err().to_string();
    assert!(message.contains("\"builtins.eval\""));
    let near = load(&[b"ctorch\nFloatTensor\n"]);
    assert!(matches!(near, Err(PickleError::Import { .. })));
    // An escape sequence in a name does not reach the terminal.
    let escape = load(&[b"cos\x1b[2J\nsystem\n"]).unwrap_err().to_string();
    assert!(!escape.contains('\x1b'));
}

#[test]
fn instructions_outside_the_list_are_refused() {
    // NEWOBJ, INST, OBJ, EXT1, PERSID, BINUNICODE8, LONG4, NEXT_BUFFER
    for opcode in *b"\x81io\x82P\x8d\x8b\x97" {
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
fn only_known_functions_are_called_and_only_with_their_arguments() {
    let calls: [&[u8]; 7] = [
        b"K\x01)R",
        b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R",
        b"ctorch\nFloatStorage\n)R",
        b"ctorch\nSize\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch._utils\n_rebuild_parameter\nK\x01\x88N\x87R",
        b"K\x01Nb",
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
    let error = load(&[b"(", &b"N".repeat(100_000), b"tq\0", call]).unwrap_err();
    assert!(matches!(error, PickleError::Malformed { .. }));
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
        Value::Opaque("FloatStorage")
    );
    assert!(id("storage", float, b"K\x06N").is_ok());
    assert!(id("module", float, b"K\x06").is_err());
    assert!(id("storage", b"ctorch\nSize\n", b"K\x06").is_err());
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
fn wide_integers_and_bad_text_are_refused() {
    let wide = load(&[b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"]);
    assert!(matches!(wide, Err(PickleError::BigInt { bytes: 10, .. })));
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
            b"NKJMGXBC])}(t\x85\x86\x87aesuqrhjcQRb\x80\x88\x89\x8a\x8c\x93\x94\x95.\0\x01\x02\n".to_vec()
        ), 0..200)
    ) {
        drop(unpickle(&mut &picks[..]));
    }
}

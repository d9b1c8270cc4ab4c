//! Pickles that are programs, bombs, or describe impossible tensors.

use ddpm::formats::pickle::Value;
use ddpm::formats::pt::{self, PtFile};
use ddpm::formats::read_state_dict;

use crate::build::*;
use crate::readers::{legacy_of, with_file, zip_of};

fn read_pt(bytes: &[u8]) -> PtFile {
    with_file("file.pt", bytes, pt::read).unwrap()
}

/// Asserts that what the pieces make is refused in both containers.
#[track_caller]
fn refused_object(pieces: &[u8], words: &str) {
    // Files from before torch 1.6 hold no storage that their pickle does not name.
    let named = [&storage("ByteStorage", "0", 24)[..], b"0"].concat();
    refused_pickle(&pickle(&[&named, pieces]), words);
}

// Programs.

#[test]
fn imports_and_calls_are_names_and_run_nothing() {
    let _bound = memory_bound();
    let marker = std::env::temp_dir().join(format!("ddpm-hostile-{}", std::process::id()));
    let command = text(&format!("touch {}", marker.display()));
    let call = |module: &str, name: &str| {
        let global = format!("c{module}\n{name}\n");
        [global.as_bytes(), &command, b"\x85R"].concat()
    };
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "exec"),
        ("__builtin__", "eval"),
        ("subprocess", "Popen"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.serialization", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch", "load"),
        ("torch", "UntypedStorage"),
        ("collections", "OrderedDict.__class__"),
        ("Collections", "OrderedDict"),
    ] {
        let shown = module.replace("__builtin__", "builtins");
        let words = format!("object {shown}.{name}");
        let call = call(module, name);
        // Alone, as a value, as a key, as an argument of a call.
        let ordered = b"ccollections\nOrderedDict\n";
        refused_object(&call, &words);
        refused_object(&[b"}", &text("w")[..], &call, b"s"].concat(), &words);
        let keyed = [b"}", &call[..], b"Ns"].concat();
        refused_object(&keyed, "without distinct text keys");
        let wrapped = [ordered, &call[..], b"\x85R"].concat();
        refused_object(&wrapped, "object collections.OrderedDict");
        // As the state of an object, which is dropped.
        let state = pickle(&[ordered, b")R", &call, b"b"]);
        assert_eq!(read_pt(&zip_pickle(&state)).root, Value::Dict(vec![]));
        let short = |text: &str| [b"\x8c", &[text.len() as u8][..], text.as_bytes()].concat();
        let stack = [
            &short(module)[..],
            &short(name),
            b"\x93",
            &command,
            b"\x85R",
        ]
        .concat();
        let protocol_4 = [b"\x80\x04", &stack[..], b"."].concat();
        refused("stack.pt", &zip_pickle(&protocol_4), &words);
    }
    assert!(!marker.exists());
}

#[test]
fn instructions_that_make_objects_make_names() {
    let _bound = memory_bound();
    let class = b"cos\nsystem\n";
    for instruction in [
        b"(ios\nsystem\n".to_vec(),            // INST
        [b"(", &class[..], b"o"].concat(),     // OBJ
        [&class[..], b")\x81"].concat(),       // NEWOBJ
        [&class[..], b")}\x92"].concat(),      // NEWOBJ_EX
        [&class[..], b")\x81}(NNub"].concat(), // BUILD
    ] {
        refused_object(&instruction, "object os.system");
    }
    refused_object(b"\x8f(N\x90", "object builtins.set");
    for (instruction, words) in [
        (b"\x82\x01".to_vec(), "instruction 0x82"),       // EXT1
        (b"\x83\x01\0".to_vec(), "instruction 0x83"),     // EXT2
        (b"\x84\x01\0\0\0".to_vec(), "instruction 0x84"), // EXT4
        (b"P0\n".to_vec(), "instruction 0x50"),           // PERSID
        (b"S'x'\n".to_vec(), "instruction 0x53"),         // STRING
        (b"I1\n".to_vec(), "instruction 0x49"),           // INT
        (b"\x8d\0\0\0\0\0\0\0\x80".to_vec(), "is longer than"), // BINUNICODE8
        (b"\x8b\xff\xff\xff\x7f".to_vec(), "is longer than"), // LONG4
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
            "is longer than",
        ), // BINBYTES8
        (
            b"\x96\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            "is longer than",
        ), // BYTEARRAY8
    ] {
        refused_pickle(&pickle(&[&instruction]), words);
    }
    // A FRAME is a hint, and a lie in it is one in a hint.
    let framed = [b"\x80\x04\x95", &[0xff; 8][..], b"}."].concat();
    assert_eq!(read_pt(&zip_pickle(&framed)).root, Value::Dict(vec![]));
}

#[test]
fn the_state_of_an_object_changes_nothing() {
    let _bound = memory_bound();
    let state = dict_of(&[("__class__", text("os")), ("__reduce__", text("system"))]);
    let state = &state[2..state.len() - 1];
    let ordered = b"ccollections\nOrderedDict\n)R";
    let built = read_pt(&zip_pickle(&pickle(&[ordered, state, b"b"])));
    assert_eq!(built.root, Value::Dict(vec![]));
    let tensor = view(&storage("ByteStorage", "0", 24), 0, &[24], &[1]);
    refused_pickle(
        &pickle(&[&tensor, state, b"b"]),
        "should hold a dict to fill",
    );
    refused_pickle(&pickle(&[b"ctorch\nSize\n", state, b"b"]), "a dict to fill");
}

#[test]
fn a_storage_is_named_by_one_kind_of_tuple() {
    let _bound = memory_bound();
    let class = b"ctorch\nByteStorage\n";
    let words = "('storage', class, key, location, numel) as a persistent id";
    for id in [
        b"K\x01".to_vec(),
        b")".to_vec(),
        b"](K\x01e".to_vec(),
        [b"(", &text("storage")[..], class, &text("0"), b"t"].concat(),
        [
            b"(",
            &text("module")[..],
            class,
            &text("0"),
            &text("cpu"),
            b"K\x18t",
        ]
        .concat(),
        [
            b"(",
            &text("storage")[..],
            &text("0"),
            class,
            &text("cpu"),
            b"K\x18t",
        ]
        .concat(),
        [b"(", &b"N".repeat(100)[..], b"t"].concat(),
    ] {
        refused_pickle(&pickle(&[&id, b"Q"]), words);
    }
    let long = storage("ByteStorage", &"0".repeat(257), 24);
    refused_pickle(&pickle(&[&long]), "a storage name of at most 256 bytes");
}

// Bombs.

#[test]
fn nesting_and_selves_are_refused() {
    let _bound = memory_bound();
    let words = "nests deeper than 100, or contains itself";
    refused_pickle(&pickle(&[b")", &b"\x85".repeat(1_000_000)]), words);
    refused_pickle(
        &pickle(&[&b"}N".repeat(100_000), b"N", &b"s".repeat(100_000)]),
        words,
    );
    refused_pickle(&pickle(&[b"]q\0h\0a"]), words); // a list in itself
    refused_pickle(&pickle(&[b"}q\0Nh\0s"]), words); // a dict in itself
    refused_pickle(&pickle(&[b"]q\0}Nh\0sa"]), words); // in turn
    refused_pickle(&pickle(&[b"]q\0h\0\x85a"]), words);
}

#[test]
fn sharing_multiplies_neither_memory_nor_work() {
    let _bound = memory_bound();
    let words = "makes more than 2000000 objects";
    // Ten times ten times ...: tuples, and dicts.
    let mut tuples = b")q\0".to_vec();
    let mut dicts = b"}q\0".to_vec();
    for level in 1..=40_u8 {
        let shared = [b'h', level - 1];
        tuples.extend([b"(", &shared.repeat(10)[..], b"tq", &[level]].concat());
        let items: Vec<u8> = (0..10)
            .flat_map(|key| [b'K', key, b'h', level - 1])
            .collect();
        dicts.extend([b"}(", &items[..], b"uq", &[level]].concat());
    }
    refused_pickle(&pickle(&[&tuples]), words);
    refused_pickle(&pickle(&[&dicts]), words);
    refused_pickle(&pickle(&[&b"(".repeat(3_000_000)]), words);
    // A key of 1 MB in half a million dicts. Looked at each time it would be 500 GB.
    let key = text(&"k".repeat(1 << 20));
    let shared = [b"}", &key[..], b"Nsq\0](", &b"h\0".repeat(500_000), b"e"].concat();
    refused(
        "keys.pt",
        &zip_pickle(&pickle(&[&shared])),
        "its names and texts take more than",
    );
    let fresh = [b"](", &key[..], b"q\0", &b"}h\0Ns".repeat(300_000), b"e"].concat();
    refused(
        "keys.pt",
        &zip_pickle(&pickle(&[&fresh])),
        "its names and texts take more than",
    );
}

#[test]
fn the_densest_pickles_take_bounded_memory() {
    let _bound = memory_bound();
    let words = "makes more than 2000000 objects";
    let fill = |start: &[u8], item: &[u8], end: &[u8]| {
        let room = (16 << 20) - start.len() - end.len() - 3;
        pickle(&[start, &item.repeat((room / item.len()).min(1_999_000)), end])
    };
    // Half a million tensors, two million dicts of one item, all in the memo.
    let scalar = view(&storage("ByteStorage", "0", 24), 0, &[], &[]);
    let reduce = scalar.len() - 1;
    let call = [&scalar[..reduce], b"q\0"].concat();
    let function = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let start = [b"](", &function[..], b"q\x01", &call[function.len()..]].concat();
    let refused = |pickle: &[u8], words| refused("dense.pt", &zip_pickle(pickle), words);
    refused(&fill(&start, b"h\x01h\0R", b"e"), words);
    refused(&fill(b"](Nq\0", b"}h\0h\0s\x94", b"e"), words);
    refused(&fill(b"](Nq\0", b"N\x94h\0h\0h\0", b"e"), words);
    let gets = b"h\0".repeat(6_000_000);
    refused(&fill(b"](", b"N\x94", &gets), "found None");
    // Two million objects, each with a pair, and as many names of the longest kind.
    refused(
        &fill(
            b"](ca\nB\nq\0Nq\x01)q\x02",
            b"h\0h\x02\x81h\x01h\x01s",
            b"e",
        ),
        words,
    );
    let name = text(&"n".repeat(256));
    let names = [&b"]("[..], &name, b"q\0"].concat();
    refused(
        &fill(&names, b"h\0h\0\x93", b"e"),
        "names and texts take more than",
    );
}

#[test]
fn views_cost_no_more_than_the_file_allows() {
    let _bound = memory_bound();
    let storage_bytes = 1 << 20;
    let id = storage("ByteStorage", "0", storage_bytes);
    // Two elements that span the storage, in 50,000 tensors: 50 GB to read.
    let stepped = view(&id, 0, &[2], &[storage_bytes - 1]);
    let items: Vec<Vec<u8>> = (0..50_000)
        .map(|name| [text(&name.to_string()), b"h\0".to_vec()].concat())
        .collect();
    let pickle = pickle(&[b"}(", &text("w"), &stepped, b"q\0", &items.concat(), b"u"]);
    let data = vec![0; storage_bytes as usize];
    let words = "bytes in memory, the limit for this file is";
    refused(
        "stepped.pt",
        &zip_of(&[("a/data.pkl", &pickle), ("a/data/0", &data)]),
        words,
    );
    refused("stepped.pt", &legacy_of(&pickle, &data), words);
}

#[test]
fn views_that_cannot_be_are_refused_in_both_containers() {
    let _bound = memory_bound();
    let bytes = storage("ByteStorage", "0", 24);
    let max = i64::MAX;
    for (offset, shape, strides, words) in [
        (-1, vec![1], vec![1], "an integer of 0 or more"),
        (i64::MIN, vec![1], vec![1], "an integer of 0 or more"),
        (0, vec![-24], vec![1], "an integer of 0 or more"),
        (23, vec![24], vec![-1], "an integer of 0 or more"),
        (0, vec![25], vec![1], "its storage holds 24"),
        (max, vec![2], vec![1], "its storage holds 24"),
        (max, vec![], vec![], "its storage holds 24"),
        (1, vec![2, 2], vec![max, 1], "its storage holds 24"),
        (0, vec![3, 3], vec![2, 2], "overlaps itself"),
        (0, vec![3, 3], vec![max, max], "overlaps itself"),
        (
            0,
            vec![3, 3],
            vec![1, max],
            "more bytes than a machine can address",
        ),
        (
            0,
            vec![max, max],
            vec![0, 0],
            "more bytes than a machine can address",
        ),
        (
            0,
            vec![1 << 40],
            vec![0],
            "the limit for this file is 1048576",
        ),
        (0, vec![2], vec![1, 1], "one stride for each dimension"),
    ] {
        refused_pickle(&weights(view(&bytes, offset, &shape, &strides)), words);
    }
    let many = vec![1; 65];
    refused_pickle(
        &weights(view(&bytes, 0, &many, &many)),
        "at most 64 dimensions",
    );
}

#[test]
fn storages_that_are_not_as_named_are_refused() {
    let _bound = memory_bound();
    let zip = |class: &str, key: &str, numel: i64, data: &[u8]| {
        let view = view(&storage(class, key, numel), 0, &[1], &[1]);
        zip_of(&[("a/data.pkl", &weights(view)), ("a/data/0", data)])
    };
    for (class, numel) in [
        ("ByteStorage", 23),
        ("ByteStorage", i64::MAX),
        ("FloatStorage", 24),
        ("DoubleStorage", 1 << 61), // times 8: 2^64
        ("LongStorage", 0),
    ] {
        refused(
            "zip.pt",
            &zip(class, "0", numel, &[0; 24]),
            "found 24 bytes",
        );
    }
    for key in ["1", "../0", "", "0\0", "data.pkl", "\u{1b}[2J"] {
        refused(
            "zip.pt",
            &zip("ByteStorage", key, 24, &[0; 24]),
            "is not in the file",
        );
    }
    refused(
        "zip.pt",
        &zip("ByteStorage", "0", -1, &[]),
        "an integer of 0 or more",
    );
    refused(
        "zip.pt",
        &zip("BoolStorage", "0", 1, &[2]),
        "a bool is stored as 0 or 1, found 2",
    );
    // Two dtypes may look at one storage, as long as both fit it.
    let two = |numel: i64| {
        let bytes = view(&storage("ByteStorage", "0", 24), 0, &[24], &[1]);
        let floats = view(&storage("FloatStorage", "0", numel), 0, &[numel], &[1]);
        zip_pickle(&dict_of(&[("bytes", bytes), ("floats", floats)]))
    };
    let read = with_file("file.pt", &two(6), |path| read_state_dict(path).unwrap());
    assert_eq!(read.len(), 2);
    refused("zip.pt", &two(7), "should hold 7 x float32, found 24 bytes");
}

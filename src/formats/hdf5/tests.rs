//! Against a file of Keras's own, whole and damaged, and against files built to trap a reader.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::*;

/// Byte 0 of the group node, in files from [`Trap`].
const NODE: usize = 96 + 40;

fn keras_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/peers/keras_C_model.weights")
}

/// Opens a file and reads all it names.
fn read_all(path: &Path) -> Result<usize> {
    let file = Hdf5File::open(path)?;
    for (name, ..) in file.tree() {
        file.read(name)?;
    }
    Ok(file.tree().len())
}

/// The error of a file with these bytes; it must name the file.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.weights");
    fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", read_all(&path).unwrap_err());
    assert!(error.contains("bad.weights"), "{error}");
    error
}

/// A root group with one symbol table node of these entries: offsets of names in the heap, and
/// addresses of headers. The heap holds `names`.
struct Trap {
    entries: Vec<(u64, u64)>,
    names: Vec<u8>,
    after: Vec<u8>,
}

impl Trap {
    /// Where the root group's header is.
    const ROOT: u64 = 96;

    /// Where `after` begins.
    fn after_at(&self) -> usize {
        NODE + 48 + 32 + self.names.len() + 8 + 40 * self.entries.len()
    }

    fn bytes(&self) -> Vec<u8> {
        let heap = NODE + 48;
        let symbols = heap + 32 + self.names.len();
        let end = self.after_at() + self.after.len();
        let mut out = MAGIC.to_vec();
        out.extend([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0, 0, 0, 0, 0]);
        put(
            &mut out,
            &[0, u64::MAX, end as u64, u64::MAX, 0, Self::ROOT],
        );
        put(&mut out, &[1, 0, 0]);
        // The root group's header: one message of kind 0x11.
        out.extend([1, 0, 1, 0, 1, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0]);
        out.extend([0x11, 0, 16, 0, 0, 0, 0, 0]);
        put(&mut out, &[NODE as u64, heap as u64]);
        out.extend(*b"TREE\0\0\x01\0");
        put(&mut out, &[u64::MAX, u64::MAX, 0, symbols as u64, 0]);
        out.extend(*b"HEAP\0\0\0\0");
        put(&mut out, &[self.names.len() as u64, 1, heap as u64 + 32]);
        out.extend(&self.names);
        out.extend(*b"SNOD\x01\0");
        out.extend((self.entries.len() as u16).to_le_bytes());
        for &(name, header) in &self.entries {
            put(&mut out, &[name, header, 0, 0, 0]);
        }
        out.extend(&self.after);
        out
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

/// The header of a dataset of `count` f32 at `start`.
fn dataset(count: u64, start: u64) -> Vec<u8> {
    let mut out = vec![1, 0, 3, 0, 1, 0, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0];
    out.extend([1, 0, 16, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
    put(&mut out, &[count]);
    out.extend([3, 0, 24, 0, 0, 0, 0, 0]);
    out.extend([0x11, 0x20, 0x1f, 0, 4, 0, 0, 0, 0, 0, 32, 0]);
    out.extend([23, 8, 0, 23, 127, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([8, 0, 24, 0, 0, 0, 0, 0, 3, 1]);
    put(&mut out, &[start, count.saturating_mul(4)]);
    out.extend([0; 6]);
    out
}

#[test]
fn keras_file_is_read_whole_and_in_order() {
    let file = Hdf5File::open(&keras_file()).unwrap();
    assert_eq!(file.tree().len(), 32);
    let convs: Vec<&str> = (file.tree().iter())
        .filter(|(name, ..)| name.starts_with("conv2d"))
        .map(|(name, ..)| name.split('/').next().unwrap())
        .collect();
    let wanted: Vec<String> = (1..=12).map(|n| format!("conv2d_{n}")).collect();
    assert_eq!(convs, wanted);

    let kernel = "conv2d_4/conv2d_4/kernel:0";
    let listed = file.tree().iter().find(|(name, ..)| name == kernel);
    assert_eq!(listed.unwrap().2, [3, 3, 32, 64]);
    // gamma begins at 1.
    let gamma = file.read("group_norm_2/group_norm_2/gamma:0").unwrap();
    assert_eq!((gamma.dtype, &gamma.shape[..]), (Dtype::F32, &[64][..]));
    assert!(
        gamma
            .data
            .chunks(4)
            .all(|value| value == 1f32.to_le_bytes())
    );

    assert_eq!(file.layers().len(), 47);
    assert_eq!(file.layers()[1], "embedding_1");
    let error = format!("{:#}", file.read("conv2d_4").unwrap_err());
    assert!(error.contains("conv2d_4 from"), "{error}");
    assert!(error.contains("keras_C_model.weights"), "{error}");
}

#[test]
fn digits_in_names_count_as_numbers() {
    let mut names = [
        "b_10",
        "b_9",
        "b",
        "b_9/x",
        "a_11",
        "b_010",
        "b_1000000000000000000000000",
    ];
    names.sort_by(|a, b| natural_order(a, b));
    let sorted = [
        "a_11",
        "b",
        "b_9",
        "b_9/x",
        "b_010",
        "b_10",
        "b_1000000000000000000000000",
    ];
    assert_eq!(names, sorted);
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_it() {
    let whole = fs::read(keras_file()).unwrap();
    for percent in 0..100 {
        let error = refusal(&whole[..whole.len() * percent / 100]);
        let reason = if percent == 0 {
            "not an HDF5"
        } else {
            "cut short"
        };
        assert!(error.contains(reason), "{percent} %: {error}");
    }
    // Cut, and its own length made to fit: some piece is missing then.
    for percent in 10..100 {
        let mut cut = whole[..whole.len() * percent / 100].to_vec();
        let len = (cut.len() as u64).to_le_bytes();
        cut[40..48].copy_from_slice(&len);
        refusal(&cut);
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let whole = fs::read(keras_file()).unwrap();
    let file = Hdf5File::open(&keras_file()).unwrap();
    let in_data = |at: u64| {
        file.places
            .iter()
            .any(|&(start, len)| (start..start + len).contains(&at))
    };
    let structure: Vec<u64> = (0..whole.len() as u64).filter(|&at| !in_data(at)).collect();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.weights");
    fs::write(&path, &whole).unwrap();
    let copy = fs::File::options().write(true).open(&path).unwrap();
    let put = |at: u64, byte: u8| {
        (&copy).seek(SeekFrom::Start(at)).unwrap();
        (&copy).write_all(&[byte]).unwrap();
    };
    let mut random = 1u64;
    let mut below = |bound: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % bound
    };
    let mut refused = 0;
    for _ in 0..500 {
        let places: Vec<u64> = (0..16).map(|_| structure[below(structure.len())]).collect();
        for &at in &places {
            put(at, below(256) as u8);
        }
        refused += usize::from(read_all(&path).is_err());
        for &at in &places {
            put(at, whole[at as usize]);
        }
    }
    assert!(refused > 100, "only {refused} of 500 noticed");
    assert_eq!(read_all(&path).unwrap(), 32);
}

/// A file with datasets `a`, `b`, … : `header` makes their headers from where the data stand, all
/// at the same place.
fn small_file(count: usize, data: &[u8], header: impl Fn(u64) -> Vec<u8>) -> Trap {
    let mut file = Trap {
        entries: vec![(0, 0); count],
        names: b"a\0b\0c\0d\0".to_vec(),
        after: Vec::new(),
    };
    let at = file.after_at();
    let size = header(0).len();
    for n in 0..count {
        file.entries[n] = (2 * n as u64, (at + n * size) as u64);
        file.after.extend(header((at + count * size) as u64));
    }
    file.after.extend(data);
    file
}

#[test]
fn a_small_file_is_read() {
    let data: Vec<u8> = [1f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = small_file(1, &data, |at| dataset(2, at));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.weights");
    fs::write(&path, file.bytes()).unwrap();
    let small = Hdf5File::open(&path).unwrap();
    assert_eq!(small.tree(), [("a".to_owned(), Dtype::F32, vec![2])]);
    assert_eq!(small.read("a").unwrap().data, data);
    assert!(small.layers().is_empty());
}

#[test]
fn data_that_cannot_be_there_are_refused() {
    let of_size = |count| refusal(&small_file(1, &[0; 8], |at| dataset(count, at)).bytes());
    assert!(of_size(1 << 60).contains("not all in the file"));
    assert!(of_size(u64::MAX / 2).contains("more bytes than a machine"));
    let unwritten = small_file(1, &[], |_| dataset(2, u64::MAX));
    assert!(refusal(&unwritten.bytes()).contains("never written"));

    let overlap = small_file(2, &[0; 4000], |at| dataset(1000, at));
    assert!(refusal(&overlap.bytes()).contains("datasets overlap"));
    let mut twice = small_file(2, &[0; 8], |at| dataset(2, at));
    twice.entries[1].1 = twice.entries[0].1;
    assert!(refusal(&twice.bytes()).contains("two names for one"));
    let mut same_name = small_file(2, &[0; 8], |at| dataset(2, at));
    same_name.entries[1].0 = 0;
    assert!(refusal(&same_name.bytes()).contains("of the name a"));
}

#[test]
fn structures_that_go_in_circles_are_refused() {
    let cycle = Trap {
        entries: vec![(0, Trap::ROOT)],
        names: b"loop\0\0\0\0".to_vec(),
        after: Vec::new(),
    };
    assert!(refusal(&cycle.bytes()).contains("a cycle"));

    // Two thousand entries share one name of 64 KiB: 128 MiB from a file of 150 kB.
    let long = Trap {
        entries: vec![(0, Trap::ROOT); 2000],
        names: vec![b'x'; 1 << 16],
        after: Vec::new(),
    };
    assert!(refusal(&long.bytes()).contains("longer than 255 bytes"));
    let shared = Trap {
        entries: vec![(0, Trap::ROOT); 2000],
        names: [&[b'x'; 255][..], &[0]].concat(),
        after: Vec::new(),
    };
    assert!(refusal(&shared.bytes()).contains("structures overlap"));
    let mut steering = small_file(1, &[0; 8], |at| dataset(2, at));
    steering.names[0] = 0x1b;
    assert!(refusal(&steering.bytes()).contains("control character"));

    // The node of the B-tree is its own child, a level below itself.
    let mut tree = cycle.bytes();
    tree[NODE + 5] = 200;
    tree[NODE + 32..NODE + 40].copy_from_slice(&(NODE as u64).to_le_bytes());
    assert!(refusal(&tree).contains("level"));
}

#[test]
fn other_dialects_are_refused_by_what_they_are() {
    let changed = |offset: usize, byte: u8| {
        let file = small_file(1, &[0; 8], |at| {
            let mut header = dataset(2, at);
            header[offset] = byte;
            header
        });
        refusal(&file.bytes())
    };
    assert!(changed(0, 2).contains("object header of version 2"));
    assert!(changed(48, 0x13).contains("class 3"));
    assert!(changed(49, 0x21).contains("little-endian"));
    assert!(changed(80, 4).contains("layout of version 4"));
    assert!(changed(81, 2).contains("chunks"));
    assert!(changed(60, 10).contains("not IEEE"));
    assert!(changed(2, 4).contains("lacks 1"));

    let mut steering = fs::read(keras_file()).unwrap();
    let find = |bytes: &[u8], words: &[u8]| bytes.windows(words.len()).position(|w| w == words);
    let names = find(&steering, b"layer_names\0").unwrap();
    let name = names + find(&steering[names..], b"conv2d_1\0").unwrap();
    steering[name] = 0x1b;
    assert!(refusal(&steering).contains("a layer's name holds control characters"));

    let mut newer = fs::read(keras_file()).unwrap();
    newer[8] = 3;
    assert!(refusal(&newer).contains("superblock of version 3"));
    assert!(refusal(b"PK\x03\x04 and so on").contains("50, 4b"));
}

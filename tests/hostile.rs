//! Files made to harm: each is refused by a message that names it, and nothing in it runs.
//!
//! What one reader does with one odd value is tested beside that reader. Here whole files go
//! through the public API, every find of the fuzzer (`fuzz/corpus`) among them, and each test is held
//! to a bound of memory.

#[path = "hostile/archives.rs"]
mod archives;
#[path = "hostile/build.rs"]
mod build;
#[path = "hostile/headers.rs"]
mod headers;
#[path = "hostile/networks.rs"]
mod networks;
#[path = "hostile/pickles.rs"]
mod pickles;
#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, reason = "a library there, a module here")]
mod readers;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

/// A target of the fuzzer: the name of its corpus, and what reads a file of it.
type Target = (&'static str, fn(&[u8]));
const TARGETS: [Target; 11] = [
    ("pickle", readers::pickle),
    ("torch_file", readers::torch_file),
    ("safetensors", readers::safetensors),
    ("config_json", readers::config_json),
    ("hdf5", readers::hdf5),
    ("ddcm", readers::ddcm),
    ("run_folder", readers::run_folder),
    ("numpy", readers::numpy),
    ("images", readers::images),
    ("labels", readers::labels),
    ("serve", readers::serve),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(name)
}

/// What the fuzzer starts with and what it found, sorted.
fn corpus(target: &str) -> Vec<PathBuf> {
    let files = ["seeds", "corpus"].map(|kind| {
        let files = std::fs::read_dir(folder(kind).join(target)).expect("the fuzzer's files");
        let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 1, "the {kind} of {target} are gone");
        files
    });
    let mut files = files.concat();
    files.sort();
    files
}

fn seed(name: &str) -> Vec<u8> {
    std::fs::read(folder("seeds").join(name)).expect("a seed of the fuzzer")
}

#[test]
fn the_corpus_of_the_fuzzer_breaks_nothing() {
    let _bound = build::memory_bound();
    for (target, read) in TARGETS {
        for file in corpus(target) {
            read(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn files_of_torch_cut_short_anywhere_are_refused() {
    let _bound = build::memory_bound();
    for (file, name) in [
        ("torch_file/zip_flat", "cut.pt"),
        ("torch_file/zip_views", "cut.pt"),
        ("torch_file/legacy_flat", "cut.pt"),
        ("safetensors/flat", "cut.safetensors"),
    ] {
        let whole = seed(file);
        for percent in 0..100 {
            build::refusal(name, &whole[..whole.len() * percent / 100]);
        }
        build::refusal(name, &whole[..whole.len() - 1]);
    }
}

/// Longest file that changes make: what a file may make the readers allocate is bounded for small ones, and five
/// repeats of fifty times would make gigabytes of any.
const MAX_CHANGED_BYTES: usize = 4 << 20;

/// One change of a file.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Number(Index, u64),
    Cut(Index, Index),
    Repeat(Index, Index, usize),
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let number = prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 31), any::<u64>()];
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), number).prop_map(|(at, number)| Change::Number(at, number)),
        (at(), at()).prop_map(|(from, to)| Change::Cut(from, to)),
        (at(), at(), 2..50_usize).prop_map(|(from, to, times)| Change::Repeat(from, to, times)),
        (at(), at(), at()).prop_map(|(at, from, to)| Change::Splice(at, from, to)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, other: &[u8]) {
        let place = |index: &Index| index.index(bytes.len() + 1);
        let range = |a: &Index, b: &Index, len: usize| {
            let (a, b) = (a.index(len + 1), b.index(len + 1));
            a.min(b)..a.max(b)
        };
        match self {
            Self::Flip(at, bit) => {
                let at = place(at);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << bit);
            }
            Self::Set(at, new) => {
                let at = place(at);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = *new);
            }
            Self::Number(at, number) => {
                let at = place(at);
                let number = number.to_le_bytes();
                bytes
                    .iter_mut()
                    .skip(at)
                    .zip(number)
                    .for_each(|(byte, new)| *byte = new);
            }
            Self::Cut(from, to) => drop(bytes.drain(range(from, to, bytes.len()))),
            Self::Repeat(from, to, times) => {
                let range = range(from, to, bytes.len());
                let room = MAX_CHANGED_BYTES.saturating_sub(bytes.len());
                let times = (*times).min(1 + room / range.len().max(1));
                let block = bytes[range.clone()].repeat(times);
                drop(bytes.splice(range, block));
            }
            Self::Splice(at, from, to) => {
                let at = place(at);
                drop(bytes.splice(at..at, other[range(from, to, other.len())].to_vec()));
            }
        }
    }
}

proptest! {
    #[test]
    fn changed_files_break_nothing(
        (file, other) in any::<(Index, Index)>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let _bound = build::memory_bound();
        for (target, read) in TARGETS {
            let files = corpus(target);
            let mut bytes = std::fs::read(file.get(&files)).unwrap();
            let other = std::fs::read(other.get(&files)).unwrap();
            for change in &changes {
                change.apply(&mut bytes, &other);
            }
            read(&bytes);
        }
    }

    #[test]
    fn random_bytes_break_nothing(
        bytes: Vec<u8>,
        start in prop::sample::select(vec![
            &b""[..],
            b"PK\x03\x04",
            readers::LEGACY_MAGIC,
            b"\x10\0\0\0\0\0\0\0{",
            b"\x89HDF\r\n\x1a\n",
            b"{",
        ])
    ) {
        let _bound = build::memory_bound();
        for (_, read) in TARGETS {
            read(&[start, &bytes].concat());
        }
    }
}

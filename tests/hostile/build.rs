//! Builders of hostile pickles, archives and headers, and checks of refusals.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ddpm::formats::read_state_dict;
use ddpm::interop::describe;
use peak_alloc::PeakAlloc;

use crate::readers::{legacy_of, zip_of};

/// Most that a hostile file may make the readers allocate. The longest pickle that is read, full
/// of objects, needs about a third of it.
const MAX_ALLOCATED_BYTES: usize = 512 << 20;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
static ALONE: Mutex<()> = Mutex::new(());

/// Holds the test to [`MAX_ALLOCATED_BYTES`] until dropped; such tests run one at a time.
pub(crate) struct MemoryBound(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

pub(crate) fn memory_bound() -> MemoryBound {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    MEMORY.reset_peak_usage();
    MemoryBound(alone)
}

impl Drop for MemoryBound {
    fn drop(&mut self) {
        let peak = MEMORY.peak_usage();
        if !std::thread::panicking() {
            assert!(peak <= MAX_ALLOCATED_BYTES, "{peak} bytes at the peak");
        }
    }
}

/// The whole chain of the error from reading the bytes as a file `name`.
///
/// The message has to name the file, and reading may leave nothing else in its folder.
pub(crate) fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = read_state_dict(&path) else {
        panic!("{name} was read: {:?}", bytes.escape_ascii().to_string());
    };
    drop(describe(&path));
    only_file(folder.path());
    let message = format!("{error:#}");
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

fn only_file(folder: &Path) {
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

/// Asserts that the file is refused with a message that contains `words`.
#[track_caller]
pub(crate) fn refused(name: &str, bytes: &[u8], words: &str) {
    let message = refusal(name, bytes);
    assert!(message.contains(words), "wanted {words:?} in {message:?}");
}

/// Asserts that the pickle is refused in both containers.
#[track_caller]
pub(crate) fn refused_pickle(pickle: &[u8], words: &str) {
    refused("zip.pt", &zip_pickle(pickle), words);
    refused("legacy.pt", &legacy_of(pickle, &[0; 24]), words);
}

/// An archive with this pickle and a storage "0" of 24 bytes.
pub(crate) fn zip_pickle(pickle: &[u8]) -> Vec<u8> {
    zip_of(&[("a/data.pkl", pickle), ("a/data/0", &[0; 24])])
}

// Pickles.

/// The pieces as one pickle of protocol 2.
pub(crate) fn pickle(pieces: &[&[u8]]) -> Vec<u8> {
    [b"\x80\x02", &pieces.concat()[..], b"."].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

pub(crate) fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn ints(values: &[i64]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|&value| int(value)).collect();
    [b"(", &values.concat()[..], b"t"].concat()
}

/// A persistent id: storage `key` of a class such as "FloatStorage".
pub(crate) fn storage(class: &str, key: &str, numel: i64) -> Vec<u8> {
    [
        &b"("[..],
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        &int(numel),
        b"tQ",
    ]
    .concat()
}

/// A call of `_rebuild_tensor_v2`.
pub(crate) fn view(storage: &[u8], offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        storage,
        &int(offset),
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A pickle of a dict.
pub(crate) fn dict_of(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<Vec<u8>> = items
        .iter()
        .map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    pickle(&[b"}(", &items.concat(), b"u"])
}

/// A pickle of `{"w": view}`.
pub(crate) fn weights(view: Vec<u8>) -> Vec<u8> {
    dict_of(&[("w", view)])
}

// Bytes.

/// Overwrites the bytes at `offset` from the `nth` place where `signature` stands.
pub(crate) fn patch(
    bytes: &[u8],
    signature: &[u8],
    nth: usize,
    offset: usize,
    new: &[u8],
) -> Vec<u8> {
    let at = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(signature))
        .nth(nth)
        .expect("the signature");
    let mut patched = bytes.to_vec();
    patched[at + offset..][..new.len()].copy_from_slice(new);
    patched
}

/// A safetensors file of this header and this many bytes of data.
pub(crate) fn safetensors_of(header: impl AsRef<[u8]>, data_bytes: usize) -> Vec<u8> {
    let header = header.as_ref();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, &vec![0; data_bytes]].concat()
}

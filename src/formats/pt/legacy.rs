//! The file of torch before 1.6.
//!
//! Pickles of a magic number, 1001, the machine's sizes, the object, and the list of storage keys;
//! then for each key a 64-bit count of elements and the elements.

use std::collections::HashMap;
use std::io::{BufReader, Seek, SeekFrom};

use super::Result;
use super::source::{Extent, Source};
use crate::formats::CheckpointError;
use crate::formats::pickle::{Pickled, Value, unpickle};

/// First bytes of an older file: the pickle, protocol 2, of the integer 0x1950a86a20f9469cfc6c.
pub(in super::super) const LEGACY_MAGIC: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Second pickle of an older file.
const LEGACY_PROTOCOL: i64 = 1001;

pub(super) fn read_legacy(source: &Source) -> Result<(Value, HashMap<String, Extent>)> {
    let mut reader = BufReader::new(&source.file);
    reader
        .seek(SeekFrom::Start(LEGACY_MAGIC.len() as u64))
        .map_err(|error| source.io("read", error))?;
    let mut next = || unpickle(&mut reader).map_err(|error| source.pickle(error));
    let version = next()?.root;
    if version != Value::Int(LEGACY_PROTOCOL) {
        let wanted = LEGACY_PROTOCOL.to_string();
        return Err(legacy(source, "version", wanted, version.kind()));
    }
    let machine = next()?.root;
    if machine.get("little_endian") != Some(&Value::Bool(true)) {
        return Err(CheckpointError::ByteOrder {
            path: source.path.clone(),
            found: "\"big\"".to_owned(),
        });
    }
    let object = next()?;
    let keys = next()?.root;
    let start = reader
        .stream_position()
        .map_err(|error| source.io("read", error))?;
    let storages = legacy_storages(source, &object, &keys, start)?;
    Ok((object.root, storages))
}

/// Walks the storages, one after the other from `at` on.
fn legacy_storages(
    source: &Source,
    object: &Pickled,
    keys: &Value,
    mut at: u64,
) -> Result<HashMap<String, Extent>> {
    let bad_keys = || {
        let wanted = "a list of the storages in use, each once".to_owned();
        legacy(source, "storage list", wanted, keys.kind())
    };
    let Value::List(keys) = keys else {
        return Err(bad_keys());
    };
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Str(key) = key else {
            return Err(bad_keys());
        };
        let storage = object.storages.get(key).ok_or_else(bad_keys)?;
        let count = source.extent(format!("length of storage {key}"), at, 8, None)?;
        let mut numel = [0; 8];
        numel.copy_from_slice(&source.whole(&count)?);
        let numel = u64::from_le_bytes(numel);
        if numel != storage.numel as u64 {
            let wanted = storage.numel.to_string();
            return Err(legacy(
                source,
                "length of a storage",
                wanted,
                numel.to_string(),
            ));
        }
        let bytes = numel.saturating_mul(storage.dtype.size_bytes() as u64);
        let extent = source.extent(format!("storage {key}"), at + 8, bytes, None)?;
        at = extent.start + extent.bytes;
        if storages.insert(key.to_string(), extent).is_some() {
            return Err(bad_keys());
        }
    }
    Ok(storages)
}

fn legacy(source: &Source, part: &'static str, wanted: String, found: String) -> CheckpointError {
    CheckpointError::Legacy {
        path: source.path.clone(),
        part,
        wanted,
        found,
    }
}

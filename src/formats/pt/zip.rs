//! The zip archive of torch 1.6 and later: FOLDER/data.pkl, FOLDER/byteorder, FOLDER/data/KEY.
//!
//! A TorchScript archive has the same entries, which hold its modules' attributes, and its program besides, in
//! FOLDER/code and FOLDER/constants.pkl: where such archives are read at all, these are passed over.

use std::collections::HashMap;
use std::io::BufReader;

use ::zip::read::{ArchiveOffset, Config};
use ::zip::{CompressionMethod, ZipArchive};

use super::Result;
use super::source::{Extent, Source};
use crate::formats::CheckpointError;
use crate::formats::pickle::{MAX_PICKLE_BYTES, Objects, PickleError, Value, unpickle_as};
use crate::text::shown;

/// First bytes of a zip archive.
pub(in super::super) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Reads the archive's directory and its pickle; of a TorchScript archive, if `scripts` are allowed, the attributes of
/// its modules.
pub(super) fn read_zip(source: &Source, scripts: bool) -> Result<(Value, HashMap<String, Extent>)> {
    let (mut entries, is_script) = zip_entries(source, scripts)?;
    let folder = zip_folder(source, &entries)?;
    if let Some(extent) = entries.get(&format!("{folder}/byteorder")) {
        check_byte_order(source, extent)?;
    }
    let pickle = &entries[&format!("{folder}/data.pkl")];
    if pickle.bytes > MAX_PICKLE_BYTES {
        return Err(source.pickle(PickleError::TooLong {
            limit: MAX_PICKLE_BYTES,
        }));
    }
    let pickle = source.whole(pickle)?;
    let objects = if is_script {
        Objects::Attributes
    } else {
        Objects::Names
    };
    let root = unpickle_as(&mut &pickle[..], objects)
        .map_err(|error| source.pickle(error))?
        .root;
    let prefix = format!("{folder}/data/");
    let storages = entries
        .drain()
        .filter_map(|(name, extent)| Some((name.strip_prefix(&prefix)?.to_owned(), extent)))
        .collect();
    Ok((root, storages))
}

/// Every entry of the archive, by name, and whether it is TorchScript; without the program of one.
fn zip_entries(source: &Source, scripts: bool) -> Result<(HashMap<String, Extent>, bool)> {
    let zip_error = |error| CheckpointError::Zip {
        path: source.path.clone(),
        source: error,
    };
    // The archive starts with the file. Left to look for its start, the zip crate tries each pair of
    // a directory's ends in the file, and a few megabytes of such ends take minutes.
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let reader = BufReader::new(&source.file);
    let mut archive = ZipArchive::with_config(config, reader).map_err(zip_error)?;
    let is_script = |name: &[u8]| name.ends_with(b"/constants.pkl");
    let is_script = archive.file_names_raw().any(is_script);
    if is_script && !scripts {
        return Err(CheckpointError::TorchScript {
            path: source.path.clone(),
        });
    }
    let mut duplicate = archive.has_duplicate_names();
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(zip_error)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let stored = entry.compression() == CompressionMethod::Stored
            && entry.compressed_size() == entry.size()
            && !entry.encrypted();
        if is_script && is_program(&name) {
            continue;
        }
        if !stored {
            return Err(CheckpointError::NotStored {
                path: source.path.clone(),
                entry: shown(&name),
            });
        }
        // torch has an option to omit the checksum, and then writes 0.
        let crc = Some(entry.crc32()).filter(|&crc| crc != 0);
        let start = entry.data_start().unwrap_or(u64::MAX);
        let extent = source.extent(shown(&name), start, entry.size(), crc)?;
        duplicate |= entries.insert(name, extent).is_some();
    }
    let path = || source.path.clone();
    if duplicate {
        return Err(CheckpointError::DuplicateEntries { path: path() });
    }
    // Checksums of overlapping entries would cost the file's length for each of them.
    if archive.has_overlapping_entries().map_err(zip_error)? {
        return Err(CheckpointError::OverlappingEntries { path: path() });
    }
    Ok((entries, is_script))
}

/// True for an entry of a TorchScript archive that holds its program, which torch compresses.
fn is_program(name: &str) -> bool {
    let in_folder = name.split_once('/').map_or(name, |(_, rest)| rest);
    ["code/", "constants/", "extra/"]
        .iter()
        .any(|program| in_folder.starts_with(program))
}

/// The folder that holds `data.pkl`: the file's stem when it was saved, or "archive".
fn zip_folder(source: &Source, entries: &HashMap<String, Extent>) -> Result<String> {
    let folders: Vec<&str> = entries
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .filter(|folder| !folder.contains('/'))
        .collect();
    match folders[..] {
        [folder] => Ok(folder.to_owned()),
        _ => Err(CheckpointError::NoPickle {
            path: source.path.clone(),
            found: folders.len(),
        }),
    }
}

fn check_byte_order(source: &Source, extent: &Extent) -> Result<()> {
    let order = source.slice(extent, 0, extent.bytes.min(16) as usize)?;
    if order != b"little" {
        return Err(CheckpointError::ByteOrder {
            path: source.path.clone(),
            found: format!("{:?}", String::from_utf8_lossy(&order)),
        });
    }
    Ok(())
}

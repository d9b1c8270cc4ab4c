//! Zip archives, stored or deflated.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::members::Members;
use super::{Wanted, arrays, bad};
use crate::data::archive::Archive;
use crate::data::entry::{Member, Packing, Start};
use crate::data::error::DataError;
use crate::data::listing::Listing;

/// The images of an archive, or of an `.npz` file, which is one.
///
/// Only the directory at its end is read.
///
/// # Errors
/// A directory that is missing, as in a file that is cut short, or damaged; no images.
pub(super) fn list(path: &Path, wanted: Wanted) -> Result<Listing, DataError> {
    let archive = Arc::new(Archive::plain(path)?);
    let file = archive.open()?;
    // Left to look for the archive's start, the crate tries each pair of a directory's ends, which can take minutes.
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let zip = ZipArchive::with_config(config, BufReader::new(file));
    let zip = zip.map_err(|error| {
        bad(
            path,
            format!("no directory of the archive: {error}; cut short or damaged"),
        )
    })?;
    if zip.file_names_raw().any(arrays::is_array_of_images) {
        return arrays::list(path, wanted);
    }
    let mut members = Members::new(archive.clone(), wanted);
    for index in 0..zip.len() {
        let entry = zip.by_index_data(index).map_err(|error| bad(path, error))?;
        if entry.is_dir() {
            continue;
        }
        if entry.is_symlink() {
            members.add_link(entry.name_raw());
            continue;
        }
        let packing = match entry.compression() {
            _ if entry.encrypted() => Err("encrypted".to_owned()),
            CompressionMethod::Stored => Ok(Packing::None),
            CompressionMethod::Deflated => Ok(Packing::Deflate),
            other => Err(format!(
                "packed by {other}, and only what is stored or deflated is read"
            )),
        };
        let member = packing.and_then(|packing| {
            let (packed_bytes, bytes) = (entry.compressed_size(), entry.size());
            let end = entry.header_start().checked_add(packed_bytes);
            if end.is_none_or(|end| end > archive.stamp().bytes)
                || (packing == Packing::None && packed_bytes != bytes)
            {
                return Err("forged: its place or length cannot be".to_owned());
            }
            Ok(Member {
                archive: archive.clone(),
                start: Start::ZipHeader(entry.header_start()),
                packed_bytes,
                bytes,
                packing,
                crc32: Some(entry.crc32()),
            })
        });
        members.add(entry.name_raw(), member);
    }
    if zip.has_duplicate_names() {
        members.names_occur_twice();
    }
    members.finish()
}

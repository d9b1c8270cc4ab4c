//! Tar archives, among them the shards of WebDataset.

use std::io::{BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use tar::EntryType;

use super::members::Members;
use super::{Wanted, bad};
use crate::data::archive::{Archive, Packed};
use crate::data::entry::{Member, Packing, Start};
use crate::data::error::DataError;
use crate::data::listing::Listing;

/// Where a header has its magic bytes, and its checksum.
const MAGIC: std::ops::Range<usize> = 257..262;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// True for the first 512 bytes of an archive: the magic bytes, or of older ones the checksum.
pub(super) fn is_tar(head: &[u8]) -> bool {
    if head.len() < 512 {
        return false;
    }
    if &head[MAGIC] == b"ustar" {
        return true;
    }
    // The checksum itself counts as spaces.
    let byte = |(i, byte): (usize, &u8)| match CHECKSUM.contains(&i) {
        true => u64::from(b' '),
        false => u64::from(*byte),
    };
    let sum: u64 = head.iter().enumerate().map(byte).sum();
    let digits = std::str::from_utf8(&head[CHECKSUM]).unwrap_or_default();
    let digits = digits.trim_matches([' ', '\0']);
    head[0] != 0 && u64::from_str_radix(digits, 8) == Ok(sum)
}

/// An archive that gzip packed.
///
/// # Errors
/// A file that cannot be opened.
pub(super) fn unpacking(path: &Path) -> std::io::Result<Archive> {
    Archive::packed(path, Packed::Gzip(None))
}

/// The images of an archive. Its headers are read, not what is between them.
///
/// # Errors
/// An archive that is cut short or damaged; no images.
pub(super) fn list(path: &Path, archive: Archive, wanted: Wanted) -> Result<Listing, DataError> {
    let archive = Arc::new(archive);
    let mut file = archive.open().map_err(|error| bad(path, error))?;
    file.rewind()?;
    let bytes = file.metadata()?.len();
    let mut tar = tar::Archive::new(BufReader::new(file));
    let mut members = Members::new(archive.clone(), wanted);
    let damaged = |error: std::io::Error, before: usize| {
        bad(
            path,
            format!("cut short or damaged after {before} members: {error}"),
        )
    };
    let entries = tar.entries_with_seek().map_err(|error| damaged(error, 0))?;
    for (before, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| damaged(error, before))?;
        let name = entry.path_bytes().into_owned();
        let start = entry.raw_file_position();
        let size = entry.size();
        let kind = entry.header().entry_type();
        let sparse = kind == EntryType::GNUSparse || is_sparse(&mut entry);
        let member = match kind {
            EntryType::Link | EntryType::Symlink => {
                members.add_link(&name);
                continue;
            }
            _ if sparse => Err("stored with holes (sparse), which is not read".to_owned()),
            EntryType::Regular | EntryType::Continuous => Ok(Member {
                archive: archive.clone(),
                start: Start::Data(start),
                packed_bytes: size,
                bytes: size,
                packing: Packing::None,
                crc32: None,
            }),
            // Folders, devices and pipes.
            _ => continue,
        };
        if !sparse && start.checked_add(size).is_none_or(|end| end > bytes) {
            let error = std::io::Error::other("the file ends within a member");
            return Err(damaged(error, before));
        }
        members.add(&name, member);
    }
    members.finish()
}

/// True for the headers by which newer archives describe holes.
fn is_sparse(entry: &mut tar::Entry<impl std::io::Read>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else {
        return false;
    };
    let key = |found: Result<tar::PaxExtension<'_>, _>| {
        found.is_ok_and(|found| found.key_bytes().starts_with(b"GNU.sparse."))
    };
    extensions.into_iter().any(key)
}

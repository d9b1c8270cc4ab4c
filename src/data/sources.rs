//! What a path of a data set holds, known by its content, and which images are in it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::archive::{Archive, gunzip};
use super::error::DataError;
use super::labels;
use super::listing::{self, Listing};
use crate::config::{ImageRules, Sources};
use crate::fs::open_regular;
use crate::text::one_line;

mod arrays;
mod braces;
mod cifar;
mod idx;
mod members;
mod records;
mod tarred;
#[cfg(test)]
mod tests;
mod zipped;

/// Bytes from which a kind of file is known: a tar header.
const HEAD_BYTES: u64 = 512;

/// What a caller wants of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) rules: ImageRules,
    /// The classes that the source itself says are read too.
    pub(super) labels: bool,
}

/// The images of all sources: those of each in their own order.
///
/// Of several sources each has a name, which the names of its images begin with.
///
/// # Errors
/// A source that does not exist, is of no kind that is read, is damaged, or has no images.
pub(super) fn list(sources: &Sources, wanted: Wanted) -> Result<Listing, DataError> {
    let mut places = Vec::new();
    for path in sources.paths() {
        places.extend(braces::expand(path)?);
    }
    if let [place] = &places[..] {
        return list_one(place, wanted);
    }
    let (mut all, mut names) = (Listing::default(), HashSet::new());
    for place in places {
        let mut found = list_one(&place, wanted)?;
        let prefix = name_of(&place, &mut names);
        for entry in &mut found.entries {
            entry.name = [prefix.as_bytes(), b"/", &entry.name].concat().into();
            entry.below = prefix.len() + 1;
        }
        all.add_all(found);
    }
    Ok(all)
}

/// A name for a source among others: that of its file without endings, with a number if others have it.
fn name_of(place: &Path, names: &mut HashSet<String>) -> String {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let mut name = name.strip_suffix(".gz").unwrap_or(&name);
    if place.is_file() {
        name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    }
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| names.insert(name.clone()))
        .unwrap_or_default()
}

/// The images of one source.
fn list_one(path: &Path, wanted: Wanted) -> Result<Listing, DataError> {
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.is_file() => list_file(path, wanted),
        // Says what is wrong where it is neither.
        _ => list_folder(path, wanted),
    }
}

/// The images of a folder; if it has none, those of the files of bare pixels in it.
fn list_folder(dir: &Path, wanted: Wanted) -> Result<Listing, DataError> {
    let mut listing = match listing::list(dir, wanted.rules) {
        Err(error @ DataError::NoImages { .. }) => {
            if let Some(found) = cifar::list_folder(dir, wanted)? {
                return Ok(found);
            }
            let found = idx::list_folder(dir, wanted)?;
            return found.ok_or(error);
        }
        listing => listing?,
    };
    let path = dir.join(members::DATASET_JSON);
    if wanted.labels && path.is_file() {
        let text = crate::fs::read_regular(&path, labels::MAX_FILE_BYTES)?;
        members::apply_dataset_json(&mut listing, &path, &text)?;
    }
    Ok(listing)
}

/// The images of a file, by its first bytes.
fn list_file(path: &Path, wanted: Wanted) -> Result<Listing, DataError> {
    let bad = |error: std::io::Error| bad(path, error);
    let file = open_regular(path)?;
    let bytes = file.metadata()?.len();
    let head = head(file).map_err(bad)?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return zipped::list(path, wanted);
    }
    if head.starts_with(b"\x93NUMPY") {
        return arrays::list(path, wanted);
    }
    if tarred::is_tar(&head) {
        return tarred::list(path, Archive::plain(path)?, wanted);
    }
    if let Some(found) = cifar::list(path, bytes, wanted)? {
        return Ok(found);
    }
    if idx::is_idx(&head) {
        return idx::list(path, &head, None, wanted);
    }
    if head.starts_with(b"\x1f\x8b") {
        let unpacked = self::head(gunzip(open_regular(path)?));
        let unpacked =
            unpacked.map_err(|error| self::bad(path, format!("it does not unpack: {error}")))?;
        if tarred::is_tar(&unpacked) {
            return tarred::list(path, tarred::unpacking(path)?, wanted);
        }
        if idx::is_idx(&unpacked) {
            return idx::list(path, &unpacked, Some(bytes), wanted);
        }
    }
    Err(match name.ends_with(b".bin") {
        true => self::bad(path, cifar::not_cifar(bytes)),
        false => DataError::NoSource {
            path: path.to_owned(),
        },
    })
}

fn head(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    source.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// A source that cannot be used. Readers of archives quote names as they find them.
fn bad(path: &Path, reason: impl std::fmt::Display) -> DataError {
    DataError::BadSource {
        path: path.to_owned(),
        reason: one_line(&reason),
    }
}

/// Files of a folder whose name passes, sorted.
fn files_named(dir: &Path, passes: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&passes) && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// All bytes of a file, unpacked if gzip packed it, at most `most`.
fn read_maybe_packed(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file: File = open_regular(path)?;
    let packed = head(file)?.starts_with(b"\x1f\x8b");
    let file = open_regular(path)?;
    match packed {
        true => gunzip(file).take(most).read_to_end(&mut bytes)?,
        false => file.take(most).read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

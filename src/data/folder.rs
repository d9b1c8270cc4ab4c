//! Decodes the images of a folder or another source, part by part.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{ArrayView3, ArrayViewMut3};
use rayon::prelude::*;

use super::archive::Stamp;
use super::decode::{decode_place, is_ours};
use super::entry::{Entry, Place, Start};
use super::error::DataError;
use super::listing::Listing;
use super::manifest::{Manifest, escape, hash};
use super::remarks::{Remark, Remarks};
use super::spec::ImageSpec;
use crate::config::ImageRules;
use crate::text::{self, one_line};

/// Part of every fingerprint: raise it when the same file decodes to other bytes than before.
///
/// `pictures` is a word on disk: with another one every cache would be decoded again.
const FINGERPRINT_VERSION: &str = "pictures 1";

/// Number of failures that an error quotes.
const QUOTED_REASONS: usize = 3;

/// Bytes of decoded images held before they are passed on.
const PART_BYTES: usize = 64 << 20;

/// Minimum images of a part per thread, so that no thread waits long for the last one.
const PART_PER_THREAD: usize = 16;

/// Receives decoded images, some at a time: `[some, C, H, W]` u8.
pub(crate) type Take<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Result of decoding the images of a source.
#[derive(Debug)]
pub(crate) struct Folder {
    /// The path below the source of each image, in order, and its hash.
    pub(crate) manifest: Manifest,
    /// Files and folders that could not be read, and why.
    pub(crate) skipped: Vec<(PathBuf, String)>,
    /// What was noticed; nothing under the first rules.
    pub(crate) remarks: Remarks,
}

/// A decoded file.
struct Seen {
    hash: u64,
    remarks: Vec<Remark>,
}

/// Why a file is none of the images.
enum LeftOut {
    Unreadable(String),
    MadeByDdpm,
}

/// Decodes every image of a listing of `dir`, a folder or another source, on all threads of the current rayon pool, and passes the pixels
/// to `take`, some images at a time and in the order of [`list`].
///
/// Order and bytes do not depend on the number of threads. Files that cannot be read, and files that
/// make a decoder panic, are skipped and listed. Since the second rules, images that this program made are passed over
/// if there are others: a data set of them alone is wanted. `progress` is called once per file with the number of
/// files done so far, from any thread and sometimes out of order. Once `stop` is true no other file is begun.
///
/// Memory: 64 MiB of decoded images or 16 images per thread, and what [`decode`] uses on all threads together.
///
/// # Shapes
/// `take` receives `[some, channels, height, width]` u8.
///
/// # Errors
/// [`DataError::NoneReadable`], [`DataError::Spec`], [`DataError::Stopped`], and errors of `take`.
pub(crate) fn load(
    dir: &Path,
    listing: &Listing,
    spec: &ImageSpec,
    progress: &(dyn Fn(usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
    take: &mut Take,
) -> Result<Folder, DataError> {
    spec.check()?;
    let entries = &listing.entries;
    let part = (PART_BYTES / spec.bytes()).max(PART_PER_THREAD * rayon::current_num_threads());
    let mut pixels = vec![0; part.min(entries.len()) * spec.bytes()];
    let done = AtomicUsize::new(0);
    let (mut images, mut skipped) = (Vec::with_capacity(entries.len()), Vec::new());
    let mut remarks = Remarks::default();
    // A folder of ours alone is a data set, whatever cannot be read beside them.
    let is_other = |Entry { place, .. }: &Entry| {
        !is_ours(place) && guarded(|| decode_place(place, spec)).is_ok()
    };
    let leave_ours = spec.rules >= ImageRules::V2 && entries.iter().any(is_other);
    for entries in entries.chunks(part) {
        let outcomes = decode_all(entries, spec, leave_ours, &mut pixels, stop, &|| {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        });
        if stop() {
            return Err(DataError::Stopped);
        }
        let before = images.len();
        for (i, (entry, outcome)) in entries.iter().zip(outcomes).enumerate() {
            let name = || escape(&entry.name);
            match outcome {
                Ok(seen) => {
                    // Close the gaps left by unreadable images.
                    let slot = |n: usize| n * spec.bytes();
                    pixels.copy_within(slot(i)..slot(i + 1), slot(images.len() - before));
                    images.push((name(), seen.hash));
                    for remark in seen.remarks {
                        remarks.add(remark, name());
                    }
                }
                Err(LeftOut::Unreadable(reason)) => skipped.push((entry.path(), reason)),
                Err(LeftOut::MadeByDdpm) => remarks.add(Remark::MadeByDdpm, name()),
            }
        }
        take(&pixels[..(images.len() - before) * spec.bytes()])?;
    }
    if images.is_empty() {
        return Err(none_readable(dir, &skipped));
    }
    skipped.extend(listing.unreadable.iter().cloned());
    Ok(Folder {
        manifest: Manifest::new(images),
        skipped,
        remarks,
    })
}

/// Decodes each file into its place in `pixels`; `leave_ours`: but none that this program made. All results are
/// meaningless once `stop` is true.
fn decode_all(
    entries: &[Entry],
    spec: &ImageSpec,
    leave_ours: bool,
    pixels: &mut [u8],
    stop: &(dyn Fn() -> bool + Sync),
    done: &(dyn Fn() + Sync),
) -> Vec<Result<Seen, LeftOut>> {
    (pixels.par_chunks_exact_mut(spec.bytes()))
        .zip(entries)
        .map(|(slot, Entry { place, .. })| {
            if stop() {
                return Err(LeftOut::Unreadable(String::new()));
            }
            let outcome = match leave_ours && is_ours(place) {
                true => Err(LeftOut::MadeByDdpm),
                false => guarded(|| decode_into(slot, place, spec)).map_err(LeftOut::Unreadable),
            };
            done();
            outcome
        })
        .collect()
}

fn decode_into(slot: &mut [u8], place: &Place, spec: &ImageSpec) -> Result<Seen, DataError> {
    let decoded = decode_place(place, spec)?;
    to_planes(decoded.pixels.view(), slot);
    let mut remarks: Vec<Remark> = decoded.oddity.map(Remark::from).into_iter().collect();
    let mut planes = slot.chunks_exact(spec.height * spec.width);
    let one_colour = planes.all(|plane| plane.iter().all(|value| *value == plane[0]));
    // A data set of single pixels has nothing else.
    if one_colour && spec.height * spec.width > 1 {
        remarks.push(Remark::OneColour);
    }
    if spec.rules < ImageRules::V2 {
        remarks.clear();
    }
    Ok(Seen {
        hash: hash(slot),
        remarks,
    })
}

/// Runs a decoder on untrusted bytes: a panic in it is one unreadable file, not the end of the run.
///
/// The panic's message still goes to stderr: the panic hook belongs to the program.
fn guarded<T>(decode: impl FnOnce() -> Result<T, DataError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(outcome) => outcome.map_err(|error| reason(&error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("the decoder panicked: {text}"))
        }
    }
}

/// The cause in one line, without the path, which is shown beside it.
fn reason(error: &DataError) -> String {
    match error {
        DataError::Decode { source, .. } => one_line(source),
        DataError::Io(source) => one_line(source),
        DataError::TooLarge {
            width,
            height,
            bytes,
            limit,
            ..
        } => {
            format!("{width}x{height} pixels, {bytes} bytes to decode, above the limit of {limit}")
        }
        DataError::FileTooLong { bytes, limit, .. } => {
            format!("a file of {bytes} bytes, above the limit of {limit}")
        }
        other => other.to_string(),
    }
}

/// `[H, W, C]` to `[C, H, W]`.
fn to_planes(image: ArrayView3<u8>, planes: &mut [u8]) {
    let (height, width, channels) = image.dim();
    ArrayViewMut3::from_shape((channels, height, width), planes)
        .expect("room for one image")
        .assign(&image.permuted_axes([2, 0, 1]));
}

fn none_readable(dir: &Path, skipped: &[(PathBuf, String)]) -> DataError {
    let quote = |(path, reason): &(PathBuf, String)| format!("{}: {reason}", text::path(path));
    DataError::NoneReadable {
        dir: dir.to_owned(),
        count: skipped.len(),
        reasons: skipped.iter().take(QUOTED_REASONS).map(quote).collect(),
    }
}

/// Digest that changes with the images or `spec`: 64 hexadecimal digits.
///
/// Decides if decoded images from an earlier run are still valid. Covers each file's path below its source,
/// size and modification time, not its content, so that it needs only milliseconds; an edit that keeps
/// size and time goes unseen. Of an archive it covers these of the archive, and name, place and size of each member.
/// Moving the whole source changes nothing. A file deleted since listing counts as gone: when it is no longer listed,
/// or back, the digest differs.
pub(crate) fn fingerprint(entries: &[Entry], spec: &ImageSpec) -> String {
    let mut hasher = blake3::Hasher::new();
    // Each part with its length, so that different lists of parts never give the same bytes.
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(FINGERPRINT_VERSION.as_bytes());
    let ImageSpec {
        height,
        width,
        channels,
        resize,
        background,
        rules,
    } = spec;
    add(format!("{height}x{width}x{channels} {resize} {background}").as_bytes());
    // Caches of the first rules have no number.
    if !rules.are_unnamed() {
        add(format!("rules {}", i64::from(*rules)).as_bytes());
    }
    let mut archives = HashSet::new();
    for entry in entries {
        add(&entry.name);
        let stamp = match &entry.place {
            Place::File(path) => std::fs::metadata(path).and_then(|found| Stamp::of(&found)),
            Place::Member(member) => {
                let (Start::Data(at) | Start::ZipHeader(at)) = member.start;
                add(format!("member {at} {} {:?}", member.bytes, member.crc32).as_bytes());
                Ok(member.archive.stamp())
            }
            Place::Pixels(pixels) => {
                add(format!("pixels {} {:?}", pixels.start, pixels.order).as_bytes());
                Ok(pixels.archive.stamp())
            }
        };
        // Once for all of its members.
        if !matches!(entry.place, Place::File(_)) && !archives.insert(entry.place.file()) {
            continue;
        }
        match stamp {
            Ok(Stamp { bytes, modified }) => {
                add(&bytes.to_le_bytes());
                add(&modified.to_le_bytes());
            }
            Err(_) => add(b"gone"),
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;

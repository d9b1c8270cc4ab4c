//! Lists the image files of a folder and decodes them part by part.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use ndarray::{ArrayView3, ArrayViewMut3};
use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use super::decode::decode;
use super::error::DataError;
use super::manifest::{Manifest, escape, hash};
use super::spec::ImageSpec;

/// File name extensions of images, matched in any case.
pub(crate) const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];

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

/// Contents of a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Image files, ordered by the bytes of their path below the folder.
    pub(crate) files: Vec<PathBuf>,
    /// Folders and links that could not be followed, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// Receives decoded images, some at a time: `[some, C, H, W]` u8.
pub(crate) type Take<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Result of decoding the files of a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    /// The path below the folder of each image, in order, and its hash.
    pub(crate) manifest: Manifest,
    /// Files and folders that could not be read, and why.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

/// The image files in `dir` and below, in an order that does not depend on the file system.
///
/// Files count by their extension ([`EXTENSIONS`]). Links are followed; a link back to a folder above
/// it is skipped, and files reached through two links are listed twice. Below a link, however, a
/// folder is entered through links only once: a few folders full of links to one another would have
/// more paths than can ever be listed.
///
/// # Errors
/// [`DataError::NoSuchFolder`], [`DataError::NotAFolder`], [`DataError::NoImages`] and, when
/// `dir` itself cannot be opened, [`DataError::Io`].
pub(crate) fn list(dir: &Path) -> Result<Listing, DataError> {
    check_folder(dir)?;
    let mut listing = Listing::default();
    let mut links = Links::default();
    // In order, so that the first link does not depend on the file system.
    let entries = WalkDir::new(dir).follow_links(true).sort_by_file_name();
    for entry in entries.into_iter().filter_entry(|e| links.enter(e)) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_image(entry.path()) => {
                listing.files.push(entry.into_path());
            }
            Ok(_) => {}
            // A link back up: its images are already listed.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(dir).to_owned();
                let reason = error
                    .io_error()
                    .map_or(error.to_string(), ToString::to_string);
                listing.unreadable.push((path, reason));
            }
        }
    }
    if listing.files.is_empty() {
        let unreadable = listing.unreadable.len();
        return Err(DataError::NoImages {
            dir: dir.to_owned(),
            extensions: &EXTENSIONS,
            unreadable,
        });
    }
    listing
        .files
        .sort_by(|a, b| path_bytes(dir, a).cmp(path_bytes(dir, b)));
    listing.unreadable.sort();
    Ok(listing)
}

/// Linked folders entered so far, to skip the same one again below a link.
#[derive(Debug, Default)]
struct Links {
    /// The topmost link on the path to the current folder.
    outermost: Option<PathBuf>,
    /// Device and number of each folder entered through a link below `outermost`, and of its own.
    entered: HashSet<(u64, u64)>,
}

impl Links {
    /// True if this entry of a depth-first walk should be visited.
    fn enter(&mut self, entry: &DirEntry) -> bool {
        // The folder itself may be given as a link.
        if entry.depth() == 0 || !entry.path_is_symlink() || !entry.file_type().is_dir() {
            return true;
        }
        let below = |link: &PathBuf| entry.path().starts_with(link);
        if !self.outermost.as_ref().is_some_and(below) {
            self.outermost = Some(entry.path().to_owned());
            self.entered.clear();
        }
        // Unreadable entries are reported when the walk gets there.
        let metadata = entry.metadata();
        metadata.map_or(true, |m| self.entered.insert((m.dev(), m.ino())))
    }
}

fn check_folder(dir: &Path) -> Result<(), DataError> {
    match fs_err::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(DataError::NoSuchFolder {
                dir: dir.to_owned(),
            })
        }
        Err(error) => Err(error.into()),
        Ok(metadata) if !metadata.is_dir() => Err(DataError::NotAFolder {
            dir: dir.to_owned(),
        }),
        // Opening it tells "not permitted" from "nothing there".
        Ok(_) => Ok(fs_err::read_dir(dir).map(drop)?),
    }
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|wanted| ending.eq_ignore_ascii_case(wanted))
}

/// The path below `dir` as bytes, in whatever encoding.
fn path_bytes<'a>(dir: &Path, path: &'a Path) -> &'a [u8] {
    path.strip_prefix(dir)
        .unwrap_or(path)
        .as_os_str()
        .as_encoded_bytes()
}

/// Decodes every image of a listing of `dir`, on all threads of the current rayon pool, and passes the pixels
/// to `take`, some images at a time and in the order of [`list`].
///
/// Order and bytes do not depend on the number of threads. Files that cannot be read, and files that
/// make a decoder panic, are skipped and listed. `progress` is called once per file with the number of
/// files done so far, from any thread and sometimes out of order.
///
/// Memory: 64 MiB of decoded images or 16 images per thread, and what [`decode`] uses on all threads together.
///
/// # Shapes
/// `take` receives `[some, channels, height, width]` u8.
///
/// # Errors
/// [`DataError::NoneReadable`], [`DataError::Spec`], and errors of `take`.
pub(crate) fn load(
    dir: &Path,
    listing: Listing,
    spec: &ImageSpec,
    progress: &(dyn Fn(usize) + Sync),
    take: &mut Take,
) -> Result<Folder, DataError> {
    spec.check()?;
    let Listing { files, unreadable } = listing;
    let part = (PART_BYTES / spec.bytes()).max(PART_PER_THREAD * rayon::current_num_threads());
    let mut pixels = vec![0; part.min(files.len()) * spec.bytes()];
    let done = AtomicUsize::new(0);
    let (mut images, mut skipped) = (Vec::with_capacity(files.len()), Vec::new());
    for files in files.chunks(part) {
        let hashes = decode_all(files, spec, &mut pixels, &|| {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        });
        let before = images.len();
        for (i, (path, outcome)) in files.iter().zip(hashes).enumerate() {
            match outcome {
                Ok(hash) => {
                    // Close the gaps left by unreadable images.
                    let slot = |n: usize| n * spec.bytes();
                    pixels.copy_within(slot(i)..slot(i + 1), slot(images.len() - before));
                    images.push((escape(path_bytes(dir, path)), hash));
                }
                Err(reason) => skipped.push((path.clone(), reason)),
            }
        }
        take(&pixels[..(images.len() - before) * spec.bytes()])?;
    }
    if images.is_empty() {
        return Err(none_readable(dir, &skipped));
    }
    skipped.extend(unreadable);
    Ok(Folder {
        manifest: Manifest::new(images),
        skipped,
    })
}

/// Decodes each file into its place in `pixels`; returns the hash of its bytes, or why it cannot be read.
fn decode_all(
    files: &[PathBuf],
    spec: &ImageSpec,
    pixels: &mut [u8],
    done: &(dyn Fn() + Sync),
) -> Vec<Result<u64, String>> {
    (pixels.par_chunks_exact_mut(spec.bytes()))
        .zip(files)
        .map(|(slot, path)| {
            let outcome = guarded(|| {
                to_planes(decode(path, spec)?.view(), slot);
                Ok(hash(slot))
            });
            done();
            outcome
        })
        .collect()
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
        DataError::Decode { source, .. } => source.to_string(),
        DataError::Io(source) => source.to_string(),
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
    let quote = |(path, reason): &(PathBuf, String)| format!("{}: {reason}", path.display());
    DataError::NoneReadable {
        dir: dir.to_owned(),
        count: skipped.len(),
        reasons: skipped.iter().take(QUOTED_REASONS).map(quote).collect(),
    }
}

/// Digest that changes with the images or `spec`: 64 hexadecimal digits.
///
/// Decides if decoded images from an earlier run are still valid. Covers each file's path below `dir`,
/// size and modification time, not its content, so that it needs only milliseconds; an edit that keeps
/// size and time goes unseen. Moving the whole folder changes nothing. A file deleted since listing
/// counts as gone: when it is no longer listed, or back, the digest differs.
pub(crate) fn fingerprint(dir: &Path, files: &[PathBuf], spec: &ImageSpec) -> String {
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
    } = spec;
    add(format!("{height}x{width}x{channels} {resize} {background}").as_bytes());
    for path in files {
        add(path_bytes(dir, path));
        let stamp = |metadata: Metadata| Ok((metadata.len(), modified_nanos(&metadata)?));
        match std::fs::metadata(path).and_then(stamp) {
            Ok((length, modified)) => {
                add(&length.to_le_bytes());
                add(&modified.to_le_bytes());
            }
            Err(_) => add(b"gone"),
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Nanoseconds since 1970, negative before.
fn modified_nanos(metadata: &Metadata) -> std::io::Result<i128> {
    let nanos = |duration: Duration| duration.as_nanos() as i128;
    Ok(
        match metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => nanos(after),
            Err(before) => -nanos(before.duration()),
        },
    )
}

#[cfg(test)]
mod tests;

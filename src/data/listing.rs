//! Which files of a folder are images, by the rules of a run.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use walkdir::{DirEntry, WalkDir};

use super::entry::{Entry, Place};
use super::error::DataError;
use super::manifest::{MAGIC, escape};
use super::passed_over::PassedOver;
use crate::config::ImageRules;
use crate::text::one_line;

/// Endings of images under the first rules, in any case.
const ENDINGS_V1: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// Since the second: all usual names of the same formats.
const ENDINGS_V2: &[&str] = &[
    "png", "jpg", "jpeg", "webp", "bmp", "gif", "jfif", "jpe", "jif", "pjpeg", "pjp", "dib", "apng",
];

/// Longest ending of a name, bytes; what is longer is part of the name, as in `site.com_holiday_1`.
const MAX_ENDING: usize = 12;

/// Bytes from which a format is known.
pub(super) const HEAD_BYTES: u64 = 16;

/// Files and folders that systems put beside a user's, besides those whose name begins with a dot.
const SYSTEM_NAMES: [&str; 15] = [
    "__macosx",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "network trash folder",
    "temporary items",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
];

/// The images of a folder or another source, not yet decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// Images, ordered by the bytes of their path below the folder.
    pub(crate) entries: Vec<Entry>,
    /// What each source itself says of classes; of one alone, nothing may stand for a source that says nothing.
    pub(crate) said: Vec<Said>,
    /// What else is to be said.
    pub(crate) notices: Vec<String>,
    /// Files, folders and links that could not be followed or opened, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
    /// Everything else.
    pub(crate) passed_over: PassedOver,
}

/// What a source itself says of the classes of its images.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// True if it says them, or that there are none.
    pub(crate) classes: bool,
    /// Names of the classes that the images' labels number, where it has them.
    pub(crate) names: Option<Vec<String>>,
}

/// The image files in `dir` and below, in an order that does not depend on the file system.
///
/// Files count by their ending, or, where they have none and since the second rules, by their first bytes. Links are
/// followed; a link back to a folder above it is passed over, and files reached through two links are listed twice.
/// Below a link, however, a folder is entered through links only once: a few folders full of links to one another
/// would have more paths than can ever be listed.
///
/// Since the second rules, hidden files and folders, those of systems, and folders that hold a run are passed over;
/// `dir` itself may be one.
///
/// # Errors
/// [`DataError::NoSuchFolder`], [`DataError::NotAFolder`], [`DataError::NoImages`] and, when
/// `dir` itself cannot be opened, [`DataError::Io`].
pub(crate) fn list(dir: &Path, rules: ImageRules) -> Result<Listing, DataError> {
    check_folder(dir)?;
    let mut walk = Walk {
        dir,
        rules,
        links: Links::default(),
        listing: Listing::default(),
    };
    // In order, so that the first link does not depend on the file system.
    let entries = WalkDir::new(dir).follow_links(true).sort_by_file_name();
    let mut entries = entries.into_iter();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {
                if !walk.enters(&entry) {
                    entries.skip_current_dir();
                }
            }
            Ok(entry) => walk.file(entry),
            Err(error) => walk.failure(&error),
        }
    }
    walk.listing.in_order(dir, rules)
}

impl Listing {
    /// Notes that the one source says the classes of its images, or that there are none; `names` are those of its
    /// numbers.
    pub(super) fn says(&mut self, names: Option<Vec<String>>) {
        let classes = true;
        self.said = vec![Said { classes, names }];
    }

    /// Adds what another source has, as the next one.
    pub(super) fn add_all(&mut self, other: Listing) {
        let source = self.said.len() as u32;
        let entries = other.entries.into_iter();
        self.entries
            .extend(entries.map(|entry| Entry { source, ..entry }));
        let said = other.said.into_iter().next();
        self.said.push(said.unwrap_or_default());
        self.notices.extend(other.notices);
        self.unreadable.extend(other.unreadable);
        self.passed_over.add_all(other.passed_over);
    }

    /// Sorts what was found in `source`.
    ///
    /// # Errors
    /// [`DataError::NoImages`].
    pub(super) fn in_order(
        mut self,
        source: &Path,
        rules: ImageRules,
    ) -> Result<Listing, DataError> {
        if self.entries.is_empty() {
            return Err(DataError::NoImages {
                dir: source.to_owned(),
                extensions: endings(rules),
                unreadable: self.unreadable.len(),
                passed_over: Box::new(self.passed_over),
            });
        }
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.unreadable.sort();
        Ok(self)
    }
}

/// What a name says of a file.
pub(super) enum Kind {
    /// An image.
    Image,
    /// Hidden, or a system's; the name under which it is counted.
    Hidden(String),
    /// A file with this ending, which no image has.
    Other(String),
    /// Nothing: it has no ending.
    Unknown,
}

/// What the last part of a path says of a file.
pub(super) fn kind(path: &Path, rules: ImageRules) -> Kind {
    if rules >= ImageRules::V2
        && let Some(name) = hidden_name(path)
    {
        return Kind::Hidden(name);
    }
    let ending = path.extension().unwrap_or_default();
    let known = |wanted: &&str| ending.eq_ignore_ascii_case(wanted);
    if endings(rules).iter().any(known) {
        return Kind::Image;
    }
    match ending.to_str().filter(|ending| is_ending(ending)) {
        Some(ending) => Kind::Other(ending.to_owned()),
        None => Kind::Unknown,
    }
}

/// One pass through a folder.
struct Walk<'a> {
    dir: &'a Path,
    rules: ImageRules,
    links: Links,
    listing: Listing,
}

impl Walk<'_> {
    /// True if the walk goes into this folder.
    fn enters(&mut self, folder: &DirEntry) -> bool {
        if folder.depth() > 0 && self.rules >= ImageRules::V2 {
            if let Some(name) = hidden_name(folder.path()) {
                self.listing.passed_over.add_hidden(name);
                return false;
            }
            if holds_a_run(folder.path()) {
                let name = self.name(folder.path());
                self.listing.passed_over.runs.push(name);
                return false;
            }
        }
        let enters = self.links.enter(folder);
        if !enters {
            let name = self.name(folder.path());
            self.listing.passed_over.links.push(name);
        }
        enters
    }

    fn file(&mut self, file: DirEntry) {
        let path = file.path();
        let kind = kind(path, self.rules);
        let is_image = matches!(kind, Kind::Image);
        let passed_over = &mut self.listing.passed_over;
        match kind {
            Kind::Hidden(name) => passed_over.add_hidden(name),
            // A pipe, a socket or a device: only one that looks like an image is worth a word.
            _ if !file.file_type().is_file() => {
                if is_image {
                    let name = self.name(path);
                    self.listing.passed_over.special.push(name);
                }
            }
            Kind::Image => self.image(file),
            Kind::Other(ending) => passed_over.add_ending(&ending),
            Kind::Unknown if self.rules < ImageRules::V2 => passed_over.without_ending += 1,
            Kind::Unknown => match is_image_by_content(path) {
                Ok(true) => self.image(file),
                Ok(false) => passed_over.without_ending += 1,
                Err(error) => {
                    let reason = (file.into_path(), error.to_string());
                    self.listing.unreadable.push(reason);
                }
            },
        }
    }

    fn image(&mut self, file: DirEntry) {
        let path = file.into_path();
        let name: Box<[u8]> = path_bytes(self.dir, &path).into();
        self.listing
            .entries
            .push(Entry::new(&name, Place::File(path)));
    }

    fn failure(&mut self, error: &walkdir::Error) {
        let path = error.path().unwrap_or(self.dir);
        let hidden = hidden_name(path).filter(|_| error.depth() > 0);
        if error.loop_ancestor().is_some() {
            // A link back up: its images are already listed.
            let name = self.name(path);
            self.listing.passed_over.links.push(name);
        } else if let Some(name) = hidden.filter(|_| self.rules >= ImageRules::V2) {
            self.listing.passed_over.add_hidden(name);
        } else {
            let reason = error.io_error().map_or_else(|| one_line(error), one_line);
            self.listing.unreadable.push((path.to_owned(), reason));
        }
    }

    /// The path below the folder, safe to print.
    fn name(&self, path: &Path) -> String {
        escape(path_bytes(self.dir, path))
    }
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
    /// True if this folder of a depth-first walk should be visited.
    fn enter(&mut self, entry: &DirEntry) -> bool {
        // The folder itself may be given as a link.
        if entry.depth() == 0 || !entry.path_is_symlink() {
            return true;
        }
        let below = |link: &PathBuf| entry.path().starts_with(link);
        if !self.outermost.as_ref().is_some_and(below) {
            self.outermost = Some(entry.path().to_owned());
            self.entered.clear();
        }
        // Unreadable entries are reported when the walk gets there.
        let metadata: Result<Metadata, _> = entry.metadata();
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

/// True for a name that an image in a folder may have.
pub(crate) fn has_image_ending(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS_V2.contains(&&*ending.to_ascii_lowercase()))
}

fn endings(rules: ImageRules) -> &'static [&'static str] {
    match rules {
        ImageRules::V1 => ENDINGS_V1,
        ImageRules::V2 => ENDINGS_V2,
    }
}

/// False for what follows a dot and is no kind of file: `frame.0001`, `Mr. Smith`, `site.com_holiday_1`.
fn is_ending(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'~' || b == b'_';
    (1..=MAX_ENDING).contains(&text.len())
        && text.bytes().all(letter)
        && !text.bytes().all(|b| b.is_ascii_digit())
}

/// True if the file begins as one of the formats that are read.
fn is_image_by_content(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(begins_as_an_image(&head))
}

/// True for the first bytes of a format that is read.
pub(super) fn begins_as_an_image(head: &[u8]) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let format = image::guess_format(head);
    matches!(format, Ok(Png | Jpeg | WebP | Bmp | Gif))
}

/// The name under which a hidden file or folder is counted; `None` for others.
pub(super) fn hidden_name(path: &Path) -> Option<String> {
    let name = path.file_name()?;
    let bytes = name.as_encoded_bytes();
    // Each file on a Mac's disk may have one.
    if bytes.starts_with(b"._") {
        return Some("._*".to_owned());
    }
    let system = |wanted: &&str| name.eq_ignore_ascii_case(wanted);
    (bytes.starts_with(b".") || SYSTEM_NAMES.iter().any(system)).then(|| escape(bytes))
}

/// True for the folder of a training run: its list of images, or its settings beside its metrics or checkpoints.
fn holds_a_run(folder: &Path) -> bool {
    let settings = || folder.join("config.toml").is_file();
    let work = ["metrics.jsonl", "checkpoints/latest"];
    begins_as_a_manifest(&folder.join("pictures.tsv"))
        || (settings() && work.iter().any(|name| folder.join(name).is_file()))
}

fn begins_as_a_manifest(path: &Path) -> bool {
    let read = || -> std::io::Result<bool> {
        // A pipe would be waited for.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(false);
        }
        let mut head = vec![0; MAGIC.len()];
        File::open(path)?.read_exact(&mut head)?;
        Ok(head == MAGIC.as_bytes())
    };
    read().unwrap_or(false)
}

/// The path below `dir` as bytes, in whatever encoding.
pub(super) fn path_bytes<'a>(dir: &Path, path: &'a Path) -> &'a [u8] {
    path.strip_prefix(dir)
        .unwrap_or(path)
        .as_os_str()
        .as_encoded_bytes()
}

#[cfg(test)]
mod tests;

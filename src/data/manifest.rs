//! The list of a run's training images: a name and a hash for each, as a text file.
//!
//! # Format
//!
//! UTF-8 text, every line ended by a newline. The first line is `ddpm pictures 1 N`: the version
//! and the number of lines that follow. Then, for each image in the order of the data set, the
//! first 16 hexadecimal digits of the BLAKE3 hash of its decoded bytes `[C, H, W]`, a tab, and its
//! path below the folder, see [`escape`]. [`Manifest::fingerprint`] equals the output of `b3sum` for
//! the file.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The start of every file, whatever its version.
pub(super) const MAGIC: &str = "ddpm pictures ";

const VERSION: &str = "1";

/// Maximum length of the file, bytes: about ten million images.
const MAX_BYTES: u64 = 1 << 30;

/// Number of names that [`Manifest::differences`] quotes for each kind of change.
const QUOTED_NAMES: usize = 5;

/// Length of the part of a bad line that an error shows, characters.
const SHOWN_CHARS: usize = 60;

/// The images of a data set in order: the name and content hash of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    images: Vec<Image>,
}

/// An image of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    /// As [`escape`] writes it.
    name: String,
    hash: u64,
}

impl Manifest {
    /// A list of distinct names and their [`hash`]es.
    pub(super) fn new(images: impl IntoIterator<Item = (String, u64)>) -> Self {
        let images = images.into_iter();
        Self {
            images: images.map(|(name, hash)| Image { name, hash }).collect(),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True if there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Name of image `index`, from 0: its path below the folder with special characters escaped,
    /// or `face-000012` for a built-in one.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.images.get(index).map(|p| p.name.as_str())
    }

    /// Hash of image `index`, from 0: the first 64 bits of the BLAKE3 hash of its decoded bytes.
    pub fn hash(&self, index: usize) -> Option<u64> {
        self.images.get(index).map(|p| p.hash)
    }

    /// The hashes of all images, in order.
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.images.iter().map(|image| image.hash)
    }

    /// Some of the images, in this order.
    pub(super) fn of(&self, indices: &[usize]) -> Manifest {
        let image = |index: &usize| self.images[*index].clone();
        Manifest {
            images: indices.iter().map(image).collect(),
        }
    }

    /// Digest of all names and hashes in order: 64 hexadecimal digits.
    ///
    /// It is the BLAKE3 hash of the file that [`Manifest::write`] makes.
    pub fn fingerprint(&self) -> String {
        blake3::hash(self.to_text().as_bytes()).to_hex().to_string()
    }

    /// Writes the list as a text file, whole or not at all.
    ///
    /// # Errors
    /// Disk full, folder not writable, …; an older file at `path` stays unchanged.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::fs::write_bytes(path, self.to_text().as_bytes())
    }

    /// Reads a file of [`Manifest::write`]. The file is untrusted.
    ///
    /// # Errors
    /// A missing file, or one that is of another kind, cut short, damaged or above 1 GiB: the error names
    /// the file and the line.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || {
            let mut bytes = Vec::new();
            let file = crate::fs::open_regular(path)?;
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            ensure!(
                bytes.len() as u64 <= MAX_BYTES,
                "it is longer than {MAX_BYTES} bytes"
            );
            Self::parse(&bytes)
        };
        read().with_context(|| format!("cannot read the list of images {}", path.display()))
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}{VERSION} {}\n", self.len());
        for Image { name, hash } in &self.images {
            let _ = writeln!(text, "{hash:016x}\t{name}");
        }
        text
    }

    /// Parses exactly the texts that [`Manifest::to_text`] writes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(
            bytes.starts_with(MAGIC.as_bytes()),
            "it does not begin with `{MAGIC}`: another kind of file"
        );
        let text = std::str::from_utf8(bytes).context("it is not UTF-8 text: damaged")?;
        let text = (text.strip_suffix('\n')).context("its last line has no newline: cut short")?;
        let mut lines = text.split('\n');
        let count = header(lines.next().unwrap_or_default())?;
        let mut manifest = Self::default();
        let mut names = HashSet::new();
        for (i, line) in lines.enumerate() {
            let mut read = || {
                let image = image(line)?;
                ensure!(names.insert(&line[17..]), "the name occurs twice");
                Ok(image)
            };
            let read = read().with_context(|| format!("line {}, {:?}", i + 2, shown(line)));
            manifest.images.push(read?);
        }
        let found = manifest.len();
        ensure!(
            found as u64 == count,
            "it has {found} lines after the first, which announces {count}: cut short or damaged"
        );
        Ok(manifest)
    }

    /// Human-readable changes since `before`; `None` if the two are the same.
    ///
    /// Counts images that are gone, new, changed under the same name, and merely moved or
    /// renamed (same hash, another name), and names up to five of each.
    pub fn differences(&self, before: &Manifest) -> Option<String> {
        if self == before {
            return None;
        }
        let now_by_name = self.by_name();
        let before_by_name = before.by_name();
        let mut changed = Vec::new();
        let mut added: Vec<&Image> = Vec::new();
        for image in &self.images {
            match before_by_name.get(image.name.as_str()) {
                None => added.push(image),
                Some(&hash) if hash != image.hash => changed.push(image.name.clone()),
                Some(_) => {}
            }
        }
        // New names by hash, the first on top: each matches one image that is gone.
        let mut arrivals: HashMap<u64, Vec<&str>> = HashMap::new();
        for image in added.iter().rev() {
            arrivals.entry(image.hash).or_default().push(&image.name);
        }
        let (mut gone, mut moved, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
        for Image { name, hash } in &before.images {
            if now_by_name.contains_key(name.as_str()) {
                continue;
            }
            match arrivals.get_mut(hash).and_then(Vec::pop) {
                Some(to) => {
                    taken.insert(to);
                    moved.push(format!("{name} to {to}"));
                }
                None => gone.push(name.clone()),
            }
        }
        let new: Vec<String> = (added.iter())
            .filter(|p| !taken.contains(p.name.as_str()))
            .map(|p| p.name.clone())
            .collect();
        let parts: Vec<String> = [
            (&gone, ["is gone", "are gone"]),
            (&new, ["is new", "are new"]),
            (&changed, ["has other contents", "have other contents"]),
            (&moved, ["is moved or renamed", "are moved or renamed"]),
        ]
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, verbs)| part(names, verbs))
        .collect();
        Some(match parts.is_empty() {
            true => "the same images in another order".to_owned(),
            false => parts.join(", "),
        })
    }

    /// True if the images are the same, in the same order, whatever their names.
    pub fn same_images(&self, other: &Manifest) -> bool {
        self.hashes().eq(other.hashes())
    }

    fn by_name(&self) -> HashMap<&str, u64> {
        (self.images.iter())
            .map(|p| (p.name.as_str(), p.hash))
            .collect()
    }
}

/// For example `3 are gone (a.png, b.png, c.png)`.
fn part(names: &[String], [one, many]: [&str; 2]) -> String {
    let mut quoted = names[..names.len().min(QUOTED_NAMES)].join(", ");
    if names.len() > QUOTED_NAMES {
        quoted.push_str(", …");
    }
    let verb = if names.len() == 1 { one } else { many };
    format!("{} {verb} ({quoted})", names.len())
}

/// The number of images in a first line.
fn header(line: &str) -> Result<u64> {
    let rest = line.strip_prefix(MAGIC).unwrap_or_default();
    let (version, count) = rest.split_once(' ').unwrap_or((rest, ""));
    ensure!(
        version == VERSION,
        "it has version {:?}, but this program reads version {VERSION}",
        shown(version)
    );
    match count.parse::<u64>() {
        Ok(number) if number.to_string() == count => Ok(number),
        _ => bail!(
            "its first line gives {:?} as the number of images",
            shown(count)
        ),
    }
}

/// A line after the first.
fn image(line: &str) -> Result<Image> {
    let (digits, name) = line.split_once('\t').context("no tab after the hash")?;
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    ensure!(
        digits.len() == 16 && digits.bytes().all(lower_hex),
        "the hash is not 16 hexadecimal digits"
    );
    let written = unescape(name).map(|bytes| escape(&bytes));
    ensure!(
        written.as_deref() == Some(name) && !name.is_empty(),
        "the name is not written as this program does"
    );
    Ok(Image {
        name: name.to_owned(),
        hash: u64::from_str_radix(digits, 16)?,
    })
}

/// The start of a text, short enough for an error.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// First 64 bits of the BLAKE3 hash of an image's bytes.
pub(super) fn hash(pixels: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(pixels).as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Writes a path's bytes as one line of text, reversibly.
///
/// UTF-8 is kept, except a backslash (`\\`), newline (`\n`), tab (`\t`), carriage return (`\r`) and the
/// bytes of other control characters, which are written `\x1b`, as are bytes that are not UTF-8.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() => hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

/// Inverse of [`escape`]; `None` for an escape that it does not write.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first()?;
        rest = after;
        bytes.push(match kind {
            b'\\' => b'\\',
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                let [high, low] = [digits[0], digits[1]].map(|d| (d as char).to_digit(16));
                (high? * 16 + low?) as u8
            }
            _ => return None,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;

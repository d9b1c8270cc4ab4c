//! The binary files of CIFAR-10 and CIFAR-100: a record is the label and an image, a plane a colour.
//!
//! They have no magic bytes. A file is known by its length, a whole number of records, and by labels in their range.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::records::{self, Records};
use super::{Wanted, bad, files_named};
use crate::data::archive::Archive;
use crate::data::entry::PixelOrder;
use crate::data::error::DataError;
use crate::data::listing::Listing;
use crate::fs::{open_regular, read_text};

/// Rows and columns of an image.
const SIDE: u64 = 32;

/// Bytes of an image.
const IMAGE_BYTES: u64 = 3 * SIDE * SIDE;

/// Longest list of names, bytes.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// A kind of file.
struct Kind {
    /// For each byte before an image, the number of classes. The last is the label.
    classes: &'static [u8],
    /// The file beside it that names the classes, a line each.
    names: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        classes: &[10],
        names: "batches.meta.txt",
    },
    // Of 20 groups and 100 classes.
    Kind {
        classes: &[20, 100],
        names: "fine_label_names.txt",
    },
];

impl Kind {
    fn record_bytes(&self) -> u64 {
        self.classes.len() as u64 + IMAGE_BYTES
    }

    /// The labels of a file; `None` for one of another kind.
    fn labels(&self, path: &Path, bytes: u64) -> Result<Option<Vec<u64>>, DataError> {
        if bytes == 0 || !bytes.is_multiple_of(self.record_bytes()) {
            return Ok(None);
        }
        let mut file = BufReader::new(open_regular(path)?);
        let mut record = vec![0; self.record_bytes() as usize];
        let mut labels = Vec::new();
        for _ in 0..bytes / self.record_bytes() {
            file.read_exact(&mut record)?;
            let found = &record[..self.classes.len()];
            if found.iter().zip(self.classes).any(|(label, n)| label >= n) {
                return Ok(None);
            }
            labels.push(u64::from(found[found.len() - 1]));
        }
        Ok(Some(labels))
    }

    /// Names of the classes, from the file beside `path` if there is one with enough.
    fn class_names(&self, path: &Path) -> Option<Vec<String>> {
        let text = read_text(&path.with_file_name(self.names), MAX_NAMES_BYTES).ok()?;
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let names: Vec<String> = names.map(str::to_owned).collect();
        let classes = self.classes[self.classes.len() - 1];
        (names.len() == usize::from(classes)).then_some(names)
    }
}

/// The images of a file of `bytes` bytes; `None` if it is of another kind.
pub(super) fn list(path: &Path, bytes: u64, wanted: Wanted) -> Result<Option<Listing>, DataError> {
    list_files(&[path.to_owned()], |_| bytes, wanted)
}

/// The training images of a folder that holds such files; `None` if it holds none.
pub(super) fn list_folder(dir: &Path, wanted: Wanted) -> Result<Option<Listing>, DataError> {
    let batch = |name: &str| {
        let number = name.strip_prefix("data_batch_");
        let number = number.and_then(|rest| rest.strip_suffix(".bin"));
        name == "train.bin" || number.is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let files = files_named(dir, batch)?;
    let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    if files.is_empty() {
        return Ok(None);
    }
    let found = list_files(&files, bytes, wanted)?;
    let first = &files[0];
    found.map(Some).ok_or_else(|| {
        let wrong = files.iter().find(|file| {
            KINDS
                .iter()
                .all(|kind| !bytes(file).is_multiple_of(kind.record_bytes()))
        });
        let wrong = wrong.unwrap_or(first);
        bad(wrong, not_cifar(bytes(wrong)))
    })
}

/// What is said of a file that should be of this kind.
pub(super) fn not_cifar(bytes: u64) -> String {
    format!(
        "its {bytes} bytes are not records of CIFAR-10 (3073 bytes, labels 0 to 9) or CIFAR-100 (3074 bytes, labels 0 to 99): cut short, or another kind of file"
    )
}

fn list_files(
    files: &[PathBuf],
    bytes: impl Fn(&Path) -> u64,
    wanted: Wanted,
) -> Result<Option<Listing>, DataError> {
    for kind in &KINDS {
        let mut labels = Vec::new();
        for file in files {
            let Some(found) = kind.labels(file, bytes(file))? else {
                break;
            };
            labels.push(found);
        }
        if labels.len() < files.len() {
            continue;
        }
        let total = labels.iter().map(|labels| labels.len() as u64).sum();
        let mut listing = Listing::default();
        for (file, labels) in files.iter().zip(labels) {
            let records = Records {
                archive: Arc::new(Archive::plain(file)?),
                start: kind.classes.len() as u64,
                stride: kind.record_bytes(),
                count: labels.len() as u64,
                height: SIDE,
                width: SIDE,
                order: PixelOrder::RgbPlanes,
            };
            let mut entries = records.entries(listing.entries.len() as u64, total)?;
            records::label(&mut entries, labels);
            listing.entries.extend(entries);
        }
        if wanted.labels {
            listing.says(kind.class_names(&files[0]));
        }
        return Ok(Some(listing));
    }
    Ok(None)
}

//! Images in an array of NumPy: an `.npz` file with `arr_0` `[N, H, W, C]` of uint8, and their labels in `arr_1`.

use std::path::Path;
use std::sync::Arc;

use super::records::{self, Records};
use super::{Wanted, bad};
use crate::data::archive::{Archive, Packed};
use crate::data::entry::PixelOrder;
use crate::data::error::DataError;
use crate::data::listing::Listing;
use crate::formats::npz::{self, NumpyFile, Values};

/// Names of arrays of images, and of their labels: NumPy's own, and those of Keras's and MedMNIST's files.
const NAMES: [(&str, &str); 4] = [
    ("arr_0", "arr_1"),
    ("images", "labels"),
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
];

/// True for the name of a zip archive's member that holds such images.
pub(super) fn is_array_of_images(member: &[u8]) -> bool {
    let name = member.strip_suffix(b".npy");
    name.is_some_and(|name| NAMES.iter().any(|(images, _)| images.as_bytes() == name))
}

/// The images of a file.
///
/// # Errors
/// No such array, one of another type or shape, a damaged file, labels of another number or kind.
pub(super) fn list(path: &Path, wanted: Wanted) -> Result<Listing, DataError> {
    let said = |error: npz::NpzError| bad(path, error);
    let mut file = npz::open(path).map_err(said)?;
    let found = NAMES.iter().find(|(images, _)| file.has(images));
    let (images, labels) = *found.unwrap_or(&NAMES[0]);
    let rows = file.images(images).map_err(said)?;
    let [height, width, channels] = rows.hwc().map(|n| n as u64);
    let (count, start) = (rows.count(), rows.start());
    drop(rows);
    let archive = match start {
        Some(_) => Archive::plain(path)?,
        None => Archive::packed(path, Packed::Array(images.to_owned()))?,
    };
    let records = Records {
        archive: Arc::new(archive),
        start: start.unwrap_or(0),
        stride: height * width * channels,
        count,
        height,
        width,
        order: match channels {
            1 => PixelOrder::Grey,
            _ => PixelOrder::Rgb,
        },
    };
    let mut listing = Listing {
        entries: records.entries(0, count)?,
        ..Listing::default()
    };
    if wanted.labels && file.has(labels) {
        let labels = read_labels(&mut file, path, labels, count)?;
        records::label(&mut listing.entries, labels);
        listing.says(None);
    }
    Ok(listing)
}

fn read_labels(
    file: &mut NumpyFile,
    path: &Path,
    name: &str,
    count: u64,
) -> Result<Vec<i64>, DataError> {
    let said = |error: npz::NpzError| bad(path, error);
    let shape = file.shape(name).map_err(said)?;
    let wanted = |found: String| {
        bad(
            path,
            format!(
                "{name} is {found}, and labels of the {count} images are wanted: a whole number from 0 each, or -1 for none"
            ),
        )
    };
    match shape[..] {
        [n] | [n, 1] if n as u64 == count => {}
        _ => return Err(wanted(format!("{shape:?}"))),
    }
    let labels: Vec<i64> = match file.read(name, 8 * count).map_err(said)? {
        Values::I64(labels) => labels.iter().copied().collect(),
        Values::U8(labels) => labels.iter().map(|label| i64::from(*label)).collect(),
        _ => return Err(wanted("of floating-point numbers".to_owned())),
    };
    match labels.iter().find(|label| **label < -1) {
        Some(label) => Err(wanted(format!("partly negative ({label})"))),
        None => Ok(labels),
    }
}

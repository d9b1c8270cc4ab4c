//! Images without headers, one after the other in a file.

use std::path::Path;
use std::sync::Arc;

use super::bad;
use crate::data::archive::Archive;
use crate::data::decode::MAX_DECODED_BYTES;
use crate::data::entry::{Entry, PixelOrder, Pixels, Place};
use crate::data::error::DataError;

/// Most images of a file: each takes memory for its name and place.
const MAX_RECORDS: u64 = 10_000_000;

/// Fewest digits of an image's number, which is its name.
const DIGITS: usize = 6;

/// Images of one size at even distances.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) archive: Arc<Archive>,
    /// First byte of the first image.
    pub(super) start: u64,
    /// Bytes from one image to the next.
    pub(super) stride: u64,
    pub(super) count: u64,
    pub(super) height: u64,
    pub(super) width: u64,
    pub(super) order: PixelOrder,
}

impl Records {
    /// The images, named by their numbers from `first` on, of `total` in all.
    ///
    /// # Errors
    /// No images, or more or larger ones than are read.
    pub(super) fn entries(&self, first: u64, total: u64) -> Result<Vec<Entry>, DataError> {
        let path: &Path = self.archive.path();
        let (height, width) = (self.height, self.width);
        if self.count == 0 || height == 0 || width == 0 {
            return Err(bad(
                path,
                format!("it holds {} images of {width}x{height} pixels", self.count),
            ));
        }
        if total > MAX_RECORDS || height.saturating_mul(width).saturating_mul(3) > MAX_DECODED_BYTES
        {
            return Err(bad(
                path,
                format!(
                    "it holds {total} images of {width}x{height} pixels, more or larger ones than are read ({MAX_RECORDS} of {MAX_DECODED_BYTES} bytes)"
                ),
            ));
        }
        // So that the order of the names is that of the numbers.
        let digits = (total - 1).to_string().len().max(DIGITS);
        let entry = |i: u64| {
            let pixels = Pixels {
                archive: self.archive.clone(),
                start: self.start + i * self.stride,
                height: height as u32,
                width: width as u32,
                order: self.order,
            };
            let name = format!("{:0digits$}", first + i);
            Entry::new(name.as_bytes(), Place::Pixels(pixels))
        };
        Ok((0..self.count).map(entry).collect())
    }
}

/// Gives images their classes, by number.
pub(super) fn label<N: ToString>(entries: &mut [Entry], labels: impl IntoIterator<Item = N>) {
    for (entry, label) in entries.iter_mut().zip(labels) {
        entry.label = Some(label.to_string().into());
    }
}

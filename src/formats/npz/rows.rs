//! Images of an array, some at a time.

use ndarray::Array4;

use super::Result;
use super::stored::Stored;

/// A set of images that is read some at a time.
#[derive(Debug)]
pub struct ImageRows<'a> {
    pub(super) array: Stored<'a>,
    pub(super) count: u64,
    pub(super) next: u64,
    pub(super) hwc: [usize; 3],
}

impl ImageRows<'_> {
    /// Number of images.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where the first image begins in the file, bytes; `None` if the images are packed.
    pub fn start(&self) -> Option<u64> {
        self.array.start
    }

    /// Height, width and channels of every image.
    pub fn hwc(&self) -> [usize; 3] {
        self.hwc
    }

    /// Reads the next images, at most `most` of them, which take `most * H * W * C` bytes; `None` after the last, when
    /// the checksum of all was found to be right.
    ///
    /// # Shapes
    /// Returns `[some, H, W, C]`.
    ///
    /// # Errors
    /// Data that end early, do not unpack or fail their checksum.
    pub fn next_images(&mut self, most: usize) -> Result<Option<Array4<u8>>> {
        let some = (self.count - self.next).min(most as u64) as usize;
        if some == 0 {
            self.array.end()?;
            return Ok(None);
        }
        let [h, w, c] = self.hwc;
        let mut images = Array4::zeros((some, h, w, c));
        let bytes = images.as_slice_mut().expect("an array in C order");
        self.array.fill(bytes)?;
        self.next += some as u64;
        Ok(Some(images))
    }
}

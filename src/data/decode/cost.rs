//! Memory for the work on an image, reckoned before it is done.

use image::ImageFormat;
use image::metadata::Orientation;

use super::flat::Crop;
use super::{HEADER_BYTES, turns, upright};
use crate::data::jpeg::Jpeg;
use crate::data::spec::ImageSpec;

/// Maximum memory for copies of the file: JPEG's decoder keeps all of it, and its metadata once more.
pub(super) fn file_copies(file_bytes: u64) -> u64 {
    2 * file_bytes
}

/// What becomes of an image, by which the memory for it is reckoned.
pub(super) struct Work {
    /// Height and width.
    upright: (usize, usize),
    /// Size of the pixels, bytes.
    decoded: u64,
    /// Size of the larger of two copies, bytes: turned upright, and cropped to bytes without alpha.
    copy: u64,
}

impl Work {
    pub(super) fn new(
        size: (usize, usize),
        decoded: u64,
        orientation: Orientation,
        spec: Option<&ImageSpec>,
    ) -> Self {
        let upright = upright(size, orientation);
        let flat = spec.map_or(0, |spec| {
            let crop = Crop::centred(upright.0, upright.1, spec.height, spec.width);
            (crop.height * crop.width * spec.channels) as u64
        });
        Self {
            upright,
            decoded,
            copy: flat.max(if turns(orientation) { decoded } else { 0 }),
        }
    }

    pub(super) fn crop(&self, spec: &ImageSpec) -> Crop {
        Crop::centred(self.upright.0, self.upright.1, spec.height, spec.width)
    }

    /// Maximum memory for an image from file to crop, bytes.
    ///
    /// A decoder holds, at worst and in multiples of the pixels: PNG and BMP the pixels; GIF a frame that does not
    /// fill its screen, and its indices; JPEG by the first rules the coefficients of a progressive CMYK file, four of
    /// two bytes for three (if shrunk, those of three colours and twice the shrunk image); WebP an animation's canvas
    /// and frame with four channels each, its transparency in two steps, and luma and chroma.
    pub(super) fn cost(&self, format: Option<ImageFormat>, file_bytes: u64) -> u64 {
        let (multiple, file) = match format {
            Some(ImageFormat::Png | ImageFormat::Bmp) => (1, 0),
            Some(ImageFormat::Gif) => (3, file_copies(file_bytes)),
            Some(ImageFormat::Jpeg) => (4, file_copies(file_bytes)),
            _ => (6, file_copies(file_bytes)),
        };
        HEADER_BYTES + (file + multiple * self.decoded).max(self.decoded + self.copy)
    }

    /// The same for JPEG by the newest rules: libjpeg's rows of samples are within [`HEADER_BYTES`].
    pub(super) fn cost_of_jpeg(&self, jpeg: &Jpeg, factor: Option<usize>) -> u64 {
        let after = match factor {
            // Decoded, turned, and cropped.
            Some(factor) => 3 * jpeg.pixel_bytes(factor),
            None => self.decoded + self.copy,
        };
        HEADER_BYTES + jpeg.cost(factor.unwrap_or(1)).max(after)
    }
}

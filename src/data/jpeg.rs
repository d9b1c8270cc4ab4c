//! JPEG as libjpeg decodes it, in whole or at a fraction of its size, or not at all.
//!
//! The two parts see different faults. [`Structure`] reads the markers: which scans there are, and so whether one is
//! missing. libjpeg ([`crate::native::decode_jpeg`]) reads the compressed data and is told to refuse any that is
//! damaged, cut short or left over, in place of filling in.
//!
//! A block of 8x8 pixels is 64 frequencies; the lowest of them alone give it as 4x4, 2x2 or one pixel. So a fraction of
//! the size costs no more than the compressed data itself.

use std::io::Read;

use ndarray::Array3;

use crate::native::{Samples, decode_jpeg};
pub(super) use structure::Structure;

mod structure;

/// A JPEG file in memory, its markers read.
pub(super) struct Jpeg {
    file: Vec<u8>,
    pub(super) structure: Structure,
}

impl Jpeg {
    /// Reads the file and its markers.
    ///
    /// # Errors
    /// Why the file is not read, in words.
    pub(super) fn read(mut source: impl Read) -> Result<Self, String> {
        let mut file = Vec::new();
        source
            .read_to_end(&mut file)
            .map_err(|error| error.to_string())?;
        let structure = Structure::read(&file)?;
        Ok(Self { file, structure })
    }

    /// Contents of the segments that hold metadata (APP1), in order.
    pub(super) fn metadata(&self) -> impl Iterator<Item = &[u8]> {
        let ranges = self.structure.metadata.iter();
        ranges.map(|range| &self.file[range.clone()])
    }

    /// Height and width at 1/`factor` of the size, rounded up.
    fn size(&self, factor: usize) -> (usize, usize) {
        let Structure { width, height, .. } = self.structure;
        (height.div_ceil(factor), width.div_ceil(factor))
    }

    /// Size of the samples at 1/`factor` of the size.
    pub(super) fn pixel_bytes(&self, factor: usize) -> u64 {
        let (height, width) = self.size(factor);
        (height * width * self.structure.channels) as u64
    }

    /// Memory for decoding at 1/`factor` of the size: file, coefficients and pixels, bytes.
    pub(super) fn cost(&self, factor: usize) -> u64 {
        self.file.len() as u64 + self.structure.coefficient_bytes + self.pixel_bytes(factor)
    }

    /// Decodes at 1/`factor` of the size; the factor is 1, 2, 4 or 8.
    ///
    /// # Shapes
    /// Returns `[height / factor, width / factor, C]` u8, both sides rounded up, C = 1 (grey) or 3 (RGB). Each pixel
    /// stands for `factor` x `factor` pixels; the last of a row or column can extend beyond the full image.
    ///
    /// # Errors
    /// libjpeg's message, for a file that is damaged or cut short.
    pub(super) fn decode(self, factor: usize) -> Result<Array3<u8>, String> {
        let Samples {
            width,
            height,
            channels,
            mut bytes,
        } = decode_jpeg(&self.file, (8 / factor) as u8)?;
        if (height, width) != self.size(factor) || channels != self.structure.channels {
            return Err("two frame headers".to_owned());
        }
        let channels = if channels == 4 {
            cmyk_to_rgb(&mut bytes);
            3
        } else {
            channels
        };
        Array3::from_shape_vec((height, width, channels), bytes).map_err(|error| error.to_string())
    }
}

/// Inked pixels to RGB in place, as Pillow does it: without a profile, and inverted, as all programs in use write them.
fn cmyk_to_rgb(bytes: &mut Vec<u8>) {
    let pixels = bytes.len() / 4;
    for i in 0..pixels {
        let [cyan, magenta, yellow, key] = std::array::from_fn(|c| u32::from(bytes[4 * i + c]));
        for (c, light) in [cyan, magenta, yellow].into_iter().enumerate() {
            let ink = (255 - light) * key + 128;
            bytes[3 * i + c] = (key - (((ink >> 8) + ink) >> 8)) as u8;
        }
    }
    bytes.truncate(3 * pixels);
}

#[cfg(test)]
mod tests;

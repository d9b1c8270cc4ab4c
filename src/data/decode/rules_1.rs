//! What decoding was in version 0.1, kept bit for bit for the runs that it began (`ImageRules::V1`): a JPEG at a
//! fraction of its size by the `jpeg-decoder` crate, all others by the `image` crate.
//!
//! Only complete and valid files in grey or RGB are decoded here; the rest is left to the full decoder, which fills in
//! what is missing.
//!
//! # Memory
//!
//! Metadata, the shrunk image twice, and for a progressive file all frequencies, two bytes per sample of the full
//! image.

use std::io::Read;

use image::metadata::Orientation;
use jpeg_decoder::{Decoder, PixelFormat};
use ndarray::Array3;

use super::shrunk::ShrunkImage;
use crate::data::entry::Contents;

/// Decodes a JPEG of `width` x `height` pixels at 1/`factor` of its size; `None` unless it is a plain, valid JPEG of
/// that size and the factor is 2, 4 or 8.
///
/// # Shapes
/// Returns `[height / factor, width / factor, C]` u8, both sides rounded up, C = 1 (grey) or 3 (RGB).
///
/// Each pixel stands for `factor` x `factor` pixels. The last of a row or column can extend beyond the full image,
/// into the padding of the file's blocks.
fn means(file: impl Read, (width, height): (usize, usize), factor: usize) -> Option<Array3<u8>> {
    let mut decoder = Decoder::new(file);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    let channels = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::RGB24 => 3,
        _ => return None,
    };
    let (shrunk_width, shrunk_height) = (width.div_ceil(factor), height.div_ceil(factor));
    let wanted = (shrunk_width as u16, shrunk_height as u16);
    // The file may have changed since its size was read.
    let as_expected = (usize::from(info.width), usize::from(info.height)) == (width, height)
        && decoder.scale(wanted.0, wanted.1).ok()? == wanted;
    if !as_expected {
        return None;
    }
    let pixels = decoder.decode().ok()?;
    Array3::from_shape_vec((shrunk_height, shrunk_width, channels), pixels).ok()
}

/// Decodes a JPEG of `size` (height, width) at 1/`factor` of its size; `None` if it has to be
/// decoded in full.
pub(super) fn shrink(
    file: &Contents,
    size: (usize, usize),
    factor: usize,
    orientation: Orientation,
) -> Option<ShrunkImage> {
    let means = means(file.reader().ok()?, (size.1, size.0), factor)?;
    ShrunkImage::new(means, size, factor, orientation)
}

#[cfg(test)]
mod tests;

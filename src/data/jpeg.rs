//! Decodes a JPEG at a fraction of its size, without making the full image first.
//!
//! A block of 8x8 pixels is 64 frequencies; the lowest of them alone give it as 4x4, 2x2 or one pixel. The
//! `jpeg-decoder` crate does this in plain Rust, with the same bytes on every processor. The decoder of the `image`
//! crate is faster for full images, but cannot do this.
//!
//! Only complete and valid files in grey or RGB are decoded here; the rest is left to the full decoder.
//!
//! # Memory
//!
//! Metadata, the shrunk image twice, and for a progressive file all frequencies, two bytes per sample of the full
//! image.

use std::io::Read;

use jpeg_decoder::{Decoder, PixelFormat};
use ndarray::Array3;

/// Decodes a JPEG of `width` x `height` pixels at 1/`factor` of its size; `None` unless it is a plain, valid JPEG of
/// that size and the factor is 2, 4 or 8.
///
/// # Shapes
/// Returns `[height / factor, width / factor, C]` u8, both sides rounded up, C = 1 (grey) or 3 (RGB).
///
/// Each pixel stands for `factor` x `factor` pixels. The last of a row or column can extend beyond the full image,
/// into the padding of the file's blocks.
pub(super) fn shrink(
    file: impl Read,
    (width, height): (usize, usize),
    factor: usize,
) -> Option<Array3<u8>> {
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

#[cfg(test)]
mod tests;

//! JPEG at a fraction of its size, without making the full picture first.
//!
//! A block of 8x8 pixels is 64 frequencies; the lowest of them alone give it as 4x4, 2x2 or one pixel. By the
//! `jpeg-decoder` crate in plain Rust, whose bytes are the same on every processor. The decoder of the `image` crate is
//! the faster one in full, and cannot do this.
//!
//! Only files that give grey or RGB and are whole and sound are read here: all others are for the full decoder, which
//! takes any.
//!
//! # Memory
//!
//! Beside metadata, the shrunk picture twice, and of a progressive file all frequencies, two bytes for each sample of
//! the full picture.

use std::io::Read;

use jpeg_decoder::{Decoder, PixelFormat};

/// A picture at a fraction of its size.
#[derive(Debug)]
pub(super) struct Shrunk {
    /// Full width over the factor, rounded up.
    pub(super) width: usize,
    /// Full height over the factor, rounded up.
    pub(super) height: usize,
    /// 1 is grey, 3 is RGB.
    pub(super) channels: usize,
    /// `[height, width, channels]`, row by row.
    pub(super) pixels: Vec<u8>,
}

/// Decodes a JPEG of `width` x `height` pixels at 1/`factor` of its size; none if it is no plain, sound JPEG of that
/// size, or the factor not 2, 4 or 8.
///
/// Each pixel stands for `factor` x `factor` pixels. The last of a row or column can reach beyond the full picture,
/// into what the file holds there to fill up its blocks.
pub(super) fn shrink(
    file: impl Read,
    (width, height): (usize, usize),
    factor: usize,
) -> Option<Shrunk> {
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
    // The file may be another than when its size was read.
    let as_expected = (usize::from(info.width), usize::from(info.height)) == (width, height)
        && decoder.scale(wanted.0, wanted.1).ok()? == wanted;
    if !as_expected {
        return None;
    }
    let pixels = decoder.decode().ok()?;
    let length = shrunk_width * shrunk_height * channels;
    (pixels.len() == length).then_some(Shrunk {
        width: shrunk_width,
        height: shrunk_height,
        channels,
        pixels,
    })
}

#[cfg(test)]
mod tests;

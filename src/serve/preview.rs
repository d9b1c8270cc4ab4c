//! What is shown of images while they are made.

use std::io::Cursor;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use ndarray::Array3;
use tch::Tensor;

use crate::images::to_array;
use crate::report::grid;

/// Longest side of what is shown, in pixels.
const MAX_SIDE: u32 = 512;
/// Up to so many pixels it is a PNG: small images show every pixel.
const MAX_PNG_PIXELS: u32 = 128 * 128;

/// A small image of a batch `[N, C, H, W]` in [-1, 1], as an address that holds it.
///
/// # Errors
/// It cannot be encoded.
pub(super) fn preview(x: &Tensor) -> Result<String> {
    of_figure(grid(to_array(x).view()))
}

/// As [`preview`], of an image `[H, W, C]`.
///
/// # Errors
/// As `preview`.
pub(super) fn of_figure(figure: Array3<u8>) -> Result<String> {
    let image = dynamic(figure)?;
    let image = match image.width().max(image.height()) > MAX_SIDE {
        true => image.thumbnail(MAX_SIDE, MAX_SIDE),
        false => image,
    };
    let (format, kind) = match image.width() * image.height() <= MAX_PNG_PIXELS {
        true => (ImageFormat::Png, "png"),
        false => (ImageFormat::Jpeg, "jpeg"),
    };
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format)?;
    let bytes = BASE64_STANDARD.encode(bytes.into_inner());
    Ok(format!("data:image/{kind};base64,{bytes}"))
}

fn dynamic(figure: Array3<u8>) -> Result<DynamicImage> {
    let (height, width, channels) = figure.dim();
    let (height, width) = (height as u32, width as u32);
    let samples = figure
        .as_standard_layout()
        .into_owned()
        .into_raw_vec_and_offset()
        .0;
    let image = match channels {
        1 => GrayImage::from_raw(width, height, samples).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, samples).map(DynamicImage::from),
    };
    image.ok_or_else(|| {
        anyhow::anyhow!("an image of {width}x{height} pixels and {channels} channels")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(height: usize, width: usize, channels: usize) -> (String, DynamicImage) {
        let figure = Array3::from_shape_fn((height, width, channels), |(y, x, c)| {
            (y * 7 + x * 3 + c) as u8
        });
        let address = of_figure(figure).unwrap();
        let (kind, bytes) = address.split_once(";base64,").unwrap();
        let bytes = BASE64_STANDARD.decode(bytes).unwrap();
        (kind.to_owned(), image::load_from_memory(&bytes).unwrap())
    }

    #[test]
    fn small_images_are_exact_and_large_ones_shrunk() {
        for channels in [1, 3] {
            let (kind, image) = shown(64, 96, channels);
            assert_eq!(
                (kind.as_str(), image.width(), image.height()),
                ("data:image/png", 96, 64)
            );
            let image = image.into_rgb8();
            assert_eq!(image.get_pixel(5, 2).0[0], 14 + 15);
            let (kind, image) = shown(1000, 2000, channels);
            assert_eq!(
                (kind.as_str(), image.width(), image.height()),
                ("data:image/jpeg", 512, 256)
            );
        }
    }
}

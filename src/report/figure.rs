//! Lays out, compares and writes images.

use std::path::Path;

use anyhow::{Context, Result};
use ndarray::{Array3, ArrayView3, ArrayView4, Axis, Zip, concatenate};

use super::mark::mark_png;
use super::png_text::add_settings;
use crate::fs::{open_regular, write_bytes};

/// Lays images out row by row in the squarest grid, unused places black.
///
/// # Shapes
/// - `images`: `[N, H, W, C]`, N ≥ 1; returns `[rows * H, columns * W, C]`
pub fn grid(images: ArrayView4<u8>) -> Array3<u8> {
    let columns = (images.dim().0 as f64).sqrt().ceil() as usize;
    grid_of_columns(images, columns)
}

/// As [`grid`], with a given number of columns, 1 or more.
pub fn grid_of_columns(images: ArrayView4<u8>, columns: usize) -> Array3<u8> {
    let (n, h, w, c) = images.dim();
    let rows = n.div_ceil(columns);
    let mut grid = Array3::zeros((rows * h, columns * w, c));
    for (mut place, image) in grid
        .exact_chunks_mut((h, w, c))
        .into_iter()
        .zip(images.outer_iter())
    {
        place.assign(&image);
    }
    grid
}

/// Lays images of one height side by side with `gap` white columns between them.
///
/// # Shapes
/// - `images`: `[H, …, C]` each, one or more; returns `[H, sum of the widths and gaps, C]`
///
/// # Panics
/// No images, or different H or C.
pub fn beside(images: &[Array3<u8>], gap: usize) -> Array3<u8> {
    let (h, _, c) = images[0].dim();
    let white = Array3::from_elem((h, gap, c), 255);
    let mut parts = vec![images[0].view()];
    for image in &images[1..] {
        parts.extend([white.view(), image.view()]);
    }
    concatenate(Axis(1), &parts).expect("images of one height and one number of channels")
}

/// Mean squared difference, in units of one of 256 levels.
///
/// # Shapes
/// - `a`, `b`: `[H, W, C]`, both the same
pub fn mean_sq_error(a: ArrayView3<u8>, b: ArrayView3<u8>) -> f64 {
    let square = |sum: u64, a: &u8, b: &u8| sum + u64::from(a.abs_diff(*b)).pow(2);
    Zip::from(a).and(b).fold(0, square) as f64 / a.len() as f64
}

/// Peak signal-to-noise ratio of an image, in dB; infinite for equal images.
///
/// # Shapes
/// As [`mean_sq_error`].
pub fn psnr_db(a: ArrayView3<u8>, b: ArrayView3<u8>) -> f64 {
    10.0 * (255.0 * 255.0 / mean_sq_error(a, b)).log10()
}

/// One `[H, W, C]` image, C = 1 (grey) or 3 (RGB), as a PNG file, with the settings that it was made with: a line of JSON,
/// which [`settings_of_png`](super::settings_of_png) reads back.
///
/// # Errors
/// An image without pixels.
pub fn encode_png(image: ArrayView3<u8>, settings: Option<&str>) -> Result<Vec<u8>> {
    let (h, w, c) = image.dim();
    let color = if c == 1 {
        image::ExtendedColorType::L8
    } else {
        image::ExtendedColorType::Rgb8
    };
    let pixels = image.as_standard_layout();
    let pixels = pixels.as_slice().context("an image with gaps")?;
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::write_image(encoder, pixels, w as u32, h as u32, color)?;
    mark_png(&mut png);
    settings
        .iter()
        .for_each(|settings| add_settings(&mut png, settings));
    Ok(png)
}

/// Writes one `[H, W, C]` image, C = 1 (grey) or 3 (RGB), as PNG, whole or not at all.
///
/// # Errors
/// As [`write_png_with`].
pub fn write_png(path: &Path, image: ArrayView3<u8>) -> Result<()> {
    write_png_with(path, image, None)
}

/// As [`write_png`], with the settings that it was made with, as [`encode_png`] has them.
///
/// # Errors
/// An image without pixels; a file that cannot be written.
pub fn write_png_with(path: &Path, image: ArrayView3<u8>, settings: Option<&str>) -> Result<()> {
    let png =
        encode_png(image, settings).with_context(|| format!("cannot encode {}", path.display()))?;
    write_bytes(path, &png)
}

/// Reads an image that [`write_png`] wrote, `[H, W, C]` with `channels` of 1 or 3.
///
/// # Errors
/// A file that cannot be read or decoded.
pub fn read_png(path: &Path, channels: i64) -> Result<Array3<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = std::io::BufReader::new(open_regular(path).with_context(cannot)?);
    let image = image::load(file, image::ImageFormat::Png).with_context(cannot)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = match channels {
        1 => image.into_luma8().into_raw(),
        _ => image.into_rgb8().into_raw(),
    };
    Ok(Array3::from_shape_vec(
        (height, width, channels as usize),
        pixels,
    )?)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn beside_leaves_white_between() {
        let row = beside(&[array![[[7]], [[1]]], array![[[8]], [[2]]]], 2);
        assert_eq!(
            row,
            array![[[7], [255], [255], [8]], [[1], [255], [255], [2]]]
        );
    }

    #[test]
    fn an_image_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        for channels in [1, 3] {
            let image =
                Array3::from_shape_fn((4, 21, channels), |(y, x, c)| (y * 63 + x * 3 + c) as u8);
            write_png(&path, image.view()).unwrap();
            assert_eq!(read_png(&path, channels as i64).unwrap(), image);
        }
        std::fs::write(&path, "no image").unwrap();
        let error = format!("{:#}", read_png(&path, 3).unwrap_err());
        assert!(error.contains("a.png"), "{error}");
    }

    #[test]
    fn psnr_of_an_error_of_one_level_is_48_db() {
        let (a, b) = (array![[[10, 200]]], array![[[11, 199]]]);
        assert_eq!(mean_sq_error(a.view(), b.view()), 1.0);
        assert!((psnr_db(a.view(), b.view()) - 48.1308).abs() < 1e-4);
        assert_eq!(psnr_db(a.view(), a.view()), f64::INFINITY);
    }

    #[test]
    fn a_grid_runs_row_by_row_and_pads_with_black() {
        // Two pixels wide, one high.
        let images = array![[[[1], [2]]], [[[3], [4]]], [[[5], [6]]]];
        assert_eq!(
            grid(images.view()),
            array![[[1], [2], [3], [4]], [[5], [6], [0], [0]]]
        );
        assert_eq!(
            grid_of_columns(images.view(), 1),
            array![[[1], [2]], [[3], [4]], [[5], [6]]]
        );
    }
}

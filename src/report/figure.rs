//! Pictures out of tensors.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::fs::write_bytes;

/// Values in [-1, 1] to bytes: (x + 1) / 2 * 255, rounded half to even, clipped.
pub fn to_pixels(pictures: &Tensor) -> Tensor {
    ((pictures + 1.0) / 2.0 * 255.0)
        .round()
        .clamp(0.0, 255.0)
        .to_kind(Kind::Uint8)
}

/// Lays pictures out row by row in the squarest grid, unused places black.
///
/// # Shapes
/// - `pixels`: `[N, C, H, W]` u8; returns `[C, rows * H, columns * W]` u8
pub fn grid(pixels: &Tensor) -> Tensor {
    let columns = (pixels.size()[0] as f64).sqrt().ceil() as i64;
    grid_of_columns(pixels, columns)
}

/// [`grid`] with a given number of columns, 1 or more.
pub fn grid_of_columns(pixels: &Tensor, columns: i64) -> Tensor {
    let size = pixels.size();
    let (n, c, h, w) = (size[0], size[1], size[2], size[3]);
    let rows = (n + columns - 1) / columns;
    let filled = pixels.constant_pad_nd([0, 0, 0, 0, 0, 0, 0, rows * columns - n]);
    filled
        .view([rows, columns, c, h, w])
        .permute([2, 0, 3, 1, 4])
        .contiguous()
        .view([c, rows * h, columns * w])
}

/// Lays pictures of one height side by side with `gap` white columns between them.
///
/// # Shapes
/// - `pictures`: `[C, H, …]` u8 each, one or more; returns `[C, H, sum of the widths and gaps]` u8
pub fn beside(pictures: &[Tensor], gap: i64) -> Tensor {
    let size = pictures[0].size();
    let white = Tensor::full(
        [size[0], size[1], gap],
        255,
        (Kind::Uint8, pictures[0].device()),
    );
    let mut parts = vec![&pictures[0]];
    for picture in &pictures[1..] {
        parts.extend([&white, picture]);
    }
    Tensor::cat(&parts, 2)
}

/// Peak signal-to-noise ratio of a picture, in dB; infinite for two that are the same.
///
/// # Shapes
/// - `a`, `b`: u8 tensors of one shape
pub fn psnr_db(a: &Tensor, b: &Tensor) -> f64 {
    let error = a.to_kind(Kind::Double) - b.to_kind(Kind::Double);
    let mse = error.square().mean(Kind::Double).double_value(&[]);
    10.0 * (255.0 * 255.0 / mse).log10()
}

/// Writes one `[C, H, W]` u8 picture (C = 1 or 3) as PNG, whole or not at all.
pub fn write_png(path: &Path, picture: &Tensor) -> Result<()> {
    let size = picture.size();
    let (c, h, w) = (size[0], size[1], size[2]);
    let color = if c == 1 {
        image::ExtendedColorType::L8
    } else {
        image::ExtendedColorType::Rgb8
    };
    let hwc = picture.permute([1, 2, 0]).contiguous().view([-1]);
    let pixels = Vec::<u8>::try_from(hwc)?;
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::write_image(encoder, &pixels, w as u32, h as u32, color)
        .with_context(|| format!("cannot encode {}", path.display()))?;
    write_bytes(path, &png)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_clipped() {
        // 0 is 127.5, the one tie among numbers that f32 holds; then values outside the range.
        let x = Tensor::from_slice(&[0.0f32, 1.0, -1.0, 1.2, -7.0]);
        assert_eq!(
            Vec::<u8>::try_from(to_pixels(&x)).unwrap(),
            [128, 255, 0, 255, 0]
        );
    }

    #[test]
    fn beside_leaves_white_between() {
        let one = |value: i64| Tensor::full([1, 1, 1], value, (Kind::Uint8, tch::Device::Cpu));
        let row = beside(&[one(7), one(8)], 2);
        assert_eq!(
            Vec::<u8>::try_from(row.view([-1])).unwrap(),
            [7, 255, 255, 8]
        );
    }

    #[test]
    fn psnr_of_an_error_of_one_level_is_48_db() {
        let a = Tensor::from_slice(&[10u8, 200]);
        let b = Tensor::from_slice(&[11u8, 199]);
        assert!((psnr_db(&a, &b) - 48.1308).abs() < 1e-4);
        assert_eq!(psnr_db(&a, &a), f64::INFINITY);
    }

    #[test]
    fn a_grid_runs_row_by_row_and_pads_with_black() {
        let x = Tensor::from_slice(&[-1.0f32, 0.0, 1.0]).view([3, 1, 1, 1]);
        let g = grid(&to_pixels(&x));
        assert_eq!(g.size(), [1, 2, 2]);
        assert_eq!(Vec::<u8>::try_from(g.view([-1])).unwrap(), [0, 128, 255, 0]);
    }
}

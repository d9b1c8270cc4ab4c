//! Reads images from files for a network.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ndarray::{Array2, Array3, Axis};
use tch::Tensor;

use crate::config::{DataConfig, MAX_SIDE, ModelConfig};
use crate::data::{ImageSpec, decode, upright_size};
use crate::images::to_tensor;

/// Reads an image as training does: turned upright, cropped to the centre, resized.
///
/// # Shapes
/// Returns `[C, H, W]` f32 in [-1, 1] on CPU.
///
/// # Errors
/// A file that is not an image.
pub(in crate::cli) fn read_image(
    path: &Path,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let [channels, _, _] = model.chw();
    let image = decode_to_size(path, channels, model, data)?;
    Ok(to_tensor(image.view().insert_axis(Axis(0))).get(0))
}

/// Reads an image in its own size, to be made `factor` times larger.
///
/// # Shapes
/// Returns `[C, h, w]` f32 in [-1, 1] on CPU.
///
/// # Errors
/// A file that is not an image, or one that would become too large.
pub(in crate::cli) fn read_whole(
    path: &Path,
    model: &ModelConfig,
    data: &DataConfig,
    factor: i64,
) -> Result<Tensor> {
    let cannot = || format!("cannot use image {}", path.display());
    let (height, width) = upright_size(path).with_context(cannot)?;
    ensure!(
        height.max(width) as i64 * factor <= MAX_SIDE,
        "{}: {width}x{height} pixels would become {}x{}; want at most {MAX_SIDE} on a side: cut it first",
        path.display(),
        width as i64 * factor,
        height as i64 * factor
    );
    let spec = ImageSpec::of([model.chw()[0], height as i64, width as i64], data);
    let image = decode(path, &spec).with_context(cannot)?;
    Ok(to_tensor(image.pixels.view().insert_axis(Axis(0))).get(0))
}

/// Reads a mask, cropped and resized as an image is.
///
/// # Shapes
/// Returns `[H, W]`: true where the mask is light, false where it is dark.
///
/// # Errors
/// A file that is not an image.
pub(in crate::cli) fn read_mask(
    path: &Path,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Array2<bool>> {
    let image = decode_to_size(path, 1, model, data)?;
    Ok(image.index_axis_move(Axis(2), 0).mapv(|value| value >= 128))
}

/// `[H, W, channels]`.
fn decode_to_size(
    path: &Path,
    channels: i64,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Array3<u8>> {
    let [_, height, width] = model.chw();
    let spec = ImageSpec::of([channels, height, width], data);
    let image =
        decode(path, &spec).with_context(|| format!("cannot use image {}", path.display()))?;
    Ok(image.pixels)
}

/// Reads several images, `[N, C, H, W]`.
///
/// # Errors
/// As [`read_image`].
pub(in crate::cli) fn read_images<P: AsRef<Path>>(
    paths: &[P],
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let all = paths.iter().map(|p| read_image(p.as_ref(), model, data));
    Ok(Tensor::stack(&all.collect::<Result<Vec<_>>>()?, 0))
}

//! Pictures from files, in the form that a network takes.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::config::{DataConfig, ModelConfig};
use crate::data::{PictureSpec, decode};

/// Reads a picture as training would: turned upright, cropped to the centre, resized.
///
/// # Shapes
/// Returns `[C, H, W]` f32 in [-1, 1] on CPU.
///
/// # Errors
/// A file that is no picture.
pub(in crate::cli) fn read_picture(
    path: &Path,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let [channels, _, _] = model.chw();
    Ok(read_pixels(path, channels, model, data)?.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0)
}

/// Reads a mask, cropped and resized as a picture is.
///
/// # Shapes
/// Returns `[H, W]` f32 on CPU: 1 where it is light, 0 where it is dark.
///
/// # Errors
/// A file that is no picture.
pub(in crate::cli) fn read_mask(
    path: &Path,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let pixels = read_pixels(path, 1, model, data)?;
    Ok(pixels.get(0).ge(128).to_kind(Kind::Float))
}

/// `[channels, H, W]` u8.
fn read_pixels(
    path: &Path,
    channels: i64,
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let [_, height, width] = model.chw();
    let spec = PictureSpec {
        height: height as usize,
        width: width as usize,
        channels: channels as usize,
        resize: data.resize,
        background: data.background,
    };
    let pixels =
        decode(path, &spec).with_context(|| format!("cannot use picture {}", path.display()))?;
    let hwc = Tensor::try_from(pixels)?;
    Ok(hwc.permute([2, 0, 1]).contiguous())
}

/// Reads several pictures, `[N, C, H, W]`.
///
/// # Errors
/// As [`read_picture`].
pub(in crate::cli) fn read_pictures<P: AsRef<Path>>(
    paths: &[P],
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let all = paths.iter().map(|p| read_picture(p.as_ref(), model, data));
    Ok(Tensor::stack(&all.collect::<Result<Vec<_>>>()?, 0))
}

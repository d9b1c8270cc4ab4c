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
pub(super) fn read_picture(path: &Path, model: &ModelConfig, data: &DataConfig) -> Result<Tensor> {
    let [channels, height, width] = model.chw();
    let spec = PictureSpec {
        height: height as usize,
        width: width as usize,
        channels: channels as usize,
        resize: data.resize,
        background: data.background,
    };
    let pixels =
        decode(path, &spec).with_context(|| format!("cannot use picture {}", path.display()))?;
    let hwc = Tensor::from_slice(&pixels).view([height, width, channels]);
    Ok(hwc.permute([2, 0, 1]).to_kind(Kind::Float) / 255.0 * 2.0 - 1.0)
}

/// Reads several pictures, `[N, C, H, W]`.
///
/// # Errors
/// As [`read_picture`].
pub(super) fn read_pictures<P: AsRef<Path>>(
    paths: &[P],
    model: &ModelConfig,
    data: &DataConfig,
) -> Result<Tensor> {
    let all = paths.iter().map(|p| read_picture(p.as_ref(), model, data));
    Ok(Tensor::stack(&all.collect::<Result<Vec<_>>>()?, 0))
}

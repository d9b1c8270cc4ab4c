//! Brings images to the size that a network takes.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::Dialect;

/// Images as the Inception network takes them.
///
/// # Shapes
/// - `images`: `[N, C, H, W]` u8, C 1 or 3; returns `[N, 3, size, size]` f32 on `device`, about [-1, 1]
pub(super) fn to_inception(
    images: &Tensor,
    size: i64,
    dialect: Dialect,
    device: Device,
) -> Result<Tensor> {
    let x = images.f_to_device(device)?.f_to_kind(Kind::Float)?;
    let x = match dialect {
        Dialect::PytorchFid => half_pixel(&(x.f_div_scalar(255.0)?), size)?
            .f_mul_scalar(2.0)?
            .f_sub_scalar(1.0)?,
        Dialect::Tf => corner_pixel(&x, size)?
            .f_sub_scalar(128.0)?
            .f_div_scalar(128.0)?,
    };
    Ok(x.f_expand([-1, 3, -1, -1], false)?)
}

/// Images in [-1, 1] as the other networks take them: bilinear between centres of pixels, of which all that fall into a
/// new pixel are weighed.
///
/// # Shapes
/// - `images`: `[N, C, H, W]` u8; returns `[N, C, size, size]` f32 on `device`
pub(super) fn antialiased(images: &Tensor, size: i64, device: Device) -> Result<Tensor> {
    let x = images.f_to_device(device)?.f_to_kind(Kind::Float)?;
    let x = x.f_div_scalar(127.5)?.f_sub_scalar(1.0)?;
    if x.size()[2..] == [size, size] {
        return Ok(x);
    }
    Ok(x.f_internal_upsample_bilinear2d_aa([size, size], false, None, None)?)
}

/// Bilinear, with sources `(i + 1/2) W / size - 1/2`: PyTorch's `align_corners=False`, without antialiasing.
fn half_pixel(x: &Tensor, size: i64) -> Result<Tensor> {
    Ok(x.f_upsample_bilinear2d([size, size], false, None, None)?)
}

/// Bilinear, with sources `i W / size`, as TensorFlow 1 resizes: the image moves up and left by half a pixel.
///
/// Source: TensorFlow's `resize_bilinear_op.cc`, with `half_pixel_centers` false.
fn corner_pixel(x: &Tensor, size: i64) -> Result<Tensor> {
    let across = lerp_along(x, 3, size)?;
    lerp_along(&across, 2, size)
}

fn lerp_along(x: &Tensor, dim: i64, size: i64) -> Result<Tensor> {
    let length = x.size()[dim as usize];
    // Sources and weights in f32, as TensorFlow and torch-fidelity compute them.
    let scale = length as f64 / size as f64;
    let source = Tensor::f_arange(size, (Kind::Float, x.device()))?.f_mul_scalar(scale)?;
    let low = source.f_to_kind(Kind::Int64)?;
    let high = low.f_add_scalar(1)?.f_clamp_max(length - 1)?;
    let mut shape = [1; 4];
    shape[dim as usize] = size;
    let weight = source.f_sub(&low.f_to_kind(Kind::Float)?)?.f_view(shape)?;
    let (low, high) = (x.f_index_select(dim, &low)?, x.f_index_select(dim, &high)?);
    Ok(high.f_sub(&low)?.f_mul(&weight)?.f_add(&low)?)
}

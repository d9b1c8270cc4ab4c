//! The safe face of `fused/`: operations that take less memory and time than their parts.

use std::ffi::{c_int, c_void};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::{check, ptr};

unsafe extern "C" {
    fn ddpm_residual_block(
        x: *const c_void,
        t: *const c_void,
        w1: *const c_void,
        w2: *const c_void,
        shortcut: *const c_void,
        gamma: *const c_void,
        beta: *const c_void,
        skip: *const c_void,
        groups: i64,
        eps: f64,
        checkpointed: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_checkpointed_block(
        x: *const c_void,
        t: *const c_void,
        w1: *const c_void,
        w2: *const c_void,
        shortcut: *const c_void,
        gamma: *const c_void,
        beta: *const c_void,
        groups: i64,
        eps: f64,
        dropout: f64,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_group_norm_silu(
        x: *const c_void,
        t: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        groups: i64,
        eps: f64,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_rms_norm(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        smallest: f64,
        silu: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
}

/// The weights of a residual block of Keras-DDPM's U-Net.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeights<'a> {
    /// `[Cout, Cin, 3, 3]`
    pub conv1: &'a Tensor,
    /// `[Cout, Cout, 3, 3]`
    pub conv2: &'a Tensor,
    /// `[Cout, Cin, 1, 1]`; none where the widths are equal.
    pub shortcut: Option<&'a Tensor>,
    /// Of Cout channels.
    pub norm: GroupNorm<'a>,
}

/// A group norm and what its result is scaled and shifted by.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// `[C]` unless said otherwise.
    pub weight: &'a Tensor,
    /// As `weight`.
    pub bias: &'a Tensor,
    /// Divides C.
    pub groups: i64,
    /// Added to the variance.
    pub eps: f64,
}

/// A residual block of Keras-DDPM on a CPU as one operation of autograd, that takes less memory and less time than
/// its parts: `group_norm(silu(conv2(silu(conv1(x + t)))) + shortcut(x)) + skip`.
///
/// Kept for the backward pass are x and what the convolutions gave; of a `checkpointed` block x alone, from which the
/// backward pass computes the rest again. The bits are the same.
///
/// # Shapes
/// All f32 on CPU.
/// - `x`: `[N, Cin, H, W]`; `t`: `[N, Cin]`; `skip`: as the output, `[N, Cout, H, W]`, channels last in memory
///
/// # Errors
/// Other shapes or kinds.
pub fn residual_block(
    x: &Tensor,
    t: &Tensor,
    weights: BlockWeights<'_>,
    skip: Option<&Tensor>,
    checkpointed: bool,
) -> Result<Tensor> {
    let (n, c_in, height, width) = x.size4()?;
    let c_out = weights.conv1.size()[0];
    let norm = weights.norm;
    // libtorch checks the convolutions.
    let given = [x, t, weights.conv1, weights.conv2, norm.weight, norm.bias];
    for tensor in given.into_iter().chain(weights.shortcut).chain(skip) {
        check_f32_on_cpu(tensor)?;
    }
    let out_shape = [n, c_out, height, width];
    ensure!(
        t.size() == [n, c_in]
            && weights.conv1.size() == [c_out, c_in, 3, 3]
            && weights.conv2.size() == [c_out, c_out, 3, 3]
            && weights
                .shortcut
                .map_or(c_in == c_out, |w| w.size() == [c_out, c_in, 1, 1])
            && norm.weight.size() == [c_out]
            && norm.bias.size() == [c_out]
            && skip.is_none_or(|s| s.size() == out_shape)
            && norm.groups > 0
            && c_out % norm.groups == 0,
        "a fused block of {c_in} to {c_out} channels with other shapes"
    );
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors of the shapes that the shim expects, or null where it allows that.
    check(unsafe {
        ddpm_residual_block(
            ptr(x),
            ptr(t),
            ptr(weights.conv1),
            ptr(weights.conv2),
            or_none(weights.shortcut),
            ptr(norm.weight),
            ptr(norm.bias),
            or_none(skip),
            norm.groups,
            norm.eps,
            c_int::from(checkpointed),
            &mut out,
        )
    })?;
    // SAFETY: the shim made a tensor for us to own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// The same without `skip`, on any device and in any precision, operation by operation, with dropout between the
/// convolutions: only x is kept, and the backward pass computes the block again, with the same casts and the same mask.
///
/// # Shapes
/// As [`residual_block`]; x and t may be bf16 under [`Bf16`](super::Bf16). Returns f32.
///
/// # Errors
/// What libtorch refuses.
pub fn checkpointed_block(
    x: &Tensor,
    t: &Tensor,
    weights: BlockWeights<'_>,
    dropout: f64,
) -> Result<Tensor> {
    let norm = weights.norm;
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors, or null where the shim allows that; libtorch checks their shapes.
    check(unsafe {
        ddpm_checkpointed_block(
            ptr(x),
            ptr(t),
            ptr(weights.conv1),
            ptr(weights.conv2),
            or_none(weights.shortcut),
            ptr(norm.weight),
            ptr(norm.bias),
            norm.groups,
            norm.eps,
            dropout,
            &mut out,
        )
    })?;
    // SAFETY: the shim made a tensor for us to own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// `silu(group_norm(x + t))` on a CPU as one operation of autograd. Of maps, x alone is kept for the backward pass.
///
/// # Shapes
/// All f32 on CPU.
/// - `x`: `[N, C, H, W]`; `t`: `[N, C]`; returns `x`'s shape, channels last in memory
/// - the norm's `weight` and `bias`: `[N, C]`, or `[C]` for all pictures
///
/// # Errors
/// Other shapes or kinds.
pub fn group_norm_silu(x: &Tensor, t: Option<&Tensor>, norm: GroupNorm<'_>) -> Result<Tensor> {
    let (n, c, _, _) = x.size4()?;
    let [weight, bias] = a_picture([norm.weight, norm.bias], n, c)?;
    for tensor in [x].into_iter().chain(t) {
        check_f32_on_cpu(tensor)?;
    }
    ensure!(
        t.is_none_or(|t| t.size() == [n, c]) && norm.groups > 0 && c % norm.groups == 0,
        "a fused norm of {c} channels in {} groups with other shapes",
        norm.groups
    );
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors of the shapes that the shim expects, or null where it allows that.
    check(unsafe {
        ddpm_group_norm_silu(
            ptr(x),
            or_none(t),
            ptr(&weight),
            ptr(&bias),
            norm.groups,
            norm.eps,
            &mut out,
        )
    })?;
    // SAFETY: the shim made a tensor for us to own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// `x / max(|x|, smallest) * weight + bias` on a CPU, with |x| the length of each pixel's channels, and `silu` of that
/// if asked for, as one operation of autograd. Of maps, x alone is kept for the backward pass.
///
/// # Shapes
/// All f32 on CPU.
/// - `x`: `[N, C, H, W]`; returns the same, channels last in memory
/// - `weight`, `bias`: `[N, C]`, or `[C]` for all pictures
///
/// # Errors
/// Other shapes or kinds.
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    smallest: f64,
    silu: bool,
) -> Result<Tensor> {
    let (n, c, _, _) = x.size4()?;
    let [weight, bias] = a_picture([weight, bias], n, c)?;
    check_f32_on_cpu(x)?;
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors of the shapes that the shim expects.
    check(unsafe {
        ddpm_rms_norm(
            ptr(x),
            ptr(&weight),
            ptr(&bias),
            smallest,
            c_int::from(silu),
            &mut out,
        )
    })?;
    // SAFETY: the shim made a tensor for us to own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// Numbers of each channel for each picture.
fn a_picture(numbers: [&Tensor; 2], n: i64, c: i64) -> Result<[Tensor; 2]> {
    for tensor in numbers {
        check_f32_on_cpu(tensor)?;
        ensure!(
            tensor.size() == [c] || tensor.size() == [n, c],
            "a fused norm of {c} channels with weights of shape {:?}",
            tensor.size()
        );
    }
    Ok(numbers.map(|tensor| tensor.expand([n, c], false)))
}

/// The loops trust that.
fn check_f32_on_cpu(tensor: &Tensor) -> Result<()> {
    ensure!(
        tensor.kind() == Kind::Float && tensor.device() == Device::Cpu,
        "a fused operation wants f32 on the CPU, not {:?} on {:?}",
        tensor.kind(),
        tensor.device()
    );
    Ok(())
}

fn or_none(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), ptr)
}

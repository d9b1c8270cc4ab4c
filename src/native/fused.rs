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

/// A group norm.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// `[C]`
    pub weight: &'a Tensor,
    /// `[C]`
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
    // The loops trust what is checked here, and libtorch checks the convolutions.
    let given = [x, t, weights.conv1, weights.conv2, norm.weight, norm.bias];
    for tensor in given.into_iter().chain(weights.shortcut).chain(skip) {
        ensure!(
            tensor.kind() == Kind::Float && tensor.device() == Device::Cpu,
            "a fused block wants f32 on the CPU, not {:?} on {:?}",
            tensor.kind(),
            tensor.device()
        );
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

fn or_none(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), ptr)
}

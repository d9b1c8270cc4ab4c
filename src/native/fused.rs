//! Safe wrapper of `fused/`: fused operations, which need less memory and time than their parts.
//!
//! Their errors are tch's, so that a program that recognises panics of tch's operations (out of memory, for one) also
//! recognises theirs.

use std::ffi::{c_int, c_void};

use tch::{Device, Kind, TchError, Tensor};

use super::{outcome, ptr};

type Result<T> = std::result::Result<T, TchError>;

unsafe extern "C" {
    fn ddpm_kept_filters_new() -> *mut c_void;
    fn ddpm_kept_filters_free(kept: *mut c_void);
    fn ddpm_kept_filters_use(kept: *mut c_void) -> *mut c_void;
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
    fn ddpm_composed_block(
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
        dropout: f64,
        checkpointed: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_halved(x: *const c_void, out: *mut *mut c_void) -> c_int;
    fn ddpm_conv3x3(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
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

/// Weights of a residual block of Keras-DDPM's U-Net.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeights<'a> {
    /// `[Cout, Cin, 3, 3]`
    pub conv1: &'a Tensor,
    /// `[Cout, Cout, 3, 3]`
    pub conv2: &'a Tensor,
    /// `[Cout, Cin, 1, 1]`; `None` if the widths are equal.
    pub shortcut: Option<&'a Tensor>,
    /// Of Cout channels.
    pub norm: GroupNorm<'a>,
}

/// A group norm with its scale and shift.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// Scale, `[C]` unless stated otherwise.
    pub weight: &'a Tensor,
    /// Shift, like `weight`.
    pub bias: &'a Tensor,
    /// Number of groups, a divisor of C.
    pub groups: i64,
    /// Added to the variance.
    pub eps: f64,
}

/// A residual block of Keras-DDPM on a CPU as one autograd operation, which needs less memory and time than its
/// parts: `group_norm(silu(conv2(silu(conv1(x + t)))) + shortcut(x)) + skip`.
///
/// Kept for the backward pass are x and the outputs of the convolutions; for a `checkpointed` block only x, from which
/// the backward pass recomputes the rest, to the same bits. Under [`Bf16`](super::Bf16) the convolutions have bf16
/// inputs and outputs; sums and the norm are computed in f32.
///
/// # Shapes
/// All f32 on CPU.
/// - `x`: `[N, Cin, H, W]`; `t`: `[N, Cin]`; `skip`: like the output, `[N, Cout, H, W]`, channels last in memory
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
    let norm = weights.norm;
    // libtorch checks the convolutions.
    let given = [x, t, weights.conv1, weights.conv2, norm.weight, norm.bias];
    for tensor in given.into_iter().chain(weights.shortcut).chain(skip) {
        check_f32_on_cpu(tensor)?;
    }
    check_block(x, t, weights, skip)?;
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
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// The checkpointed block without `skip`, on any device and in any precision, as separate operations with dropout
/// between the convolutions: only x is kept, and the backward pass recomputes the block with the same casts and mask.
///
/// # Shapes
/// As [`residual_block`]; x and t may be bf16 under [`Bf16`](super::Bf16). Returns f32.
///
/// # Errors
/// Errors of libtorch.
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
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// The block as one autograd operation composed of libtorch's own operators, on any device and in any precision, with
/// dropout between the convolutions.
///
/// Kept for the backward pass are x + t and the outputs of the convolutions, under [`Bf16`](super::Bf16) in bf16; for a
/// `checkpointed` block only x + t. With dropout its mask is kept besides.
///
/// # Shapes
/// As [`residual_block`], in any layout; maps and t may be bf16 under [`Bf16`](super::Bf16), and so may weights, whose
/// gradients are of their kind. Returns f32.
///
/// # Errors
/// Other shapes, and errors of libtorch.
pub fn composed_block(
    x: &Tensor,
    t: &Tensor,
    weights: BlockWeights<'_>,
    skip: Option<&Tensor>,
    dropout: f64,
    checkpointed: bool,
) -> Result<Tensor> {
    check_block(x, t, weights, skip)?;
    let norm = weights.norm;
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors of the shapes that the shim expects, or null where it allows that.
    check(unsafe {
        ddpm_composed_block(
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
            dropout,
            c_int::from(checkpointed),
            &mut out,
        )
    })?;
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// Averages of 2×2 pixels, as an autograd operation that keeps nothing for the backward pass.
///
/// # Shapes
/// `[N, C, H, W]` to `[N, C, H/2, W/2]`, of any kind on any device.
///
/// # Errors
/// Errors of libtorch.
pub fn halved(x: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the pointer is a live tensor, whose shape libtorch checks.
    check(unsafe { ddpm_halved(ptr(x), &mut out) })?;
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// 3×3 convolution, stride 1, zero padding 1. Large f32 maps on a CPU use Winograd tiles, which need fewer
/// multiplications and round less often; the rest is libtorch's.
///
/// # Shapes
/// - `x`: `[N, Cin, H, W]`; `weight`: `[Cout, Cin, 3, 3]`; `bias`: `[Cout]`; returns `[N, Cout, H, W]`
///
/// # Errors
/// Other shapes, and errors of libtorch.
pub fn conv3x3(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (_, c_in, _, _) = x.size4()?;
    let c_out = weight.size()[0];
    ensure(
        weight.size() == [c_out, c_in, 3, 3] && bias.is_none_or(|b| b.size() == [c_out]),
        || format!("a 3x3 convolution of {c_in} channels with other shapes"),
    )?;
    if x.device() == Device::Cpu && x.kind() == Kind::Float {
        for tensor in [weight].into_iter().chain(bias) {
            check_f32_on_cpu(tensor)?;
        }
    }
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors of the shapes that the shim expects, or null where it allows that.
    check(unsafe { ddpm_conv3x3(ptr(x), ptr(weight), or_none(bias), &mut out) })?;
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// `silu(group_norm(x + t))` on a CPU as one autograd operation. The only map kept for the backward pass is x.
///
/// # Shapes
/// All f32 on CPU, except that x may be bf16: it is widened to f32, and the result rounded to bf16.
/// - `x`: `[N, C, H, W]`; `t`: `[N, C]`; returns `x`'s shape and kind, channels last in memory
/// - the norm's `weight` and `bias`: `[N, C]`, or `[C]` for all images
///
/// # Errors
/// Other shapes or kinds.
pub fn group_norm_silu(x: &Tensor, t: Option<&Tensor>, norm: GroupNorm<'_>) -> Result<Tensor> {
    let (n, c, _, _) = x.size4()?;
    let [weight, bias] = an_image([norm.weight, norm.bias], n, c)?;
    if x.kind() != Kind::BFloat16 || x.device() != Device::Cpu {
        check_f32_on_cpu(x)?;
    }
    t.map_or(Ok(()), check_f32_on_cpu)?;
    ensure(
        t.is_none_or(|t| t.size() == [n, c]) && norm.groups > 0 && c % norm.groups == 0,
        || {
            format!(
                "a fused norm of {c} channels in {} groups with other shapes",
                norm.groups
            )
        },
    )?;
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
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// `x / max(|x|, smallest) * weight + bias` on a CPU, with |x| the length of each pixel's channels, followed by silu if
/// `silu`, as one autograd operation. The only map kept for the backward pass is x.
///
/// # Shapes
/// All f32 on CPU.
/// - `x`: `[N, C, H, W]`; returns the same, channels last in memory
/// - `weight`, `bias`: `[N, C]`, or `[C]` for all images
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
    let [weight, bias] = an_image([weight, bias], n, c)?;
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
    // SAFETY: the shim made a tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// Cache of what is made of weights in bf16, for sampling: on a CPU the filters of 3×3 convolutions and residual
/// blocks, on CUDA a copy of every weight of a convolution or linear map. Kept across evaluations of a network, in half
/// the memory of the weights. Has no effect in f32.
///
/// Weights used with it must not change while it is in use.
#[derive(Debug)]
pub struct KeptFilters(*mut c_void);

impl KeptFilters {
    /// An empty cache.
    #[expect(
        clippy::new_without_default,
        reason = "an empty one is not a usual value"
    )]
    pub fn new() -> KeptFilters {
        // SAFETY: makes an object that we free.
        KeptFilters(unsafe { ddpm_kept_filters_new() })
    }

    /// Runs `body`; operations on this thread that need no gradient use and fill this cache.
    pub fn during<T>(&self, body: impl FnOnce() -> T) -> T {
        struct Leave(*mut c_void);
        impl Drop for Leave {
            fn drop(&mut self) {
                // SAFETY: sets a pointer of this thread to its previous value, which lives longer.
                unsafe { ddpm_kept_filters_use(self.0) };
            }
        }
        // SAFETY: the object lives longer than `_leave`, which resets the pointer.
        let _leave = Leave(unsafe { ddpm_kept_filters_use(self.0) });
        body()
    }
}

impl Drop for KeptFilters {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        unsafe { ddpm_kept_filters_free(self.0) }
    }
}

/// Checks values per image and channel.
fn an_image(numbers: [&Tensor; 2], n: i64, c: i64) -> Result<[Tensor; 2]> {
    for tensor in numbers {
        check_f32_on_cpu(tensor)?;
        ensure(tensor.size() == [c] || tensor.size() == [n, c], || {
            format!(
                "a fused norm of {c} channels with weights of shape {:?}",
                tensor.size()
            )
        })?;
    }
    Ok(numbers.map(|tensor| tensor.expand([n, c], false)))
}

/// Checks the shapes of a block's tensors.
fn check_block(
    x: &Tensor,
    t: &Tensor,
    weights: BlockWeights<'_>,
    skip: Option<&Tensor>,
) -> Result<()> {
    let (n, c_in, height, width) = x.size4()?;
    let c_out = weights.conv1.size()[0];
    let norm = weights.norm;
    ensure(
        t.size() == [n, c_in]
            && weights.conv1.size() == [c_out, c_in, 3, 3]
            && weights.conv2.size() == [c_out, c_out, 3, 3]
            && weights
                .shortcut
                .map_or(c_in == c_out, |w| w.size() == [c_out, c_in, 1, 1])
            && norm.weight.size() == [c_out]
            && norm.bias.size() == [c_out]
            && skip.is_none_or(|s| s.size() == [n, c_out, height, width])
            && norm.groups > 0
            && c_out % norm.groups == 0,
        || format!("a fused block of {c_in} to {c_out} channels with other shapes"),
    )
}

/// The loops trust that.
fn check_f32_on_cpu(tensor: &Tensor) -> Result<()> {
    match (tensor.kind(), tensor.device()) {
        (Kind::Float, Device::Cpu) => Ok(()),
        (kind, device) => Err(TchError::Kind(format!(
            "a fused operation wants f32 on the CPU, not {kind:?} on {device:?}"
        ))),
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(TchError::Shape(otherwise()))
    }
}

fn check(status: c_int) -> Result<()> {
    outcome(status).map_err(TchError::Torch)
}

fn or_none(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), ptr)
}

#[cfg(test)]
mod tests;

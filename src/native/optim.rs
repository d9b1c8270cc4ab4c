//! Gradients and the optimizer's step: operations on many tensors at once, in place.

use std::ffi::{c_int, c_void};

use anyhow::{Result, anyhow, ensure};
use tch::{Kind, Tensor};

use super::{check, ptr, ptrs};

unsafe extern "C" {
    fn ddpm_set_grad(leaf: *const c_void, grad: *const c_void) -> c_int;
    fn ddpm_fused_adam(
        param: *const c_void,
        grad: *const c_void,
        exp_avg: *const c_void,
        exp_avg_sq: *const c_void,
        step: *const c_void,
        frozen: *const c_void,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        decoupled_weight_decay: c_int,
    ) -> c_int;
    fn ddpm_foreach_norm(tensors: *const *const c_void, count: i64, out: *const c_void) -> c_int;
    fn ddpm_foreach_mul(tensors: *const *const c_void, count: i64, factors: *const c_void)
    -> c_int;
    fn ddpm_add_scaled(target: *const c_void, other: *const c_void, alpha: f64) -> c_int;
}

/// Makes `grad` the tensor into which `backward` accumulates the gradient of `leaf`.
pub fn set_grad(leaf: &Tensor, grad: &Tensor) -> Result<()> {
    // SAFETY: both pointers are live tensors for the length of the call.
    check(unsafe { ddpm_set_grad(ptr(leaf), ptr(grad)) })
}

/// The numbers of one fused Adam step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// L2 term (Adam) or decoupled decay (AdamW).
    pub weight_decay: f64,
    /// Added to sqrt of the bias-corrected second moment.
    pub eps: f64,
    /// AdamW instead of Adam.
    pub decoupled_weight_decay: bool,
}

/// One step of libtorch's fused Adam on flat tensors, in place.
///
/// # Shapes
/// - `param`, `grad`, `exp_avg`, `exp_avg_sq`: `[P]` f32
/// - `step`: scalar f32 that already holds the number of this step, 1 for the first
/// - `frozen`: scalar f32; where it is 1 nothing changes
pub fn fused_adam(
    param: &Tensor,
    grad: &Tensor,
    exp_avg: &Tensor,
    exp_avg_sq: &Tensor,
    step: &Tensor,
    frozen: &Tensor,
    s: AdamStep,
) -> Result<()> {
    // libtorch's kernel takes the first tensor's length for all of them.
    for tensor in [param, grad, exp_avg, exp_avg_sq] {
        ensure!(
            tensor.kind() == Kind::Float
                && tensor.size() == param.size()
                && tensor.device() == param.device()
                && tensor.is_contiguous(),
            "fused Adam wants contiguous f32 tensors of one shape and device, not {:?} {:?} with {:?}",
            tensor.kind(),
            tensor.size(),
            param.size()
        );
    }
    for scalar in [step, frozen] {
        ensure!(
            scalar.kind() == Kind::Float
                && scalar.numel() == 1
                && scalar.device() == param.device(),
            "fused Adam wants its step and its freeze as one f32 each beside the parameters"
        );
    }
    // SAFETY: all pointers are live tensors of one length on one device.
    check(unsafe {
        ddpm_fused_adam(
            ptr(param),
            ptr(grad),
            ptr(exp_avg),
            ptr(exp_avg_sq),
            ptr(step),
            ptr(frozen),
            s.lr,
            s.beta1,
            s.beta2,
            s.weight_decay,
            s.eps,
            c_int::from(s.decoupled_weight_decay),
        )
    })
}

/// L2 norm of every tensor, as one 1-d tensor of their kind and device.
pub fn foreach_norm(tensors: &[Tensor]) -> Result<Tensor> {
    let like = tensors
        .first()
        .ok_or_else(|| anyhow!("foreach_norm of no tensors"))?;
    let out = Tensor::empty([tensors.len() as i64], (like.kind(), like.device()));
    // SAFETY: the pointer array and all tensors live for the length of the call.
    check(unsafe { ddpm_foreach_norm(ptrs(tensors).as_ptr(), tensors.len() as i64, ptr(&out)) })?;
    Ok(out)
}

/// `tensors[i] *= factors[i]`, in place; `factors` is `[tensors.len()]`.
pub fn foreach_mul(tensors: &[Tensor], factors: &Tensor) -> Result<()> {
    // SAFETY: as in `foreach_norm`; libtorch checks that the two lengths agree.
    check(unsafe { ddpm_foreach_mul(ptrs(tensors).as_ptr(), tensors.len() as i64, ptr(factors)) })
}

/// `target += alpha * other`, in place.
pub fn add_scaled(target: &Tensor, other: &Tensor, alpha: f64) -> Result<()> {
    // SAFETY: both pointers are live tensors for the length of the call.
    check(unsafe { ddpm_add_scaled(ptr(target), ptr(other), alpha) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn an_exception_of_libtorch_becomes_an_error() {
        let a = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        let b = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        let step = Tensor::ones([], (Kind::Float, Device::Cpu));
        let numbers = AdamStep {
            lr: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            eps: 1e-8,
            decoupled_weight_decay: false,
        };
        assert!(foreach_mul(&[a.shallow_clone()], &b).is_err());
        assert!(fused_adam(&a, &b, &a, &a, &step, &step, numbers).is_err());
    }

    #[test]
    fn foreach_norm_and_mul_match_the_plain_operations() {
        let tensors = [
            Tensor::from_slice(&[3.0f32, 4.0]),
            Tensor::from_slice(&[2.0f32]),
        ];
        let norms = foreach_norm(&tensors).unwrap();
        assert_eq!(Vec::<f32>::try_from(&norms).unwrap(), [5.0, 2.0]);
        foreach_mul(&tensors, &Tensor::from_slice(&[2.0f32, 10.0])).unwrap();
        assert_eq!(Vec::<f32>::try_from(&tensors[0]).unwrap(), [6.0, 8.0]);
        assert_eq!(Vec::<f32>::try_from(&tensors[1]).unwrap(), [20.0]);
    }
}

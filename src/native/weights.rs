//! Weights in bf16 on CUDA that are cast once for many uses.

use std::ffi::{c_int, c_void};

use anyhow::Result;
use tch::{TchError, Tensor};

use super::{check, outcome, ptr};

unsafe extern "C" {
    fn ddpm_flat_copy_begin(flat: *const c_void) -> c_int;
    fn ddpm_flat_copy_end();
    fn ddpm_cast_weight(weight: *const c_void, out: *mut *mut c_void) -> c_int;
}

/// A bf16 copy of all weights of a network on CUDA, made by one cast. Until it is dropped, convolutions and linear maps
/// on this thread use it under [`Bf16`](super::Bf16), with and without gradients, for the weights that are views of the
/// flat tensor and whose gradients have a place ([`set_grad`](super::set_grad)).
///
/// `backward` adds a gradient in bf16 to its place in f32 directly: the values are those of PyTorch's autocast, which
/// casts each weight and each gradient by itself. Gradients that are asked for by other ways are undefined.
#[derive(Debug)]
pub struct Bf16Weights {
    /// The copy is the thread's own.
    here: std::marker::PhantomData<*const ()>,
}

impl Bf16Weights {
    /// Copies `flat`, `[P]` f32 on CUDA. It must not change until this is dropped, and a use after a change in place of
    /// `flat` itself fails.
    ///
    /// # Errors
    /// Out of memory; another copy is in use on this thread.
    pub fn of(flat: &Tensor) -> Result<Bf16Weights> {
        // SAFETY: a live tensor; changes state of this thread alone, which `drop` takes back on the same thread.
        check(unsafe { ddpm_flat_copy_begin(ptr(flat)) })?;
        Ok(Bf16Weights {
            here: std::marker::PhantomData,
        })
    }
}

impl Drop for Bf16Weights {
    fn drop(&mut self) {
        // SAFETY: as in `of`.
        unsafe { ddpm_flat_copy_end() }
    }
}

/// A weight or a bias as a convolution or a linear map should take it: in bf16 on CUDA under [`Bf16`](super::Bf16) where
/// there is a copy, of [`Bf16Weights`] or of [`KeptFilters`](super::KeptFilters); else itself.
///
/// # Panics
/// The weights have changed since [`Bf16Weights`] copied them, or out of memory.
pub fn cast_weight(weight: &Tensor) -> Tensor {
    if !weight.device().is_cuda() {
        return weight.shallow_clone();
    }
    let mut out = std::ptr::null_mut();
    // SAFETY: a live tensor, and a place for the one that the shim makes.
    let done = outcome(unsafe { ddpm_cast_weight(ptr(weight), &mut out) });
    // As tch's operations panic.
    done.map_err(TchError::Torch).unwrap();
    // SAFETY: the shim made a tensor that we own.
    unsafe { Tensor::from_ptr(out.cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::Bf16;
    use tch::{Device, Kind};

    #[test]
    fn a_thread_has_one_copy_and_weights_on_a_cpu_stay_as_they_are() {
        let flat = Tensor::ones([16], (Kind::Float, Device::Cpu));
        let copy = Bf16Weights::of(&flat).unwrap();
        assert!(Bf16Weights::of(&flat).is_err());
        let _casting = Bf16::begin(Device::Cpu).unwrap();
        assert_eq!(cast_weight(&flat.narrow(0, 0, 4)).kind(), Kind::Float);
        drop(copy);
        drop(Bf16Weights::of(&flat).unwrap());
        assert!(Bf16Weights::of(&flat.narrow(0, 4, 8)).is_err(), "a part");
    }
}

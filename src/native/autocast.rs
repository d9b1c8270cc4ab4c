//! bf16 on one thread.

use std::ffi::c_int;

use anyhow::Result;
use tch::Device;

use super::check;

unsafe extern "C" {
    fn ddpm_autocast_begin(cuda: c_int) -> c_int;
    fn ddpm_autocast_end(cuda: c_int);
}

/// Until it is dropped, this thread computes convolutions and matrix products in bf16 from and to f32 weights, by the
/// rules of PyTorch's autocast.
#[derive(Debug)]
pub struct Bf16 {
    device: Device,
    /// The mode is the thread's own.
    here: std::marker::PhantomData<*const ()>,
}

impl Bf16 {
    /// For operations on `device`, CPU or CUDA.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn begin(device: Device) -> Result<Bf16> {
        // SAFETY: changes state of this thread alone, which `drop` takes back on the same thread.
        check(unsafe { ddpm_autocast_begin(c_int::from(device.is_cuda())) })?;
        Ok(Bf16 {
            device,
            here: std::marker::PhantomData,
        })
    }
}

impl Drop for Bf16 {
    fn drop(&mut self) {
        // SAFETY: as in `begin`.
        unsafe { ddpm_autocast_end(c_int::from(self.device.is_cuda())) }
    }
}

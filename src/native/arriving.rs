//! A tensor on its way from a CUDA device to the host.

use std::ffi::{c_int, c_void};

use anyhow::Result;
use tch::Tensor;

use super::{check, ptr};

unsafe extern "C" {
    fn ddpm_send(from: *const c_void, host: *mut *mut c_void, sent: *mut *mut c_void) -> c_int;
    fn ddpm_wait(sent: *mut c_void) -> c_int;
    fn ddpm_forget(sent: *mut c_void);
}

/// A copy in host memory, which is there once the device has come as far as the work that was queued before
/// [`send`](Arriving::send).
#[derive(Debug)]
pub(crate) struct Arriving {
    host: Tensor,
    /// Null on a CPU, where it is there already.
    sent: *mut c_void,
}

impl Arriving {
    /// Queues the copy, and returns at once.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn send(from: &Tensor) -> Result<Arriving> {
        let mut sent = std::ptr::null_mut();
        if !from.device().is_cuda() {
            let host = from.shallow_clone();
            return Ok(Arriving { host, sent });
        }
        let mut host = std::ptr::null_mut();
        // SAFETY: a live tensor, and valid places for the results.
        check(unsafe { ddpm_send(ptr(from), &mut host, &mut sent) })?;
        // SAFETY: the shim made a tensor for us to own.
        let host = unsafe { Tensor::from_ptr(host.cast()) };
        Ok(Arriving { host, sent })
    }

    /// Waits until it is there, and so is all that was sent before; what was queued later goes on.
    ///
    /// # Errors
    /// The device failed meanwhile.
    pub(crate) fn wait(&self) -> Result<()> {
        if self.sent.is_null() {
            return Ok(());
        }
        // SAFETY: made by `ddpm_send`, and not dropped yet.
        check(unsafe { ddpm_wait(self.sent) })
    }

    /// The copy, of whatever was there before [`wait`](Arriving::wait).
    pub(crate) fn host(&self) -> &Tensor {
        &self.host
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.sent.is_null() {
            // SAFETY: made by `ddpm_send`, and used no more.
            unsafe { ddpm_forget(self.sent) };
        }
    }
}

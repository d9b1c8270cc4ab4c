//! Tensors in host memory: their bytes, and memory that a CUDA device reads and writes by itself.

use std::ffi::{c_int, c_void};

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::{check, ptr};

unsafe extern "C" {
    fn ddpm_pinned_like(like: *const c_void, out: *mut *mut c_void) -> c_int;
}

/// The memory of a contiguous CPU tensor, which nobody may write to while it is borrowed.
///
/// # Errors
/// A tensor elsewhere or with gaps.
pub(crate) fn host_bytes(tensor: &Tensor) -> Result<&[u8]> {
    ensure!(
        tensor.device() == Device::Cpu && tensor.is_contiguous(),
        "only a contiguous CPU tensor has its bytes in a row"
    );
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: a contiguous tensor of this many bytes starts at data_ptr and lives as long as the
    // borrow; the caller does not write to it.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), length) })
}

/// The memory of a contiguous CPU tensor that nobody else holds, to write to.
///
/// # Errors
/// A tensor elsewhere or with gaps.
pub(crate) fn host_bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8]> {
    let bytes = host_bytes(tensor)?;
    let (start, length) = (bytes.as_ptr().cast_mut(), bytes.len());
    // SAFETY: the bytes of a tensor can be written to, and the caller borrows the one name it has.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, length) })
}

/// A tensor of the shape and kind of `like`, of whatever was there, in host memory that a CUDA device reads and writes
/// without the host's help.
///
/// # Errors
/// Out of memory, or no CUDA.
pub fn pinned_like(like: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: a live tensor, and a valid place for the result.
    check(unsafe { ddpm_pinned_like(ptr(like), &mut out) })?;
    // SAFETY: the shim made a tensor for us to own.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// A tensor of host memory on `device`. A CUDA device copies it from pinned memory once it gets there: the host does not
/// wait for the work that was queued before. On a CPU it is the tensor itself.
///
/// # Errors
/// Out of memory.
pub(crate) fn send(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if !device.is_cuda() {
        return Ok(tensor.shallow_clone());
    }
    let mut pinned = pinned_like(tensor)?;
    pinned.f_copy_(tensor)?;
    // Its memory is not used again before the device has read it: the allocator of pinned memory sees to that.
    Ok(pinned.f_to_device_(device, tensor.kind(), true, false)?)
}

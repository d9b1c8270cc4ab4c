//! CUDA: loading libtorch's half for it, what a device has, copies beside the device's work, and how exact it computes.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use anyhow::{Error, Result, ensure};
use tch::Tensor;

use super::{check, outcome, ptrs};

unsafe extern "C" {
    fn ddpm_set_deterministic(on: c_int) -> c_int;
    fn ddpm_copy_aside(to: *const *const c_void, from: *const *const c_void, count: i64) -> c_int;
    fn ddpm_set_tf32(allow: c_int) -> c_int;
    fn ddpm_load_cuda() -> c_int;
    fn ddpm_cuda_memory(device: c_int, free_bytes: *mut u64, total_bytes: *mut u64) -> c_int;
    fn ddpm_cuda_peak_bytes(device: c_int, bytes: *mut u64) -> c_int;
    fn ddpm_cuda_device(
        device: c_int,
        name: *mut c_char,
        capacity: c_int,
        major: *mut c_int,
    ) -> c_int;
}

/// Whether libtorch's CUDA half is in this process: it is loaded before `main` where there is an NVIDIA driver, as
/// libtorch remembers whether there is CUDA when it is first asked, and a program may ask first through `tch`.
///
/// # Errors
/// No driver, a libtorch without CUDA, or a library of it that is missing; the same at every call.
pub fn load_cuda() -> Result<()> {
    cuda_half().clone().map_err(Error::msg)
}

fn cuda_half() -> &'static Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    // SAFETY: the libraries are libtorch's own, from the folder of the one that is loaded.
    LOADED.get_or_init(|| outcome(unsafe { ddpm_load_cuda() }))
}

/// Called by the C library before `main`, after the constructors of libtorch, in every program that this crate is part
/// of, whatever it calls. Without a driver that is one look for a library that is not there.
#[used]
// SAFETY: the section holds functions that take three arguments at most and return nothing; this one takes none, does
// not unwind, and needs nothing that Rust sets up in front of `main`.
#[unsafe(link_section = ".init_array")]
static LOAD_CUDA: extern "C" fn() = {
    extern "C" fn load() {
        let _ = cuda_half();
    }
    load
};

/// Memory of one CUDA device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaMemory {
    /// Not in use by any process.
    pub free_bytes: u64,
    /// Whole memory of the device.
    pub total_bytes: u64,
}

/// Free and total memory of CUDA device `index`.
pub fn cuda_memory(index: usize) -> Result<CudaMemory> {
    let (mut free_bytes, mut total_bytes) = (0, 0);
    // SAFETY: two valid places for the results.
    check(unsafe { ddpm_cuda_memory(index as c_int, &mut free_bytes, &mut total_bytes) })?;
    Ok(CudaMemory {
        free_bytes,
        total_bytes,
    })
}

/// Most bytes that tensors on CUDA device `index` have held at once in this process.
pub fn cuda_peak_bytes(index: usize) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: a valid place for the result.
    check(unsafe { ddpm_cuda_peak_bytes(index as c_int, &mut bytes) })?;
    Ok(bytes)
}

/// A CUDA device as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// As the driver spells it.
    pub name: String,
    /// First part of its compute capability: 7 for Volta and Turing, 8 for Ampere and Ada, 9 for Hopper.
    pub capability_major: i32,
}

/// CUDA device `index`; the error says why there is none.
pub fn cuda_device(index: usize) -> Result<CudaDevice> {
    let mut name = [0 as c_char; 256];
    let mut capability_major = 0;
    // SAFETY: the buffer is as long as the capacity says, and stays NUL-terminated.
    check(unsafe {
        ddpm_cuda_device(
            index as c_int,
            name.as_mut_ptr(),
            255,
            &mut capability_major,
        )
    })?;
    // SAFETY: the last byte is never written, so there is a NUL.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(CudaDevice {
        name: name.to_string_lossy().into_owned(),
        capability_major,
    })
}

/// Copies tensors of a CUDA device to the host on a stream of their own, so that work queued on the device
/// goes on meanwhile; on CPU a plain copy. Returns when all is copied. Nothing may write to `from` meanwhile, or have a write to it
/// queued.
///
/// # Errors
/// Another number, shape or kind of tensors.
pub fn copy_aside(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    ensure!(
        to.len() == from.len(),
        "copy_aside of {} tensors to {}",
        from.len(),
        to.len()
    );
    // SAFETY: both arrays and all tensors live for the length of the call; libtorch checks shapes.
    check(unsafe { ddpm_copy_aside(ptrs(to).as_ptr(), ptrs(from).as_ptr(), to.len() as i64) })
}

/// Allows or forbids TF32 in CUDA matrix products and convolutions.
pub fn set_tf32(allow: bool) -> Result<()> {
    // SAFETY: a plain setter.
    check(unsafe { ddpm_set_tf32(c_int::from(allow)) })
}

/// Makes libtorch take only algorithms that give the same bits every time, or refuse; CUDA alone has others.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: plain setters.
    check(unsafe { ddpm_set_deterministic(c_int::from(on)) })
}

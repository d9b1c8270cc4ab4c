//! CUDA: loading libtorch's half for it, what the driver says, what a device has, copies beside the device's work, and
//! how exact it computes.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Error, Result, ensure};
use tch::Tensor;

use super::{check, outcome, ptrs};

unsafe extern "C" {
    fn ddpm_libtorch_folder() -> *const c_char;
    fn ddpm_cuda_driver(version: *mut c_int) -> c_int;
    fn ddpm_cuda_device(
        device: c_int,
        name: *mut c_char,
        capacity: c_int,
        major: *mut c_int,
        minor: *mut c_int,
    ) -> c_int;
    fn ddpm_load_cuda() -> c_int;
    fn ddpm_cuda_memory(device: c_int, free_bytes: *mut u64, total_bytes: *mut u64) -> c_int;
    fn ddpm_cuda_empty_cache() -> c_int;
    fn ddpm_cuda_tensors(device: c_int, now_bytes: *mut u64, peak_bytes: *mut u64) -> c_int;
    fn ddpm_cuda_forget_peak(device: c_int) -> c_int;
    fn ddpm_copy_aside(to: *const *const c_void, from: *const *const c_void, count: i64) -> c_int;
    fn ddpm_set_tf32(allow: c_int) -> c_int;
    fn ddpm_set_deterministic(on: c_int) -> c_int;
    fn ddpm_cudnn_search(on: c_int) -> c_int;
}

/// The folder of the libraries of libtorch that this process has loaded, which need not be the one it was built with.
pub fn libtorch_folder() -> PathBuf {
    // SAFETY: a NUL-terminated string that stays.
    let folder = unsafe { CStr::from_ptr(ddpm_libtorch_folder()) };
    PathBuf::from(OsStr::from_bytes(folder.to_bytes()))
}

/// The newest CUDA that the NVIDIA driver of this machine supports, as 13000 for 13.0. The driver is loaded, and
/// nothing of libtorch.
///
/// # Errors
/// No driver, or a `libcuda.so.1` that is none.
pub fn cuda_driver() -> Result<i32> {
    let mut version = 0;
    // SAFETY: a valid place for the result.
    check(unsafe { ddpm_cuda_driver(&mut version) })?;
    Ok(version)
}

/// Loads libtorch's CUDA half into this process, if it is not there yet: 0.2 s, 350 MiB.
///
/// libtorch keeps what it answers when it is first asked about CUDA, and a draw of random numbers asks: what is loaded
/// later stays unused.
///
/// # Errors
/// A libtorch without CUDA, or a library that is missing; the same at every call.
pub fn load_cuda() -> Result<()> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    // SAFETY: the libraries are libtorch's own, from the folder of the one that is loaded.
    let loaded = LOADED.get_or_init(|| outcome(unsafe { ddpm_load_cuda() }));
    loaded.clone().map_err(Error::msg)
}

/// Memory of one CUDA device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaMemory {
    /// Not in use by any process.
    pub free_bytes: u64,
    /// Whole memory of the device.
    pub total_bytes: u64,
}

/// Free and total memory of CUDA device `index`. What libtorch keeps for later tensors is not free: see
/// [`empty_cuda_cache`].
pub fn cuda_memory(index: usize) -> Result<CudaMemory> {
    let (mut free_bytes, mut total_bytes) = (0, 0);
    // SAFETY: two valid places for the results.
    check(unsafe { ddpm_cuda_memory(index as c_int, &mut free_bytes, &mut total_bytes) })?;
    Ok(CudaMemory {
        free_bytes,
        total_bytes,
    })
}

/// Returns the memory that libtorch keeps for later tensors to the CUDA devices. Waits for work on them that may use
/// it.
pub fn empty_cuda_cache() -> Result<()> {
    // SAFETY: no memory that a tensor has is returned.
    check(unsafe { ddpm_cuda_empty_cache() })
}

/// Bytes of tensors on a CUDA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaTensors {
    /// Held now.
    pub now_bytes: u64,
    /// Most held at once in this process, or since [`forget_cuda_peak`].
    pub peak_bytes: u64,
}

/// What tensors hold on CUDA device `index`.
pub fn cuda_tensors(index: usize) -> Result<CudaTensors> {
    let (mut now_bytes, mut peak_bytes) = (0, 0);
    // SAFETY: two valid places for the results.
    check(unsafe { ddpm_cuda_tensors(index as c_int, &mut now_bytes, &mut peak_bytes) })?;
    Ok(CudaTensors {
        now_bytes,
        peak_bytes,
    })
}

/// Begins to count the peak of tensors on CUDA device `index` anew.
pub fn forget_cuda_peak(index: usize) -> Result<()> {
    // SAFETY: changes a number of libtorch's statistics.
    check(unsafe { ddpm_cuda_forget_peak(index as c_int) })
}

/// A CUDA device as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// As the driver spells it.
    pub name: String,
    /// Its compute capability, major and minor: (8, 6) for the RTX 3090.
    pub capability: (i32, i32),
}

/// CUDA device `index`, as the driver describes it: libtorch is not asked.
///
/// # Errors
/// Why there is none: no driver, a driver that does not start, or no such device.
pub fn cuda_device(index: usize) -> Result<CudaDevice> {
    cuda_driver()?;
    let mut name = [0 as c_char; 256];
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the buffer is as long as the capacity says, and stays NUL-terminated; valid places for the numbers.
    check(unsafe {
        ddpm_cuda_device(
            index as c_int,
            name.as_mut_ptr(),
            255,
            &mut major,
            &mut minor,
        )
    })?;
    // SAFETY: the last byte is never written, so there is a NUL.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(CudaDevice {
        name: name.to_string_lossy().into_owned(),
        capability: (major, minor),
    })
}

/// Copies tensors of a CUDA device to the host on a stream of their own, so that work queued on the device goes on
/// meanwhile; on CPU a plain copy. Returns when all is copied. Nothing may write to `from` meanwhile, or have a write
/// to it queued.
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

/// Has cuDNN time its algorithms at the first convolution of each shape and keep the fastest, or take the one it
/// expects to be; returns which it was. With deterministic algorithms only, it never times them.
pub fn set_cudnn_search(on: bool) -> bool {
    // SAFETY: plain setters.
    unsafe { ddpm_cudnn_search(c_int::from(on)) != 0 }
}

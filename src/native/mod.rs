//! The safe face of `shim.cpp`, the few libtorch functions that `tch` leaves out, of `fused/`, operations that
//! take less memory and time than their parts, and of the loops in `area.cpp`.
//!
//! All `unsafe` of the crate is here. Tensors are passed as tch's own pointers and stay owned by
//! the caller; a C++ exception comes back as an error with libtorch's message.
#![expect(unsafe_code, reason = "the one room that talks to C++")]

mod area;
mod fused;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use anyhow::{Error, Result, anyhow, ensure};
use rustix::mm::Advice;
use tch::{Device, Kind, Tensor};

pub use area::{Across, area_across, area_down, area_padded};
pub use fused::{
    BlockWeights, GroupNorm, KeptFilters, checkpointed_block, conv3x3, group_norm_silu,
    residual_block, rms_norm,
};

unsafe extern "C" {
    fn ddpm_last_error() -> *const c_char;
    fn ddpm_set_grad(leaf: *const c_void, grad: *const c_void) -> c_int;
    fn ddpm_fused_adam(
        param: *const c_void,
        grad: *const c_void,
        exp_avg: *const c_void,
        exp_avg_sq: *const c_void,
        step: *const c_void,
        halted: *const c_void,
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
    fn ddpm_set_deterministic(on: c_int) -> c_int;
    fn ddpm_copy_aside(to: *const *const c_void, from: *const *const c_void, count: i64) -> c_int;
    fn ddpm_pinned_like(like: *const c_void, out: *mut *mut c_void) -> c_int;
    fn ddpm_set_tf32(allow: c_int) -> c_int;
    fn ddpm_keep_freed_memory();
    fn ddpm_return_freed_memory();
    fn ddpm_load_cuda() -> c_int;
    fn ddpm_cuda_memory(device: c_int, free_bytes: *mut u64, total_bytes: *mut u64) -> c_int;
    fn ddpm_cuda_peak_bytes(device: c_int, bytes: *mut u64) -> c_int;
    fn ddpm_tally_begin() -> c_int;
    fn ddpm_tally_read(now: *mut i64, peak: *mut i64);
    fn ddpm_tally_end();
    fn ddpm_cuda_device(
        device: c_int,
        name: *mut c_char,
        capacity: c_int,
        major: *mut c_int,
    ) -> c_int;
    fn ddpm_autocast_begin(cuda: c_int) -> c_int;
    fn ddpm_autocast_end(cuda: c_int);
}

/// Pages may be larger; advice that begins within one is then refused, and nothing is lost.
const PAGE_BYTES: usize = 4096;

/// The message of a failure.
fn outcome(status: c_int) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim returns a NUL-terminated string that lives until its next error on this
    // thread; it is copied here.
    let message = unsafe { CStr::from_ptr(ddpm_last_error()) };
    let message = message.to_string_lossy();
    Err(message
        .lines()
        .next()
        .unwrap_or("libtorch failed")
        .to_owned())
}

fn check(status: c_int) -> Result<()> {
    outcome(status).map_err(Error::msg)
}

fn ptr(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

fn ptrs(tensors: &[Tensor]) -> Vec<*const c_void> {
    tensors.iter().map(ptr).collect()
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

/// Has the system begin to read these bytes of a mapped file.
pub(crate) fn will_need(bytes: &[u8]) {
    // Advice is for whole pages; elsewhere than in a mapped file it does nothing.
    let start = bytes.as_ptr() as usize & !(PAGE_BYTES - 1);
    let length = bytes.as_ptr() as usize + bytes.len() - start;
    // SAFETY: these pages are mapped, and WILLNEED changes nothing that can be seen.
    let _ = unsafe { rustix::mm::madvise(start as *mut c_void, length, Advice::WillNeed) };
}

/// One step of libtorch's fused Adam on flat tensors, in place.
///
/// # Shapes
/// - `param`, `grad`, `exp_avg`, `exp_avg_sq`: `[P]` f32
/// - `step`: scalar f32 that already holds the number of this step, 1 for the first
/// - `halted`: scalar f32; where it is 1 nothing changes
pub fn fused_adam(
    param: &Tensor,
    grad: &Tensor,
    exp_avg: &Tensor,
    exp_avg_sq: &Tensor,
    step: &Tensor,
    halted: &Tensor,
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
    for scalar in [step, halted] {
        ensure!(
            scalar.kind() == Kind::Float
                && scalar.numel() == 1
                && scalar.device() == param.device(),
            "fused Adam wants its step and its halt as one f32 each beside the parameters"
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
            ptr(halted),
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

/// Makes libtorch take only algorithms that give the same bits every time, or refuse; CUDA alone has others.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: plain setters.
    check(unsafe { ddpm_set_deterministic(c_int::from(on)) })
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

/// Allows or forbids TF32 in CUDA matrix products and convolutions.
pub fn set_tf32(allow: bool) -> Result<()> {
    // SAFETY: a plain setter.
    check(unsafe { ddpm_set_tf32(c_int::from(allow)) })
}

/// Lets the C allocator reuse large blocks instead of returning them to the system at every step:
/// fewer page faults on CPU. For the whole process; call it before the first tensor.
pub fn keep_freed_memory() {
    // SAFETY: two mallopt calls.
    unsafe { ddpm_keep_freed_memory() }
}

/// Gives what the C allocator keeps back to the system, once.
pub fn return_freed_memory() {
    // SAFETY: one call of malloc_trim.
    unsafe { ddpm_return_freed_memory() }
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

/// Counts the bytes of CPU tensors that this thread makes and drops, backward passes included, until it is
/// dropped. Buffers that kernels take for themselves are not seen.
#[derive(Debug)]
pub struct CpuTally {
    /// The count is the thread's own.
    here: std::marker::PhantomData<*const ()>,
}

impl CpuTally {
    /// Starts at zero.
    ///
    /// # Errors
    /// This thread has one already.
    pub fn begin() -> Result<CpuTally> {
        // SAFETY: changes state of this thread alone, which `drop` takes back on the same thread.
        check(unsafe { ddpm_tally_begin() })?;
        Ok(CpuTally {
            here: std::marker::PhantomData,
        })
    }

    /// Bytes held now more than at the start, and the most of them so far.
    pub fn now_and_peak_bytes(&self) -> (i64, i64) {
        let (mut now, mut peak) = (0, 0);
        // SAFETY: two valid places for the results.
        unsafe { ddpm_tally_read(&mut now, &mut peak) }
        (now, peak)
    }
}

impl Drop for CpuTally {
    fn drop(&mut self) {
        // SAFETY: as in `begin`.
        unsafe { ddpm_tally_end() }
    }
}

/// A CUDA device as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// For people.
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

#[cfg(test)]
mod tests {
    use super::*;

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

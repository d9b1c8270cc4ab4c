//! The safe face of `shim.cpp` and `cuda.cpp`, the few libtorch functions that `tch` leaves out, of `group.cpp` and
//! `buckets.cpp`, c10d's process groups, of `nccl.cpp`, the part that is loaded apart, of `fused/`, operations that take
//! less memory and time than their parts, of the loops in `area.cpp`, and of libjpeg's errors.
//!
//! All `unsafe` of the crate is here. Tensors are passed as tch's own pointers and stay owned by
//! the caller; a C++ exception comes back as an error with libtorch's message.
#![expect(unsafe_code, reason = "the one room that talks to C++")]

mod area;
mod arriving;
mod autocast;
mod cuda;
mod fused;
mod group;
mod host;
mod inference;
mod jpeg;
mod memory;
mod nccl;
mod optim;
mod weights;

use std::ffi::{CStr, c_char, c_int, c_void};

use anyhow::{Error, Result};
use tch::Tensor;

pub use area::{Across, area_across, area_down, area_padded};
pub(crate) use arriving::Arriving;
pub use autocast::Bf16;
pub use cuda::{
    CudaDevice, CudaMemory, CudaTensors, copy_aside, cuda_device, cuda_driver, cuda_memory,
    cuda_tensors, empty_cuda_cache, forget_cuda_peak, libtorch_folder, load_cuda, set_cudnn_search,
    set_deterministic, set_tf32,
};
pub use fused::{
    BlockWeights, GroupNorm, KeptFilters, checkpointed_block, composed_block, conv3x3,
    group_norm_silu, halved, residual_block, rms_norm,
};
pub use group::{Buckets, KeyStore, Listen, Pending, ProcessGroup, Slice, exit_without_cleanup};
pub use host::pinned_like;
pub(crate) use host::{host_bytes, host_bytes_mut, send};
pub use inference::KeptFilter;
pub(crate) use jpeg::{Samples, decode_jpeg};
pub(crate) use memory::will_need;
pub use memory::{CpuTally, return_freed_memory};
pub use nccl::nccl_part;
pub use optim::{AdamStep, add_scaled, foreach_mul, foreach_norm, fused_adam, set_grad};
pub use weights::{Bf16Weights, cast_weight};

unsafe extern "C" {
    fn ddpm_last_error() -> *const c_char;
}

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

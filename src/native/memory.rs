//! Memory of the process: what the allocator keeps, pages of mapped files, and a count of what tensors hold.

use std::ffi::{c_int, c_void};

use anyhow::Result;
use rustix::mm::Advice;

use super::check;

unsafe extern "C" {
    fn ddpm_return_freed_memory();
    fn ddpm_tally_begin() -> c_int;
    fn ddpm_tally_read(now: *mut i64, peak: *mut i64);
    fn ddpm_tally_end();
}

/// Pages may be larger; advice that begins within one is then refused, and nothing is lost.
const PAGE_BYTES: usize = 4096;

/// Gives freed memory that the allocator keeps back to the system, once.
pub fn return_freed_memory() {
    // SAFETY: one call of the allocator's own function for it.
    unsafe { ddpm_return_freed_memory() }
}

/// Has the system begin to read these bytes of a mapped file.
pub(crate) fn will_need(bytes: &[u8]) {
    // Advice is for whole pages; elsewhere than in a mapped file it does nothing.
    let start = bytes.as_ptr() as usize & !(PAGE_BYTES - 1);
    let length = bytes.as_ptr() as usize + bytes.len() - start;
    // SAFETY: these pages are mapped, and WILLNEED changes nothing that can be seen.
    let _ = unsafe { rustix::mm::madvise(start as *mut c_void, length, Advice::WillNeed) };
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

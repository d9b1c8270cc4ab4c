//! NCCL: the part of the program that makes c10d's backend for it. The program carries it as bytes, because whatever
//! is linked to NCCL is linked to CUDA, and loads it behind libtorch's CUDA half.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::mem;
use std::os::fd::IntoRawFd;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{check, load_cuda};

/// The shared object of `nccl.cpp`; no bytes in a build without it.
static PART: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nccl.so"));

unsafe extern "C" {
    fn ddpm_load_nccl_part(file: c_int, function: *mut *mut c_void) -> c_int;
}

/// `ddpm_nccl_backend` of `nccl.cpp`.
type Backend = unsafe extern "C" fn(
    *const c_void,
    c_int,
    c_int,
    c_int,
    i64,
    *mut *mut c_void,
    *mut c_char,
    usize,
) -> c_int;

/// Loads the part that talks to NCCL, and before it libtorch's CUDA half ([`load_cuda`]), if they are not there yet.
/// No GPU is needed for that.
///
/// # Errors
/// What is missing: a build without this part, a libtorch without CUDA or without NCCL. The same at every call.
pub fn nccl_part() -> Result<()> {
    part().map(|_| ())
}

/// Makes c10d's backend for NCCL of a group of `size` ranks, of which this process is `rank`, on CUDA device `device`,
/// and connects it: returns when all ranks have called this. Collectives fail after `timeout`.
///
/// `store` points to an `intrusive_ptr<c10d::Store>`, which stays the caller's. The result is a new
/// `intrusive_ptr<c10d::Backend>`, for the caller to delete.
///
/// # Errors
/// As [`nccl_part`]; no such device; ranks that cannot reach each other.
///
/// # Safety
/// `store` must be what is said above.
pub(crate) unsafe fn nccl_backend(
    store: *const c_void,
    rank: usize,
    size: usize,
    device: usize,
    timeout: Duration,
) -> Result<*mut c_void> {
    let backend = part()?;
    let mut out = std::ptr::null_mut();
    let mut error = [0 as c_char; 2048];
    // SAFETY: a store by the caller's word, a valid place for the result, and a buffer as long as it says.
    let status = unsafe {
        backend(
            store,
            rank as c_int,
            size as c_int,
            device as c_int,
            timeout.as_millis() as i64,
            &mut out,
            error.as_mut_ptr(),
            error.len(),
        )
    };
    if status == 0 {
        return Ok(out);
    }
    // SAFETY: the part ends its message with a NUL within the buffer.
    let message = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
    Err(anyhow!("{}", one_line(&message)))
}

/// A message of several lines, the last of which hold NCCL's own words.
fn one_line(message: &str) -> String {
    let lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}

fn part() -> Result<Backend> {
    static LOADED: OnceLock<Result<Backend, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| load().map_err(|error| format!("{error:#}")));
    loaded.clone().map_err(anyhow::Error::msg)
}

fn load() -> Result<Backend> {
    if let Some(reason) = option_env!("DDPM_NO_NCCL") {
        return Err(anyhow!("this build has no NCCL part: {reason}"));
    }
    load_cuda()?;
    let in_memory = "the NCCL part cannot be put in a file in memory";
    let mut file = File::from(memfd_create("ddpm-nccl", MemfdFlags::CLOEXEC).context(in_memory)?);
    file.write_all(PART).context(in_memory)?;
    let mut function = std::ptr::null_mut();
    // SAFETY: an open file that the build wrote, which stays open for the rest of the process; a valid place for the
    // result.
    check(unsafe { ddpm_load_nccl_part(file.into_raw_fd(), &mut function) })?;
    // SAFETY: the part's function has this type, and the part stays loaded.
    Ok(unsafe { mem::transmute::<*mut c_void, Backend>(function) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::ptr::null;

    use super::*;

    /// In a process of its own: what is loaded stays.
    #[test]
    fn the_part_loads_behind_libtorchs_cuda_half() {
        if let Some(reason) = option_env!("DDPM_NO_NCCL") {
            // tests/nccl.rs sees to it that there is one where there must be.
            eprintln!("skipped: {reason}");
            return;
        }
        let loads = Command::new(std::env::current_exe().unwrap())
            .args(["native::nccl::tests::loads", "--exact", "--ignored"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&loads.stdout);
        assert!(
            loads.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    #[test]
    fn a_message_keeps_nccls_own_words() {
        let message =
            "NCCL error in: a.cpp:93, unhandled system error\n\nLast error:\nno interface\n";
        let told = "NCCL error in: a.cpp:93, unhandled system error; Last error: no interface";
        assert_eq!(one_line(message), told);
    }

    #[test]
    #[ignore = "the process of another test"]
    fn loads() {
        nccl_part().unwrap();
        let again = part().unwrap();
        assert!(std::ptr::fn_addr_eq(again, part().unwrap()));
        // SAFETY: the device is looked at before the store.
        let none = unsafe { nccl_backend(null(), 0, 1, 99, Duration::from_secs(1)) };
        let error = none.unwrap_err().to_string();
        assert!(
            error.starts_with("no CUDA device 99 for NCCL: libtorch sees "),
            "{error}"
        );
    }
}

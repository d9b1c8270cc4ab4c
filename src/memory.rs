//! Available memory, and recognition of out-of-memory errors.

use std::fs::read_to_string;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::Result;
use tch::Device;

use crate::native;

/// Bytes that this process can still allocate on `device`; `None` if the system does not report it.
pub fn available_bytes(device: Device) -> Option<u64> {
    available_to_each(device, 1)
}

/// As [`available_bytes`], of each of so many processes that share the memory of this host; a CUDA device is one
/// process's own.
///
/// On CPU it is the minimum of the system's available memory, of what the control groups of this process leave, and of
/// what its limit on address space leaves. Page cache counts as free, and swap does not: training from there would take
/// for ever. On CUDA, what libtorch keeps for later tensors is returned to the device first: this process can allocate
/// it, though the device counts it as used.
pub fn available_to_each(device: Device, processes: u64) -> Option<u64> {
    if let Device::Cuda(index) = device {
        return_cached(device);
        return native::cuda_memory(index).ok().map(|m| m.free_bytes);
    }
    let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
    let cgroups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let shared = [
        kib_of(&meminfo, "MemAvailable:"),
        left_in_groups(&cgroups, Path::new("/sys/fs/cgroup")),
    ];
    let share = shared.into_iter().flatten().min();
    let share = share.map(|shared| shared / processes.max(1));
    // Each process has its own.
    share.into_iter().chain(left_of_address_space()).min()
}

/// Returns the memory that this process keeps for later tensors to the system, or to the device.
pub fn return_cached(device: Device) {
    match device {
        // A failure of the device is that of the next operation, too.
        Device::Cuda(_) => drop(native::empty_cuda_cache()),
        _ => native::return_freed_memory(),
    }
}

/// The result of `work`, and the most bytes that its tensors take at once on `device`; 0 if they are being counted
/// already.
///
/// # Errors
/// The device does not count.
pub fn counted<T>(device: Device, work: impl FnOnce() -> T) -> Result<(T, u64)> {
    let Device::Cuda(index) = device else {
        let tally = native::CpuTally::begin().ok();
        let result = work();
        let most = tally.map_or(0, |tally| tally.now_and_peak_bytes().1);
        return Ok((result, most as u64));
    };
    native::forget_cuda_peak(index)?;
    let before = native::cuda_tensors(index)?.now_bytes;
    let result = work();
    let most = native::cuda_tensors(index)?
        .peak_bytes
        .saturating_sub(before);
    Ok((result, most))
}

/// Resident memory of this process in bytes, libraries included.
pub fn resident_bytes() -> Option<u64> {
    kib_of(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most memory of this process that was resident at once, in bytes, libraries included.
pub fn peak_resident_bytes() -> Option<u64> {
    kib_of(&read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The number of a line `name 123 kB`, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes left by the memory limits of a process's control groups, version 1 or 2; `cgroups` is its
/// `/proc/self/cgroup`. A group's parents limit it too. In a container the named folder may not be visible,
/// and `root` is then the group itself.
fn left_in_groups(cgroups: &str, root: &Path) -> Option<u64> {
    let mut left = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (top, limit, used) = if controllers.is_empty() {
            (root.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            let v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            (root.join("memory"), v1.0, v1.1)
        } else {
            continue;
        };
        let folder = top.join(group.trim_start_matches('/'));
        let folders = folder.ancestors().take_while(|f| f.starts_with(&top));
        left.extend(folders.filter_map(|f| left_in_group(f, limit, used)));
    }
    left.into_iter().min()
}

fn left_in_group(folder: &Path, limit: &str, used: &str) -> Option<u64> {
    let number =
        |file: &str| -> Option<u64> { read_to_string(folder.join(file)).ok()?.trim().parse().ok() };
    // Above `memory.high` version 2 slows a process down so much that it hardly goes on.
    let limits = [number(limit), number("memory.high")];
    // Without a limit, version 2 has "max" and version 1 a number near 2^63.
    let limit = limits
        .into_iter()
        .flatten()
        .filter(|n| *n < 1 << 60)
        .min()?;
    let used = number(used)?;
    // The page cache counts as used, but is freed when memory is needed; files in memory (tmpfs) are not.
    let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = stat.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    // Version 1 counts the groups below under other names.
    let cached =
        |kind: &str| bytes(&format!("total_{kind} ")).or_else(|| bytes(&format!("{kind} ")));
    let cached = cached("inactive_file").unwrap_or(0) + cached("active_file").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// `ulimit -v` minus mapped memory, bytes.
fn left_of_address_space() -> Option<u64> {
    let limits = read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let mapped = kib_of(&read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(mapped))
}

/// What libtorch's own allocators say when memory runs out.
const RAN_OUT: [&str; 4] = [
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
];

/// What cuBLAS and cuDNN say that get no memory for a handle or a workspace, and libtorch when it has tried all
/// algorithms of cuDNN and the workspace of each was too large.
const RAN_OUT_IN_DISGUISE: [&str; 6] = [
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
];

/// True if the error `text` of libtorch reports that memory ran out, on CPU or CUDA.
pub fn ran_out(text: &str) -> bool {
    let mut words = RAN_OUT.iter().chain(&RAN_OUT_IN_DISGUISE);
    words.any(|said| text.contains(said))
}

/// What libtorch said when memory ran out: the first line of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage(pub String);

/// Runs `work`, which may run out of memory: that is an error, and in most operations of tch a panic.
///
/// # Errors
/// Those of `work` for other reasons.
///
/// # Panics
/// As `work` does for other reasons.
pub fn catch_shortage<T>(work: impl FnOnce() -> Result<T>) -> Result<Result<T, Shortage>> {
    // Tensors of the work are dropped by unwinding, and the rest is not used again.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(Ok(done)),
        Ok(Err(error)) => {
            let text = format!("{error:#}");
            match ran_out(&text) {
                true => Ok(Err(Shortage(
                    text.lines().next().unwrap_or_default().to_owned(),
                ))),
                false => Err(error),
            }
        }
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) if ran_out(text) => Ok(Err(Shortage(message_in(text).to_owned()))),
            _ => resume_unwind(panic),
        },
    }
}

/// libtorch's message in the text of a panic of tch: a debug string, in which a backtrace follows an escaped line
/// break.
pub fn message_in(panic: &str) -> &str {
    let said = panic.split_once("Torch(\"").map_or(panic, |(_, said)| said);
    let said = said.split("\\n").next().unwrap_or(said);
    said.trim_end_matches("\")")
}

/// Size of the failed allocation in an error of libtorch, human-readable: "1.50 GiB", "123 bytes".
pub fn asked_for(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("ried to allocate ")?;
    let number = after.split_whitespace().next()?;
    let unit = after[number.len()..].trim_start();
    let unit = unit.split(|c: char| !c.is_ascii_alphabetic()).next()?;
    Some(&after[..after.find(unit)? + unit.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::path::PathBuf;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let groups = "5:devices:/x\n4:memory:/a/b\n0::/c/d\n";
        assert_eq!(left_in_groups(groups, root), None);
        write(root.join("c/d/memory.max"), "max\n");
        write(root.join("c/d/memory.current"), "5\n");
        assert_eq!(left_in_groups(groups, root), None);
        write(root.join("memory/a/memory.limit_in_bytes"), "1000\n");
        write(root.join("memory/a/memory.usage_in_bytes"), "700\n");
        assert_eq!(left_in_groups(groups, root), Some(300));
        write(
            root.join("memory/a/memory.stat"),
            "inactive_file 1\ntotal_inactive_file 150\ntotal_active_file 50\n",
        );
        assert_eq!(left_in_groups(groups, root), Some(500));
        write(root.join("c/memory.max"), "300");
        write(root.join("c/memory.current"), "100");
        write(root.join("c/memory.stat"), "inactive_file 50\n");
        assert_eq!(left_in_groups(groups, root), Some(250));
        write(root.join("c/d/memory.high"), "80\n");
        assert_eq!(left_in_groups(groups, root), Some(75));
    }

    #[test]
    fn there_is_memory_here() {
        let (left, resident) = (available_bytes(Device::Cpu), resident_bytes());
        assert!(left.unwrap() > 1 << 20 && resident.unwrap() > 1 << 20);
    }

    #[test]
    fn both_devices_words_are_understood() {
        let cpu = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)";
        let cuda = "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.20 GiB is free.";
        assert!(ran_out(cpu) && ran_out(cuda) && ran_out("std::bad_alloc"));
        assert!(!ran_out("index out of range"));
        for disguised in [
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "GET was unable to find an engine to execute this computation",
            "Unable to find a valid cuDNN algorithm to run convolution",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        ] {
            assert!(ran_out(disguised), "{disguised}");
            assert_eq!(asked_for(disguised), None);
        }
        for other in ["CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_BAD_PARAM"] {
            assert!(!ran_out(other), "{other}");
        }
        assert_eq!(asked_for(cpu), Some("8589934592 bytes"));
        assert_eq!(asked_for(cuda), Some("1.50 GiB"));
        assert_eq!(asked_for("std::bad_alloc"), None);
    }

    #[test]
    fn only_a_shortage_is_caught() {
        let panic = r#"called `Result::unwrap()` on an `Err` value: Torch("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nException raised from x\nframe #0")"#;
        let said = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`";
        let caught = catch_shortage(|| -> Result<()> { std::panic::panic_any(panic.to_owned()) });
        assert_eq!(caught.unwrap(), Err(Shortage(said.to_owned())));
        let caught = catch_shortage(|| -> Result<()> { bail!("{said}\nframe #0") });
        assert_eq!(caught.unwrap(), Err(Shortage(said.to_owned())));
        let other = catch_shortage(|| -> Result<()> { bail!("no such file") });
        assert_eq!(other.unwrap_err().to_string(), "no such file");
        let bug = || catch_shortage(|| -> Result<()> { panic!("a bug") });
        assert!(catch_unwind(bug).is_err());
        assert_eq!(catch_shortage(|| Ok(3)).unwrap(), Ok(3));
    }
}

//! Selects the device and precision, with the reason.

mod driver;
mod search;

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tch::{Cuda, Device};

pub use driver::{BuiltWith, Driver};
pub use search::ConvolutionSearch;

use crate::native;
use crate::text::plural;

/// The requested device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if usable, else CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// One CUDA device, by index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("{text:?} is not a valid device; want auto, cpu, cuda or cuda:INDEX");
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(wanted)?;
                // libtorch counts devices in 8 bits.
                let index: i8 = index.parse().map_err(|_| wanted())?;
                Ok(DeviceChoice::Cuda(index.try_into().map_err(|_| wanted())?))
            }
        }
    }
}

/// Arithmetic of convolutions and matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// bf16 if the hardware supports it, else tf32 on CUDA and f32 on CPU.
    Auto,
    /// Full single precision.
    F32,
    /// CUDA's 19-bit tensor-core format for products, f32 for the rest.
    Tf32,
    /// Products and maps between them in bf16, by PyTorch's autocast; weights, Adam's moments, EMA weights, norms and
    /// the loss in f32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// A usable device, set up.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Device for tensors.
    pub device: Device,
    /// Resolved precision, never `Auto`.
    pub precision: Precision,
    /// Human-readable name.
    pub description: String,
    /// Whether the same bits are asked for every time.
    pub deterministic: bool,
    /// Why CUDA is not used, if the choice was left open.
    pub no_cuda: Option<String>,
    /// Everything that the last bits of a result depend on.
    pub environment: String,
}

impl Chosen {
    /// "cuda" or "cpu".
    pub fn kind(&self) -> &'static str {
        match self.device {
            Device::Cuda(_) => "cuda",
            _ => "cpu",
        }
    }
}

/// libtorch's CUDA half came too late.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error(
    "libtorch was asked about CUDA before its CUDA half was loaded, and keeps its answer, that there is none: choose the \
     device (`device::choose`) before any other work with tensors"
)]
pub struct AskedTooEarly;

/// Resolves a choice and sets libtorch up for it. `deterministic` requests the same bits every time, which a CPU
/// returns anyway.
///
/// libtorch's CUDA half is loaded here, and only if a CUDA device is to be used: for `Cpu` nothing of CUDA is. libtorch
/// keeps what it answers when it is first asked about CUDA, so this comes before other work with tensors.
///
/// # Errors
/// If CUDA or TF32 is requested but not usable, with the reason; never a silent fallback. [`AskedTooEarly`], also for
/// `Auto`, if there is a device that would have been used.
pub fn choose(choice: DeviceChoice, precision: Precision, deterministic: bool) -> Result<Chosen> {
    if deterministic {
        native::set_deterministic(true)?;
    }
    let mut no_cuda = None;
    let (device, description) = match choice {
        DeviceChoice::Cpu => (Device::Cpu, cpu()),
        DeviceChoice::Cuda(index) => match cuda(index) {
            Ok(found) => (Device::Cuda(index), found.name),
            Err(reason) if reason.is::<AskedTooEarly>() => return Err(reason),
            Err(reason) => bail!(
                "`start.device` = cuda:{index} cannot be used: {reason}; try `ddpm doctor`, or `start.device` = cpu"
            ),
        },
        DeviceChoice::Auto => match cuda(0) {
            Ok(found) => (Device::Cuda(0), found.name),
            Err(reason) if reason.is::<AskedTooEarly>() => return Err(reason),
            Err(reason) => {
                no_cuda = Some(reason.to_string());
                (Device::Cpu, cpu())
            }
        },
    };
    let precision = match (precision, device) {
        (Precision::Auto, _) if has_bf16(device)? => Precision::Bf16,
        (Precision::Auto, Device::Cuda(_)) => Precision::Tf32,
        (Precision::Auto, _) => Precision::F32,
        (Precision::Tf32, Device::Cpu) => {
            bail!("`start.precision` = tf32 exists on CUDA only; use f32 or bf16 on a CPU")
        }
        (p, _) => p,
    };
    // With bf16, this is for the products that stay in f32.
    native::set_tf32(precision != Precision::F32)?;
    let kind = match device {
        Device::Cuda(_) if deterministic => format!("{description}, deterministic"),
        Device::Cuda(_) => description.clone(),
        // Kept in checkpoints and compared with theirs, so always in these words.
        _ => format!("{}, CPU, {} threads", cpu_model(), tch::get_num_threads()),
    };
    let environment = format!(
        "{kind}, {precision}, libtorch {}, ddpm {}",
        env!("DDPM_LIBTORCH_VERSION"),
        env!("CARGO_PKG_VERSION")
    );
    Ok(Chosen {
        device,
        precision,
        description,
        deterministic,
        no_cuda,
        environment,
    })
}

/// True if the hardware multiplies in bf16. Elsewhere libtorch emulates it, slowly.
fn has_bf16(device: Device) -> Result<bool> {
    Ok(match device {
        Device::Cuda(index) => native::cuda_device(index)?.capability.0 >= 8,
        #[cfg(target_arch = "x86_64")]
        _ => std::arch::is_x86_feature_detected!("avx512bf16"),
        #[cfg(not(target_arch = "x86_64"))]
        _ => false,
    })
}

fn cpu() -> String {
    let threads = tch::get_num_threads() as u64;
    format!("CPU, {}", plural(threads, "thread"))
}

/// The CPU's name, as far as the system reports it.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name"));
    model.map_or("unknown processor".to_owned(), |m| {
        m.trim_start_matches([' ', '\t', ':']).to_owned()
    })
}

/// CUDA device `index`, ready for libtorch, whose CUDA half is loaded now unless it is already.
///
/// # Errors
/// The reason why it cannot be used. What can be found without libtorch is: on a machine without a device, or with an
/// older driver, nothing of it is loaded, and it prints no warnings.
fn cuda(index: usize) -> Result<native::CudaDevice> {
    let device = driver::device(index)?;
    native::load_cuda()?;
    ensure!(tch::utils::has_cudart(), AskedTooEarly);
    let devices = Cuda::device_count();
    ensure!(
        (index as i64) < devices,
        "the driver has {}, but libtorch sees {}",
        device.name,
        plural(devices as u64, "CUDA device")
    );
    Ok(device)
}

/// Reason why CUDA device `index` cannot be used; `None` if it can. As [`choose`], this loads what CUDA needs.
pub fn cuda_unusable(index: usize) -> Option<String> {
    cuda(index).err().map(|reason| reason.to_string())
}

/// True if the driver shows this process one CUDA device. libtorch is not asked.
pub fn is_only_gpu() -> bool {
    native::cuda_device(0).is_ok() && native::cuda_device(1).is_err()
}

/// Blocks until all work queued on `device` is done.
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// Peak memory in bytes: of tensors on a CUDA device, of the whole process on CPU.
pub fn peak_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => Some(native::cuda_tensors(index).ok()?.peak_bytes),
        _ => {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            Some(kib * 1024)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed() {
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:4294967296", "CPU"] {
            assert!(
                bad.parse::<DeviceChoice>()
                    .unwrap_err()
                    .contains("cuda:INDEX")
            );
        }
    }

    #[test]
    fn cuda_is_used_or_refused_with_a_reason() {
        let chosen = |choice| choose(choice, Precision::F32, false);
        let asked = chosen(DeviceChoice::Cuda(0));
        match (cuda(0), asked) {
            (Ok(found), Ok(chosen)) => assert_eq!(chosen.description, found.name),
            // Other tests of this process draw numbers.
            (Err(reason), Err(error)) if reason.is::<AskedTooEarly>() => {
                assert!(error.is::<AskedTooEarly>());
                assert!(
                    chosen(DeviceChoice::Auto)
                        .unwrap_err()
                        .is::<AskedTooEarly>()
                );
            }
            (Err(reason), Err(error)) => {
                let reason = reason.to_string();
                assert!(error.to_string().contains(&reason), "{error}");
                let auto = chosen(DeviceChoice::Auto).unwrap();
                assert_eq!((auto.device, auto.no_cuda), (Device::Cpu, Some(reason)));
            }
            (found, asked) => panic!("{found:?} {asked:?}"),
        }
    }
}

//! `ddpm doctor`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::out;
use crate::device::{BuiltWith, Driver, cuda_unusable};
use crate::distributed::Place;
use crate::native;
use crate::report::bytes;
use crate::text::{one_line, plural};

/// Show versions and devices, and check CUDA and the Python reference.
#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What there is to compute with.
#[derive(Debug, Serialize)]
struct Findings {
    ddpm: &'static str,
    libtorch: Libtorch,
    cpu: Cpu,
    driver: String,
    cuda: CudaFindings,
    group: String,
    reference: String,
}

#[derive(Debug, Serialize)]
struct Libtorch {
    version: &'static str,
    folder: PathBuf,
}

#[derive(Debug, Serialize)]
struct Cpu {
    threads: u64,
    memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct Memory {
    free_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct CudaFindings {
    usable: bool,
    /// Why it is not.
    reason: Option<String>,
    cudnn: Option<i64>,
    devices: Vec<CudaDevice>,
    nccl: Option<String>,
}

#[derive(Debug, Serialize)]
struct CudaDevice {
    index: usize,
    name: String,
    memory: Option<Memory>,
    /// Why the memory is not known.
    memory_unknown: Option<String>,
}

impl DoctorCommand {
    pub(super) fn run(&self) -> Result<()> {
        let found = Findings::gather();
        match self.json {
            true => out::json(&serde_json::to_string_pretty(&found)?),
            false => found.print(),
        }
        Ok(())
    }
}

impl Findings {
    fn gather() -> Findings {
        let threads = tch::get_num_threads() as u64;
        Findings {
            ddpm: env!("CARGO_PKG_VERSION"),
            libtorch: Libtorch {
                version: env!("DDPM_LIBTORCH_VERSION"),
                folder: native::libtorch_folder().to_owned(),
            },
            cpu: Cpu {
                threads,
                memory: system_memory(),
            },
            driver: driver(),
            cuda: CudaFindings::gather(),
            group: group(Place::of_environment()),
            reference: python_reference(),
        }
    }

    fn print(&self) {
        out::result(&format!("ddpm       {}", self.ddpm));
        let folder = self.libtorch.folder.display();
        out::result(&format!("libtorch   {} at {folder}", self.libtorch.version));
        let memory = (self.cpu.memory.as_ref()).map_or("memory unknown".into(), Memory::words);
        let threads = plural(self.cpu.threads, "thread");
        out::result(&format!("CPU        {threads}, {memory}"));
        out::result(&format!("driver     {}", self.driver));
        match &self.cuda.reason {
            Some(reason) => out::result(&format!("CUDA       cannot be used: {reason}")),
            None => {
                let cudnn = self.cuda.cudnn.unwrap_or_default();
                out::result(&format!("CUDA       can be used, cuDNN {cudnn}"));
                for device in &self.cuda.devices {
                    let memory = match (&device.memory, &device.memory_unknown) {
                        (Some(memory), _) => memory.words(),
                        (None, why) => {
                            format!("memory unknown: {}", why.as_deref().unwrap_or_default())
                        }
                    };
                    let CudaDevice { index, name, .. } = device;
                    out::result(&format!("  cuda:{index}   {name}, {memory}"));
                }
                let nccl = self.cuda.nccl.as_deref().unwrap_or_default();
                out::result(&format!("NCCL       {nccl}"));
            }
        }
        out::result(&format!("group      {}", self.group));
        out::result(&format!("reference  {}", self.reference));
    }
}

impl Memory {
    fn words(&self) -> String {
        format!(
            "{} free of {}",
            bytes(self.free_bytes),
            bytes(self.total_bytes)
        )
    }
}

impl CudaFindings {
    fn gather() -> CudaFindings {
        let reason = cuda_unusable(0);
        let usable = reason.is_none();
        let count = if usable { tch::Cuda::device_count() } else { 0 };
        CudaFindings {
            usable,
            reason,
            cudnn: usable.then(tch::utils::version_cudnn),
            devices: (0..count as usize).map(CudaDevice::find).collect(),
            nccl: usable.then(nccl),
        }
    }
}

impl CudaDevice {
    fn find(index: usize) -> CudaDevice {
        let memory = native::cuda_memory(index);
        CudaDevice {
            index,
            name: native::cuda_device(index).map_or_else(|e| e.to_string(), |device| device.name),
            memory_unknown: memory.as_ref().err().map(ToString::to_string),
            memory: memory.ok().map(|memory| Memory {
                free_bytes: memory.free_bytes,
                total_bytes: memory.total_bytes,
            }),
        }
    }
}

/// The ranks that the environment speaks of. None is waited for.
fn group(place: Result<Option<Place>>) -> String {
    let place = match place {
        Ok(Some(place)) => place,
        Ok(None) => return "none: this process is by itself".into(),
        Err(error) => return format!("cannot be joined: {}", one_line(&format!("{error:#}"))),
    };
    let server = match place.by_agent {
        true => "torchrun's agent",
        false => "rank 0",
    };
    format!(
        "{place} by {}, local rank {}; store at {}:{} (served by {server})",
        place.launcher, place.local_rank, place.master, place.port
    )
}

/// Whether groups of processes can compute on GPUs.
fn nccl() -> String {
    match native::nccl_part() {
        Ok(()) => "can be used".into(),
        Err(reason) => format!("cannot be used: {reason}"),
    }
}

/// NVIDIA's driver: the one that is there, and the one that libtorch needs.
fn driver() -> String {
    let there = match Driver::find() {
        Ok(driver) => driver.to_string(),
        Err(reason) => reason.to_string(),
    };
    match BuiltWith::of_libtorch() {
        Some(needed) => format!("{there}; this libtorch needs {needed}"),
        None => there,
    }
}

fn system_memory() -> Option<Memory> {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = info.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    Some(Memory {
        free_bytes: field("MemAvailable:")?,
        total_bytes: field("MemTotal:")?,
    })
}

/// PyTorch, which tests and benchmarks compare with; training and sampling do not need it.
fn python_reference() -> String {
    let roots = [
        PathBuf::from("."),
        PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    ];
    let Some(python) = roots
        .iter()
        .map(|r| r.join(".venv/bin/python"))
        .find(|p| p.exists())
    else {
        return "no .venv with PyTorch: run ./scripts/setup.sh (only tests and benchmarks need it)"
            .into();
    };
    match Command::new(&python)
        .args(["-c", "import torch; print(torch.__version__)"])
        .output()
    {
        Ok(out) if out.status.success() => {
            format!(
                "PyTorch {} in {}",
                String::from_utf8_lossy(&out.stdout).trim(),
                python.display()
            )
        }
        _ => format!(
            "{} cannot import torch: run ./scripts/setup.sh",
            python.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Launcher;

    #[test]
    fn the_group_is_told_in_one_line() {
        let place = Place {
            launcher: Launcher::Torchrun,
            rank: 1,
            size: 8,
            local_rank: 1,
            master: "host1".to_owned(),
            port: 29400,
            by_agent: true,
            serves: false,
            attempt: 0,
        };
        assert_eq!(
            group(Ok(Some(place.clone()))),
            "rank 1 of 8 by torchrun, local rank 1; store at host1:29400 (served by torchrun's agent)"
        );
        let by_srun = Place {
            launcher: Launcher::Slurm,
            by_agent: false,
            ..place
        };
        let told = group(Ok(Some(by_srun)));
        assert!(
            told.contains("by srun") && told.ends_with("(served by rank 0)"),
            "{told}"
        );
        assert_eq!(group(Ok(None)), "none: this process is by itself");
        let wrong = group(Err(anyhow::anyhow!("RANK is set\nalone")));
        assert!(
            wrong.starts_with("cannot be joined: RANK is set"),
            "{wrong}"
        );
        assert_eq!(wrong.lines().count(), 1);
    }
}

//! `ddpm doctor`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use super::out;
use crate::device::{BuiltWith, Driver, cuda_unusable};
use crate::distributed::Place;
use crate::native;
use crate::report::bytes;
use crate::text::{one_line, plural};

/// Show versions and devices, and check CUDA and the Python reference.
#[derive(Debug, Args)]
pub(super) struct DoctorCommand {}

impl DoctorCommand {
    pub(super) fn run(&self) {
        out::result(&format!("ddpm       {}", env!("CARGO_PKG_VERSION")));
        out::result(&format!(
            "libtorch   {} at {}",
            env!("DDPM_LIBTORCH_VERSION"),
            native::libtorch_folder().display()
        ));
        out::result(&format!(
            "CPU        {}, {}",
            plural(tch::get_num_threads() as u64, "thread"),
            system_memory()
        ));
        out::result(&format!("driver     {}", driver()));
        match cuda_unusable(0) {
            Some(reason) => out::result(&format!("CUDA       cannot be used: {reason}")),
            None => {
                out::result(&format!(
                    "CUDA       can be used, cuDNN {}",
                    tch::utils::version_cudnn()
                ));
                for index in 0..tch::Cuda::device_count() as usize {
                    out::result(&format!("  cuda:{index}   {}", cuda_device(index)));
                }
                out::result(&format!("NCCL       {}", nccl()));
            }
        }
        out::result(&format!("group      {}", group(Place::of_environment())));
        out::result(&format!("reference  {}", python_reference()));
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

fn cuda_device(index: usize) -> String {
    let name = native::cuda_device(index).map_or_else(|e| e.to_string(), |device| device.name);
    match native::cuda_memory(index) {
        Ok(m) => format!(
            "{name}, {} free of {}",
            bytes(m.free_bytes),
            bytes(m.total_bytes)
        ),
        Err(e) => format!("{name}, memory unknown: {e}"),
    }
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

fn system_memory() -> String {
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
    match (field("MemAvailable:"), field("MemTotal:")) {
        (Some(free), Some(total)) => format!("{} free of {}", bytes(free), bytes(total)),
        _ => "memory unknown".into(),
    }
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

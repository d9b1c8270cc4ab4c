//! `ddpm doctor`.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::out;
use crate::device::{BuiltWith, Driver, cuda_unusable};
use crate::native;
use crate::report::bytes;
use crate::text::plural;

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
        out::result(&format!("reference  {}", python_reference()));
    }
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

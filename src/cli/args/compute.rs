//! Flags for the device and its arithmetic, shared by all commands that compute.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::device::{Chosen, DeviceChoice, Precision, choose, cuda_unusable, is_only_gpu};
use crate::distributed::{Launcher, Place};

/// Device and arithmetic.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Device")]
pub(in crate::cli) struct ComputeArgs {
    /// auto (CUDA if usable), cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Arithmetic of convolutions and matrix products [default: auto, or f32 where the command says so]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Number of CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024), hide_short_help = true)]
    threads: Option<i32>,
    /// CUDA: use deterministic algorithms only, at some cost in speed; a CPU always does
    #[arg(long, hide_short_help = true)]
    deterministic: bool,
}

impl ComputeArgs {
    /// As [`choose`](ComputeArgs::choose) for a rank of a group: each has a GPU of its own, that of its number on its
    /// host.
    ///
    /// # Errors
    /// A GPU for some ranks and none for this one.
    pub(in crate::cli) fn choose_for(&self, place: Option<&Place>) -> Result<Chosen> {
        let Some(place) = place else {
            return self.choose();
        };
        let device = match self.device {
            DeviceChoice::Cpu => DeviceChoice::Cpu,
            DeviceChoice::Cuda(0) => DeviceChoice::Cuda(gpu_of(place)),
            DeviceChoice::Cuda(index) => bail!(
                "--device cuda:{index} is one GPU for {} ranks; with --device cuda, each takes that of its number on its host",
                place.size
            ),
            DeviceChoice::Auto => match (cuda_unusable(0), gpu_of(place)) {
                (None, index) => DeviceChoice::Cuda(index),
                (Some(_), _) => DeviceChoice::Auto,
            },
        };
        let chosen = ComputeArgs {
            device,
            ..self.clone()
        }
        .choose();
        chosen.with_context(|| {
            format!("{place} has no device; start one rank a GPU, or all with --device cpu")
        })
    }

    /// Sets up libtorch and the device.
    pub(in crate::cli) fn choose(&self) -> Result<Chosen> {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
            // For decoding and drawing images; fails only if the pool exists already, which it does not.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
            pool.build_global()?;
        }
        choose(
            self.device,
            self.precision.unwrap_or(Precision::Auto),
            self.deterministic,
        )
    }

    /// As [`choose`](ComputeArgs::choose), in full f32 unless --precision is given.
    pub(in crate::cli) fn choose_exact(&self) -> Result<Chosen> {
        self.exact().choose()
    }

    /// These flags, with half of the cores in place of no --threads, for work beside other work.
    pub(in crate::cli) fn half(&self) -> ComputeArgs {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ComputeArgs {
            threads: self.threads.or(Some(cores.div_ceil(2).min(1024) as i32)),
            ..self.clone()
        }
    }

    /// These flags, with full f32 in place of no --precision.
    pub(in crate::cli) fn exact(&self) -> ComputeArgs {
        ComputeArgs {
            precision: self.precision.or(Some(Precision::F32)),
            ..self.clone()
        }
    }
}

/// The GPU of a rank: the one of its number on its host, or the only one that its launcher lets it see.
fn gpu_of(place: &Place) -> usize {
    let shows_one = matches!(place.launcher, Launcher::Slurm | Launcher::OpenMpi);
    match shows_one && is_only_gpu() {
        true => 0,
        false => place.local_rank as usize,
    }
}

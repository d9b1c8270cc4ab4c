//! Flags for the device and its arithmetic, shared by all commands that compute.

use anyhow::Result;
use clap::Args;

use crate::device::{Chosen, DeviceChoice, Precision, choose};

/// Device and arithmetic.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Device")]
pub(in crate::cli) struct ComputeArgs {
    /// auto (CUDA if usable), cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Arithmetic of convolutions and matrix products
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// Number of CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024), hide_short_help = true)]
    threads: Option<i32>,
    /// CUDA: use deterministic algorithms only, at some cost in speed; a CPU always does
    #[arg(long, hide_short_help = true)]
    deterministic: bool,
}

impl ComputeArgs {
    /// Sets up libtorch and the device.
    pub(in crate::cli) fn choose(&self) -> Result<Chosen> {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
            // For decoding and drawing images; fails only if the pool exists already, which it does not.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
            pool.build_global()?;
        }
        choose(self.device, self.precision, self.deterministic)
    }

    /// As [`choose`](ComputeArgs::choose), in full f32 unless --precision is given.
    pub(in crate::cli) fn choose_exact(&self) -> Result<Chosen> {
        let precision = match self.precision {
            Precision::Auto => Precision::F32,
            other => other,
        };
        ComputeArgs {
            precision,
            ..self.clone()
        }
        .choose()
    }
}

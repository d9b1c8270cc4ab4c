//! Flags about where and how to compute, shared by all commands that do.

use anyhow::Result;
use clap::Args;

use crate::device::{Chosen, DeviceChoice, Precision, choose};

/// Where to compute.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Device")]
pub(in crate::cli) struct ComputeArgs {
    /// auto (CUDA if usable, else CPU), cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Arithmetic of convolutions and matrix products
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// CPU threads; default: one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
    /// CUDA: take only algorithms that give the same bits every time, at some cost in speed; a CPU always does
    #[arg(long)]
    deterministic: bool,
}

impl ComputeArgs {
    /// Sets libtorch up; the device is ready for use.
    pub(in crate::cli) fn choose(&self) -> Result<Chosen> {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
            // Decoding and drawing; fails only if something was decoded before, which nothing was.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
            pool.build_global()?;
        }
        choose(self.device, self.precision, self.deterministic)
    }

    /// As [`choose`](ComputeArgs::choose), with full f32 where the precision is left open.
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

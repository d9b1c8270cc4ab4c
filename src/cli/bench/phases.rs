//! The share of each part of a step, and its speed beside the best of the device.

use std::fmt;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tch::{Device, Kind, TchError, Tensor};

use crate::device::{Chosen, Precision, synchronize};

/// Arithmetic and memory traffic of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Operations of forward and backward.
    pub(super) flops: u64,
    /// Least bytes that the optimizer and the EMA read and write.
    pub(super) bytes: u64,
}

/// The best speed that the device reached.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ceilings {
    /// Matrix product, 1e9 operations per second.
    gflops: f64,
    /// Copy of a tensor, 1e9 bytes read or written per second.
    gb_per_sec: f64,
}

/// Repetitions of each measurement of a ceiling.
const TRIES: usize = 5;

impl Ceilings {
    /// Multiplies matrices in the precision of the steps, and copies.
    pub(super) fn measure(chosen: &Chosen) -> Result<Ceilings> {
        let device = chosen.device;
        let side: i64 = if device.is_cuda() { 8192 } else { 2048 };
        let kind = match chosen.precision {
            Precision::Bf16 => Kind::BFloat16,
            _ => Kind::Float,
        };
        let a = Tensor::f_ones([side, side], (kind, device))?;
        let product = best_secs(device, || a.f_matmul(&a).map(drop))?;
        drop(a);
        let values: i64 = 1 << if device.is_cuda() { 28 } else { 26 };
        let from = Tensor::f_ones([values], (Kind::Float, device))?;
        let mut to = from.f_zeros_like()?;
        let copy = best_secs(device, || to.f_copy_(&from))?;
        Ok(Ceilings {
            gflops: 2.0 * (side as f64).powi(3) / product / 1e9,
            gb_per_sec: 2.0 * 4.0 * values as f64 / copy / 1e9,
        })
    }
}

fn best_secs(device: Device, mut work: impl FnMut() -> Result<(), TchError>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        synchronize(device);
        let start = Instant::now();
        work()?;
        synchronize(device);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Time of each part of a step.
#[derive(Debug, Serialize)]
pub(super) struct Phases {
    /// Part, and its milliseconds per step.
    ms: Vec<(&'static str, f64)>,
    /// Convolutions in forward and backward, 1e9 operations per second; `None` without convolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    /// Optimizer and EMA, 1e9 bytes per second; `None` if not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_per_sec: Option<f64>,
    ceilings: Ceilings,
}

impl Phases {
    pub(super) fn new(ms: Vec<(&'static str, f64)>, work: Work, ceilings: Ceilings) -> Phases {
        let of = |parts: [&str; 2]| -> f64 {
            let ours = ms.iter().filter(|(part, _)| parts.contains(part));
            ours.map(|(_, ms)| ms).sum()
        };
        let rate = |amount: u64, ms: f64| (ms > 0.0).then(|| amount as f64 / ms / 1e6);
        Phases {
            gflops: rate(work.flops, of(["forward", "backward"])),
            gb_per_sec: rate(work.bytes, of(["optimizer", "average"])),
            ms,
            ceilings,
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: f64 = self.ms.iter().map(|(_, ms)| ms).sum();
        for (part, ms) in &self.ms {
            writeln!(f, "  {part:<20} {ms:>9.2} ms {:>5.1} %", 100.0 * ms / all)?;
        }
        let best = &self.ceilings;
        write!(
            f,
            "at best: {:.0} GFLOP/s (matrix product), {:.1} GB/s (copy)",
            best.gflops, best.gb_per_sec
        )?;
        if let Some(gflops) = self.gflops {
            let share = 100.0 * gflops / best.gflops;
            write!(
                f,
                "\nconvolutions: {gflops:.0} GFLOP/s, {share:.0} % of that"
            )?;
        }
        if let Some(gb) = self.gb_per_sec {
            let share = 100.0 * gb / best.gb_per_sec;
            write!(
                f,
                "\noptimizer and average: {gb:.1} GB/s, {share:.0} % of that"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_their_phases() {
        let ms = vec![("forward", 2.0), ("backward", 3.0), ("optimizer", 4.0)];
        let work = Work {
            flops: 10_000_000,
            bytes: 8_000_000,
        };
        let ceilings = Ceilings {
            gflops: 4.0,
            gb_per_sec: 8.0,
        };
        let said = Phases::new(ms, work, ceilings).to_string();
        for wanted in ["forward", "22.2 %", "2 GFLOP/s, 50 %", "2.0 GB/s, 25 %"] {
            assert!(said.contains(wanted), "{wanted} is not in: {said}");
        }
    }
}

//! The estimated memory and time of a run, printed before its first step.

use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Kind, Tensor};

use super::memory::{MemoryBudget, OutOfMemory};
use super::{Observer, Trainer};
use crate::config::RunConfig;
use crate::data::Store;
use crate::device::{Chosen, synchronize};
use crate::report::{bytes, count, duration};
use crate::text::plural;

/// Forward operations that a speed probe may cost on a CPU: about a tenth of a second of training.
const PROBE_FLOPS: u64 = 2_000_000_000;

/// Memory, microbatches and speed, before the first step.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) budget: MemoryBudget,
    secs_per_step: f64,
}

impl Plan {
    /// Chooses the number of microbatches if `auto` is set, and tries one.
    ///
    /// # Errors
    /// Out of memory, before any work is lost.
    pub(super) fn make(
        config: &mut RunConfig,
        trainer: &mut Trainer,
        data: &Store,
        auto: bool,
        observer: &dyn Observer,
    ) -> Result<Plan> {
        let mut budget = MemoryBudget::settle(config, trainer, data, auto, observer)?;
        let secs_per_step = loop {
            config.train.accumulate = budget.accumulate;
            trainer.set_accumulate(budget.accumulate);
            match budget.watch(|| secs_per_step(config, trainer, data)) {
                Err(error) if auto && error.is::<OutOfMemory>() && budget.halve() => {
                    observer.message(&format!(
                        "`start.auto_accumulate`: that did not fit after all; trying {} microbatches",
                        budget.accumulate
                    ));
                }
                other => break other?,
            }
        };
        Ok(Plan {
            budget,
            secs_per_step,
        })
    }
}

/// Seconds of one training step, measured on a part of a batch without changing anything.
///
/// On a CPU the part costs at most [`PROBE_FLOPS`]: fewer images, and if one is too much, a corner of it. On CUDA it is
/// a whole microbatch, so that running out of memory shows here.
///
/// # Errors
/// Out of memory, before any work is lost.
fn secs_per_step(config: &RunConfig, trainer: &Trainer, data: &Store) -> Result<f64> {
    let device = trainer.arena.device();
    let [_, full_height, full_width] = config.model.chw();
    let factor = config.model.size_factor();
    let micro = config.train.batch / config.train.accumulate;
    let (mut images, mut height, mut width) = (micro, full_height, full_width);
    if !device.is_cuda() {
        let flops = trainer.net.cost(height, width).forward_flops;
        images = (PROBE_FLOPS / flops).clamp(1, micro as u64) as i64;
        let mut corner = flops;
        while corner > PROBE_FLOPS && height % (2 * factor) == 0 && width % (2 * factor) == 0 {
            (height, width, corner) = (height / 2, width / 2, corner / 4);
        }
    }
    let indices: Vec<i64> = (0..images).map(|i| i % data.len() as i64).collect();
    let x_0 = data
        .batch(&indices, None)?
        .narrow(2, 0, height)
        .narrow(3, 0, width);
    let t = Tensor::zeros([images], (Kind::Int64, tch::Device::Cpu));
    // The first pass pays for allocations and the choice of kernels.
    let mut secs = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        let _loss = trainer.backward(&x_0, &t, 0)?;
        synchronize(device);
        secs = start.elapsed().as_secs_f64();
    }
    let share =
        (images * height * width) as f64 / (config.train.batch * full_height * full_width) as f64;
    Ok(secs / share)
}

/// One line: parameters, device, precision, memory, data, steps, time; before it, why CUDA is not used, if that was left
/// open.
pub(super) fn line(
    config: &RunConfig,
    trainer: &Trainer,
    data: &Store,
    chosen: &Chosen,
    plan: &Plan,
) -> String {
    let left = config.train.steps.saturating_sub(trainer.step);
    let [c, h, w] = config.model.chw();
    let no_cuda = chosen.no_cuda.as_ref();
    let no_cuda = no_cuda.map(|reason| format!("CUDA cannot be used: {reason}\n"));
    format!(
        "{}{} parameters on {}, {}, about {} of memory{}; {} of {h}x{w}x{c}, batch {}{}; {} to go, about {}",
        no_cuda.unwrap_or_default(),
        count(trainer.arena.parameters() as u64),
        chosen.description,
        chosen.precision,
        bytes(
            plan.budget
                .needs
                .in_all((config.train.batch / config.train.accumulate) as u64)
        ),
        if chosen.device.is_cuda() {
            " for tensors"
        } else {
            " in total"
        },
        plural(data.len(), "image"),
        config.train.batch,
        if config.train.accumulate > 1 {
            format!(" in {} microbatches", config.train.accumulate)
        } else {
            String::new()
        },
        plural(left, "step"),
        duration(
            Duration::try_from_secs_f64(left as f64 * plan.secs_per_step).unwrap_or(Duration::MAX)
        ),
    )
}

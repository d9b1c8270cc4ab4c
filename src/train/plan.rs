//! The memory of a run and its microbatches, settled before the first step, and the line that says so.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::memory::{Fit, MemoryBudget, OutOfMemory};
use super::{Observer, Trainer};
use crate::config::RunConfig;
use crate::data::Store;
use crate::device::{Chosen, synchronize};
use crate::report::{bytes, count};
use crate::text::plural;

/// Settles the number of microbatches. On CUDA one is tried, without changing anything; with `fit.auto` smaller ones
/// follow until one fits.
///
/// # Errors
/// Too little memory, before any work is lost.
pub(super) fn settle(
    config: &mut RunConfig,
    trainer: &mut Trainer,
    data: &Store,
    fit: Fit,
    observer: &dyn Observer,
) -> Result<MemoryBudget> {
    let mut budget = MemoryBudget::settle(config, trainer, data, fit, observer)?;
    loop {
        config.train.accumulate = budget.accumulate;
        trainer.set_accumulate(budget.accumulate);
        if !trainer.arena.device().is_cuda() {
            return Ok(budget);
        }
        match budget.watch(|| try_microbatch(config, trainer, data)) {
            Err(error) if fit.auto && error.is::<OutOfMemory>() && budget.halve() => {
                observer.message(&format!(
                    "`start.auto_accumulate`: that did not fit after all; trying {} microbatches",
                    budget.accumulate
                ));
            }
            tried => return tried.map(|()| budget),
        }
    }
}

/// Forward and backward of one microbatch, so that running out of memory shows before the first step.
fn try_microbatch(config: &RunConfig, trainer: &Trainer, data: &Store) -> Result<()> {
    let images = config.train.batch / config.train.accumulate;
    let indices: Vec<i64> = (0..images).map(|i| i % data.len() as i64).collect();
    let x_0 = data.batch(&indices, None)?;
    let t = Tensor::zeros([images], (Kind::Int64, tch::Device::Cpu));
    let classes = trainer.any_classes(images);
    let _loss = trainer.backward(&x_0, &t, classes.as_ref(), 0)?;
    synchronize(trainer.arena.device());
    Ok(())
}

/// One line: parameters, device, precision, memory, data, steps; before it, why CUDA is not used, if that was left
/// open.
pub(super) fn line(
    config: &RunConfig,
    trainer: &Trainer,
    data: &Store,
    chosen: &Chosen,
    budget: &MemoryBudget,
) -> String {
    let left = config.train.steps.saturating_sub(trainer.step);
    let [c, h, w] = config.model.chw();
    let no_cuda = chosen.no_cuda.as_ref();
    let no_cuda = no_cuda.map(|reason| format!("CUDA cannot be used: {reason}\n"));
    format!(
        "{}{} parameters on {}, {}, about {} of memory{}; {} of {h}x{w}x{c}, batch {}{}{}; {} to go",
        no_cuda.unwrap_or_default(),
        count(trainer.arena.parameters() as u64),
        chosen.description,
        chosen.precision,
        bytes(
            budget
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
        match trainer.ranks() {
            Some(ranks) => format!(" over {} ranks", ranks.group().size()),
            None => String::new(),
        },
        plural(left, "step"),
    )
}

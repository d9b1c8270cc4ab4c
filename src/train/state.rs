//! Conversion between a trainer and its checkpoint.

use anyhow::{Context, Result};
use tch::Tensor;

use super::Trainer;
use crate::checkpoint::{Checkpoint, Contents, History, Meta};
use crate::config::RunConfig;
use crate::model::load_state_dict;

/// The sections of a training checkpoint.
pub(super) const SECTIONS: [&str; 4] = ["model.", "ema.", "optim.exp_avg.", "optim.exp_avg_sq."];

/// The flat tensor of each section.
pub(super) fn flats(trainer: &Trainer) -> [Tensor; 4] {
    [
        &trainer.arena.params,
        &trainer.ema.flat,
        &trainer.optimizer.exp_avg,
        &trainer.optimizer.exp_avg_sq,
    ]
    .map(Tensor::shallow_clone)
}

/// The metadata that a resume needs besides tensors.
pub(super) fn meta(trainer: &Trainer, config: &RunConfig, environment: &str) -> Meta {
    let history = History {
        running_stats: trainer.guard.running_stats(),
        ..trainer.history.clone()
    };
    Meta {
        step: trainer.step,
        ema_steps: trainer.ema.steps,
        images: trainer.images(),
        history,
        environment: Some(environment.to_owned()),
        ..Meta::new(Contents::Training, config)
    }
}

/// Restores a trainer to the state of a checkpoint.
///
/// # Errors
/// A checkpoint of another network; the message names every key that does not fit.
pub(super) fn restore(trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<()> {
    for (prefix, flat) in SECTIONS.iter().zip(flats(trainer)) {
        load_state_dict(&trainer.arena.as_params(&flat), &checkpoint.section(prefix))
            .with_context(|| format!("cannot restore the tensors `{prefix}*`"))?;
    }
    trainer.step = checkpoint.meta.step;
    trainer.ema.steps = checkpoint.meta.ema_steps;
    trainer.history = checkpoint.meta.history.clone();
    trainer.guard.restore(trainer.history.running_stats);
    trainer.guard.release(&trainer.arena, 0);
    Ok(())
}

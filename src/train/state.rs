//! Between a trainer and its checkpoint.

use anyhow::{Context, Result};
use tch::Tensor;

use super::Trainer;
use crate::checkpoint::{Checkpoint, Contents, Meta};
use crate::config::RunConfig;
use crate::model::load_state_dict;

/// The sections of a training checkpoint, in the order they are written.
fn sections(trainer: &Trainer) -> [(&'static str, &Tensor); 4] {
    [
        ("model.", &trainer.arena.params),
        ("ema.", &trainer.ema.flat),
        ("optim.exp_avg.", &trainer.optimizer.exp_avg),
        ("optim.exp_avg_sq.", &trainer.optimizer.exp_avg_sq),
    ]
}

/// What to write so that a resume goes on bit for bit.
pub(super) fn snapshot(trainer: &Trainer, config: &RunConfig) -> (Meta, Vec<(String, Tensor)>) {
    let meta = Meta {
        step: trainer.step,
        ema_steps: trainer.ema.steps,
        pictures: trainer.pictures(),
        ..Meta::new(Contents::Training, config)
    };
    let tensors = sections(trainer)
        .into_iter()
        .flat_map(|(prefix, flat)| {
            let state = trainer.arena.state_dict(flat).into_iter();
            state.map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
        })
        .collect();
    (meta, tensors)
}

/// Puts a trainer where the checkpoint was written.
///
/// # Errors
/// A checkpoint of another network, naming every key that does not fit.
pub(super) fn restore(trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<()> {
    for (prefix, flat) in sections(trainer) {
        load_state_dict(&trainer.arena.as_params(flat), &checkpoint.section(prefix))
            .with_context(|| format!("cannot restore the tensors `{prefix}*`"))?;
    }
    trainer.step = checkpoint.meta.step;
    trainer.ema.steps = checkpoint.meta.ema_steps;
    Ok(())
}

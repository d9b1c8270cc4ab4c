//! A run of several ranks: what they agree on before the first step, and hand on while they train.
//!
//! Rank 0 alone has the run's folder. It hands on the state that it begins with or goes back to; from there on all ranks
//! take the same steps, each with its share of every batch, and compare their weights whenever rank 0 saves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::state::flats;
use super::{Start, Trainer};
use crate::checkpoint::History;
use crate::config::{Draws, RunConfig};
use crate::data::Loaded;
use crate::device::Chosen;
use crate::distributed::{Group, RankLost, Reduce};
use crate::fs::{keep, remove_on_quit};
use crate::memory::{available_bytes, available_to_each};
use crate::native::host_bytes;
use crate::text::plural;

/// Does `work` here if no group is there; in one, on rank 0, while the others wait for it.
///
/// # Errors
/// Of `work`; a rank is gone.
pub(super) fn led(group: Option<&Arc<Group>>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    match group {
        None => work(),
        Some(group) => group.follow(work),
    }
}

/// Splits each batch evenly over the ranks of a start, as `train.accumulate` says, and sees that all ranks are alike.
///
/// # Errors
/// A batch that cannot be split so; a rank with another program, device or settings.
pub(super) fn settle(start: &mut Start, chosen: &Chosen) -> Result<()> {
    let Some(group) = start.group.clone() else {
        return Ok(());
    };
    let parts = start.config.train.accumulate;
    share_batches(&group, start.reduce, chosen, &mut start.config)?;
    let common = start.config.train.accumulate;
    if start.resume.is_some() && common != parts {
        start.observer.message(&format!(
            "changed from here on: {} compute batches in {common} microbatches instead of {parts}; dropout, if there is any, is drawn for each",
            plural(group.size() as u64, "rank")
        ));
    }
    Ok(())
}

/// Has the ranks of a group share each batch of these settings evenly, as `train.accumulate` says, and sees that all are
/// alike: what [`Trainer::join`] asks for.
///
/// # Errors
/// As in training: a batch that cannot be split so; a rank with another program, device or settings.
pub fn share_batches(
    group: &Group,
    reduce: Reduce,
    chosen: &Chosen,
    config: &mut RunConfig,
) -> Result<()> {
    let own = concat!(
        env!("CARGO_PKG_VERSION"),
        ", libtorch ",
        env!("DDPM_LIBTORCH_VERSION")
    );
    group.compare("program", own)?;
    group.compare("device", &chosen.environment)?;
    group.compare(
        "way of adding up gradients (`start.reduce`)",
        &reduce.to_string(),
    )?;
    group.compare("setting", &config.to_toml()?)?;
    let train = &mut config.train;
    ensure!(
        train.draws == Draws::Image,
        "this run draws noise for whole batches (`train.draws` = batch), as older runs did, and ranks share a batch: train it with one process, or begin a run with its weights (`start.folder` = NEW `start.init` = THIS_RUN)"
    );
    check_split(train.batch, group.size())?;
    train.accumulate = common_parts(train.accumulate, group.size());
    Ok(())
}

/// The number of microbatches that no microbatch is larger with, and that ranks can share evenly.
fn common_parts(parts: i64, ranks: i64) -> i64 {
    let (mut a, mut b) = (parts, ranks);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    parts / a * ranks
}

/// # Errors
/// A batch that is not a multiple of the ranks; the message names numbers that fit.
fn check_split(batch: i64, ranks: i64) -> Result<()> {
    if batch % ranks == 0 {
        return Ok(());
    }
    let fewer = (1..ranks)
        .rev()
        .find(|ranks| batch % ranks == 0)
        .unwrap_or(1);
    let more = (batch / ranks + 1) * ranks;
    let less = batch / ranks * ranks;
    let batches = match less {
        0 => format!("{more}"),
        less => format!("{less} or {more}"),
    };
    bail!(
        "a batch of {batch} cannot be shared evenly by {}: start {fewer}, or train with `train.batch` = {batches}",
        plural(ranks as u64, "rank")
    );
}

/// Gives all ranks the layout that rank 0 has measured.
///
/// # Errors
/// A rank is gone.
pub(super) fn share_layout(start: &mut Start) -> Result<()> {
    if let Some(group) = start.group.clone() {
        let layout = group.share(|| Ok(serde_json::to_vec(&start.config.train.layout)?))?;
        start.config.train.layout = serde_json::from_slice(&layout)?;
    }
    Ok(())
}

/// Bytes that a rank can still allocate on its `device` while those of its host take as many: the least that any rank
/// of the group can. `None` if a system does not report it. A GPU is a rank's own: NCCL refuses two on one.
///
/// # Errors
/// A rank is gone.
pub fn free_memory(group: Option<&Group>, device: Device) -> Result<Option<u64>> {
    let Some(group) = group else {
        return Ok(available_bytes(device));
    };
    // What the others still load is not free.
    group.gather("loaded")?;
    let (_, here) = group.ranks_here();
    group.smallest(available_to_each(device, here as u64))
}

/// Takes the largest number of microbatches that a rank needs to fit its share into memory.
///
/// # Errors
/// A rank is gone.
pub(super) fn agree_on_parts(group: &Group, config: &mut RunConfig) -> Result<()> {
    let ask = group.ask(&[config.train.accumulate])?;
    let most = group.answer(ask)?[0];
    config.train.accumulate = common_parts(most, group.size());
    Ok(())
}

/// What the last bits of a result depend on, ranks included, unless they add up in order.
pub(super) fn environment(own: &str, group: Option<&Arc<Group>>, reduce: Reduce) -> String {
    match (group, reduce) {
        (None, _) | (_, Reduce::Ordered) => own.to_owned(),
        (Some(group), Reduce::F32) => format!("{own}, {} ranks", group.size()),
        (Some(group), Reduce::Bf16) => format!("{own}, {} ranks in bf16", group.size()),
    }
}

/// Loads the images by `load`, which gets the file to cache them in. On each host one rank decodes them, and the others
/// map its file: that of the start, or one that is gone when all have it.
///
/// # Errors
/// Of `load`; ranks with other images.
pub(super) fn load_data(
    group: &Group,
    config: &RunConfig,
    cache: Option<&Path>,
    load: impl Fn(Option<&Path>) -> Result<Loaded>,
) -> Result<Loaded> {
    if config.data.folder.is_none() {
        let loaded = load(None)?;
        compare_images(group, &loaded)?;
        return Ok(loaded);
    }
    let (first, _) = group.ranks_here();
    let decodes = first == group.rank();
    let shared = match (decodes, cache) {
        (true, None) => Some(Temporary::new()?),
        _ => None,
    };
    let place = shared.as_ref().map(|shared| shared.file.clone());
    let place = place.or(cache.map(Path::to_owned));
    let mut loaded = match decodes {
        true => Some(load(place.as_deref())?),
        false => None,
    };
    let shown = place
        .as_deref()
        .map(Path::to_string_lossy)
        .unwrap_or_default();
    let places = group.gather(&shown)?;
    if loaded.is_none() {
        let theirs = PathBuf::from(&places[first as usize]);
        loaded = Some(load(Some(cache.unwrap_or(&theirs)))?);
    }
    let loaded = loaded.context("no images")?;
    // Also the moment from which the temporary file need not be found any more.
    compare_images(group, &loaded)?;
    Ok(loaded)
}

/// # Errors
/// Ranks with other images, or with others held out.
fn compare_images(group: &Group, loaded: &Loaded) -> Result<()> {
    let fingerprint = loaded.manifest.fingerprint();
    let mut images = format!("{} images, {fingerprint}", loaded.manifest.len());
    if let Some(held_out) = &loaded.held_out {
        let fingerprint = held_out.manifest.fingerprint();
        images += &format!("\n{} held out, {fingerprint}", held_out.len());
    }
    group.compare("set of images", &images)
}

/// A file for the decoded images of a host's ranks, gone when this is dropped: who has it mapped keeps it.
struct Temporary {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Temporary {
    fn new() -> Result<Temporary> {
        let place = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("ddpm-images-")
            .tempdir_in(&place);
        let folder = folder.with_context(|| {
            format!(
                "no place for the decoded images in {}, where the ranks of a host share them; name a file, `start.cache`",
                place.display()
            )
        })?;
        let file = folder.path().join("images");
        remove_on_quit(&file);
        Ok(Temporary {
            file,
            _folder: folder,
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        keep(&self.file);
    }
}

/// What a rank needs of the state besides tensors.
#[derive(Serialize, Deserialize)]
struct Shared {
    step: u64,
    ema_steps: u64,
    history: History,
}

/// Gives all ranks the state of rank 0.
///
/// # Errors
/// A rank is gone.
pub(super) fn share_state(group: &Group, trainer: &mut Trainer) -> Result<()> {
    let shared = group.share(|| {
        let history = History {
            running_stats: trainer.guard.running_stats(),
            ..trainer.history.clone()
        };
        let shared = Shared {
            step: trainer.step,
            ema_steps: trainer.ema.steps,
            history,
        };
        Ok(serde_json::to_vec(&shared)?)
    })?;
    group.broadcast(&flats(trainer))?;
    if !group.leads() {
        let shared: Shared = serde_json::from_slice(&shared)?;
        trainer.step = shared.step;
        trainer.ema.steps = shared.ema_steps;
        trainer.guard.restore(shared.history.running_stats);
        trainer.guard.release(&trainer.arena, 0);
        trainer.history = shared.history;
    }
    Ok(())
}

/// Checks that all ranks have the same weights, bit for bit.
///
/// # Errors
/// One has others; a rank is gone.
pub(super) fn compare_weights(group: &Group, trainer: &Trainer) -> Result<()> {
    let weights = trainer.arena.params.to_device(tch::Device::Cpu);
    let hash = blake3::hash(host_bytes(&weights)?);
    let step = trainer.step;
    let compared = group.compare("set of weights", &hash.to_string());
    match compared {
        Err(error) if !error.is::<RankLost>() => Err(error).with_context(|| {
            format!(
                "step {step} is not saved, as ranks have drifted apart; earlier checkpoints are untouched"
            )
        }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microbatches_are_shared_evenly_and_none_grows() {
        for (parts, ranks, want) in [
            (1, 1, 1),
            (1, 4, 4),
            (4, 2, 4),
            (2, 8, 8),
            (3, 2, 6),
            (6, 4, 12),
        ] {
            assert_eq!(common_parts(parts, ranks), want);
        }
    }

    #[test]
    fn a_batch_that_does_not_divide_is_refused_with_numbers_that_fit() {
        assert!(check_split(64, 8).is_ok());
        let error = check_split(64, 3).unwrap_err().to_string();
        assert!(
            error.contains("start 2") && error.contains("63 or 66"),
            "{error}"
        );
        let error = check_split(2, 3).unwrap_err().to_string();
        assert!(error.contains("= 3"), "{error}");
    }
}

//! Where a run's settings come from when it does not begin with them: the run that it goes on with, or the weights that
//! it begins with.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::checkpoint::{Checkpoint, Damaged, Resumable, unsaved_steps};
use crate::config::{Difference, HoldOut, LabelsFrom, Preset, RunConfig, Unnamed};
use crate::report::Later;

/// Settings that a resumed run may change without becoming another run; one that ends in a dot stands for its section.
const MAY_CHANGE: [&str; 17] = [
    "train.steps",
    "train.save_every_steps",
    "train.keep",
    "train.accumulate",
    "train.checkpoint_blocks",
    "train.layout",
    "train.plain_blocks",
    "train.on_bad_step",
    "train.explosion_factor",
    "train.sample_steps",
    "train.sample_limit_secs",
    "sample.",
    "optim.lr",
    "optim.lr_schedule",
    "optim.clip_norm",
    "evaluation",
    "evaluation.",
];

fn may_change(key: &str) -> bool {
    MAY_CHANGE
        .iter()
        .any(|k| key == *k || (k.ends_with('.') && key.starts_with(k)))
}

/// Checks that `run` may go on with the settings `wanted`, and returns what changes: since its newest checkpoint, whose
/// own settings count, or else since its config.toml. Another place of its images is not among the changes: they are
/// compared when they are loaded.
///
/// # Errors
/// Another network, data set or seed, which would make it neither run; fewer steps than it has done.
pub fn resume_changes(run: &Resumable, wanted: &RunConfig) -> Result<Vec<Difference>> {
    let Some((path, checkpoint)) = &run.checkpoint else {
        // Nothing is trained yet, on whatever images.
        let changes = wanted.differences(&run.config)?;
        refuse(
            changes
                .iter()
                .filter(|change| !only_moves(change, wanted, &run.config)),
            RESUME_WITHOUT,
        )?;
        return Ok(changes);
    };
    let edited = changes_since(checkpoint, &run.config)?;
    let name = path.file_name().unwrap_or_default().display();
    refuse(
        &edited,
        &format!(
            "config.toml and the newest checkpoint, {name}, differ in settings that cannot change: put the checkpoint's values back, or remove config.toml to go on with all of its settings"
        ),
    )?;
    let changes = changes_since(checkpoint, wanted)?;
    refuse(&changes, RESUME_WITHOUT)?;
    refuse_fewer_steps(wanted, checkpoint)?;
    Ok(changes)
}

/// Checks that the run of a checkpoint may go on with the settings `wanted`; its images may have moved.
///
/// # Errors
/// As [`resume_changes`].
pub(super) fn refuse_another_run(wanted: &RunConfig, checkpoint: &Checkpoint) -> Result<()> {
    refuse(&changes_since(checkpoint, wanted)?, RESUME_WITHOUT)?;
    refuse_fewer_steps(wanted, checkpoint)
}

/// What `wanted` changes of a checkpoint's settings, but for the place of its images.
fn changes_since(checkpoint: &Checkpoint, wanted: &RunConfig) -> Result<Vec<Difference>> {
    let theirs = &checkpoint.meta.config;
    let mut changes = wanted.differences(theirs)?;
    changes.retain(|change| !only_moves(change, wanted, theirs));
    Ok(changes)
}

/// True for another place of images, in both settings a folder.
fn only_moves(change: &Difference, a: &RunConfig, b: &RunConfig) -> bool {
    let held_out = |config: &RunConfig| {
        config
            .data
            .hold_out
            .as_ref()
            .is_some_and(HoldOut::is_folder)
    };
    match &*change.key {
        "data.folder" => a.data.folder.is_some() && b.data.folder.is_some(),
        "data.hold_out" => held_out(a) && held_out(b),
        "data.labels" => [a, b]
            .iter()
            .all(|c| c.data.labels.as_ref().is_some_and(LabelsFrom::is_file)),
        _ => false,
    }
}

const RESUME_WITHOUT: &str = "this run exists with other settings; resume it without these, or begin another with its weights (`start.folder` = NEW `start.init` = THIS_RUN)";

fn refuse<'a>(changes: impl IntoIterator<Item = &'a Difference>, why: &str) -> Result<()> {
    let refused: Vec<String> = changes
        .into_iter()
        .filter(|change| !may_change(&change.key))
        .map(|change| format!("\n  {change}"))
        .collect();
    ensure!(refused.is_empty(), "{why}:{}", refused.concat());
    Ok(())
}

/// What becomes of metrics that are later than the checkpoint a run goes on from.
pub(super) fn later(config: &RunConfig, resume: Option<&Checkpoint>, damaged: &[Damaged]) -> Later {
    let step = resume.map_or(0, |checkpoint| checkpoint.meta.step);
    let before = resume.map_or(0, |checkpoint| unsaved_steps(&checkpoint.meta.config));
    let unsaved = match damaged {
        [] => before.max(unsaved_steps(config)),
        _ => 0,
    };
    Later::Unsaved {
        explained_to: step.saturating_add(unsaved),
    }
}

fn refuse_fewer_steps(wanted: &RunConfig, checkpoint: &Checkpoint) -> Result<()> {
    let done = checkpoint.meta.step;
    ensure!(
        wanted.train.steps >= done,
        "this run has done {done} steps, more than `train.steps` = {}; name a larger number, or another `start.folder`",
        wanted.train.steps
    );
    Ok(())
}

/// Settings of a run that begins with weights of `theirs`: all of that file's, or its network, schedule and sampler in
/// `base`. Its images are not taken over, those held out among them, nor are its evaluations, nor is what a run keeps from its time ([`Unnamed`]): another run has that of today.
pub fn settings_around(theirs: &RunConfig, base: Option<RunConfig>) -> RunConfig {
    let mut config = base.unwrap_or_else(|| {
        let mut config = theirs.clone();
        Unnamed::NEW.apply(&mut config);
        // Measured for that run, maybe on another device.
        config.train.layout = None;
        config.data.hold_out = None;
        config.evaluation = None;
        config
    });
    // Classes are told apart by their names where they are known.
    if let Some(theirs) = &theirs.conditional {
        config.conditional = Some(theirs.clone());
    }
    if let Some(theirs) = &theirs.upscale {
        config.upscale = Some(theirs.clone());
    }
    config.model = theirs.model.clone();
    config.diffusion = theirs.diffusion.clone();
    config.sample.sigma = theirs.sample.sigma;
    config.sample.clip_x0 = theirs.sample.clip_x0;
    config.sample.last_noise = theirs.sample.last_noise;
    config.data.folder = None;
    config
}

/// What a new run has otherwise than the run `theirs` that its settings are from, because those do not name it: its draws,
/// and where its images are files their rules.
pub fn renewed(theirs: &RunConfig, new: &RunConfig) -> Result<Vec<Difference>> {
    let mut changes = new.differences(theirs)?;
    let files = new.data.folder.is_some();
    changes.retain(|change| match change.key.as_str() {
        "train.draws" => theirs.train.draws == Unnamed::OLD.draws,
        "optim.norms" => theirs.optim.norms == Unnamed::OLD.norms,
        "data.rules" => files && theirs.data.rules == Unnamed::OLD.rules,
        _ => false,
    });
    Ok(changes)
}

/// `runs/PRESET-YYYYMMDD-HHMMSS` in UTC, with a number if that is taken.
pub fn default_folder(preset: Preset) -> PathBuf {
    let now = time::OffsetDateTime::now_utc();
    let stamp = format!(
        "runs/{}-{:04}{:02}{:02}-{:02}{:02}{:02}",
        preset.name(),
        now.year(),
        now.month() as u8,
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    let numbered = (2..).map(|n| PathBuf::from(format!("{stamp}-{n}")));
    std::iter::once(PathBuf::from(&stamp))
        .chain(numbered)
        .find(|p| !p.exists())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Contents, Meta};
    use crate::config::{Draws, ImageRules};

    #[test]
    fn what_a_new_run_has_otherwise_than_an_older_one_is_told() {
        let mut theirs = Preset::Demo.config();
        let told = |theirs: &RunConfig, new: &RunConfig| -> Vec<String> {
            let changes = renewed(theirs, new).unwrap();
            changes.iter().map(ToString::to_string).collect()
        };
        let mut new = theirs.clone();
        new.train.seed = 1;
        assert!(told(&theirs, &new).is_empty());
        Unnamed::OLD.apply(&mut theirs);
        let draws = "train.draws: \"image\" instead of \"batch\"";
        let norms = "optim.norms: \"blocked\" instead of \"plain\"";
        let rules = "data.rules: 2 instead of 1";
        assert_eq!(told(&theirs, &new), [norms, draws]);
        new.data.folder = Some("there".into());
        assert_eq!(told(&theirs, &new), [rules, norms, draws]);
        // It was named.
        new.train.draws = Draws::Batch;
        assert_eq!(told(&theirs, &new), [rules, norms]);
        // Its own text is told from one that changes a preset.
        let text = theirs.to_toml().unwrap();
        assert_eq!(RunConfig::of_a_run(&text), Some(theirs));
        assert_eq!(RunConfig::of_a_run("[train]\nseed = 1\n"), None);
    }

    #[test]
    fn a_checkpoint_goes_on_as_its_own_run_only() {
        let mut config = Preset::Demo.config();
        config.data.folder = Some("there".into());
        let mut meta = Meta::new(Contents::Training, &config);
        meta.step = 10;
        let checkpoint = Checkpoint {
            meta,
            tensors: vec![],
        };
        let changed = |change: fn(&mut RunConfig)| {
            let mut wanted = config.clone();
            change(&mut wanted);
            refuse_another_run(&wanted, &checkpoint).map_err(|error| error.to_string())
        };
        assert_eq!(changed(|c| c.optim.lr = 1e-5), Ok(()));
        assert_eq!(changed(|c| c.data.folder = Some("moved".into())), Ok(()));
        let place = |c: &mut RunConfig| c.data.hold_out = Some(HoldOut::Folder("there".into()));
        let held_out = changed(place).unwrap_err();
        assert!(held_out.contains("data.hold_out: "), "{held_out}");
        let built_in = changed(|c| c.data.folder = None).unwrap_err();
        assert!(built_in.contains("data.folder: "), "{built_in}");
        let seed = changed(|c| c.train.seed = 9).unwrap_err();
        assert!(seed.contains("train.seed: 9 instead of 0"), "{seed}");
        let rules = changed(|c| c.data.rules = ImageRules::V1).unwrap_err();
        assert!(rules.contains("data.rules: "), "{rules}");
        let draws = changed(|c| c.train.draws = Draws::Batch).unwrap_err();
        assert!(draws.contains("train.draws: "), "{draws}");
        let fewer = changed(|c| c.train.steps = 9).unwrap_err();
        assert!(fewer.contains("has done 10 steps"), "{fewer}");
    }
}

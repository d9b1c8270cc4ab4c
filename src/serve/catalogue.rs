//! The networks that can be asked for: a list made at start. Requests name them by number, never by path.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tch::Device;

use crate::checkpoint::{
    Calibration, RunFolder, Weights, by_step, find, read_checkpoint, seems_a_run,
};
use crate::config::RunConfig;
use crate::interop::Request;
use crate::pretrained::Pretrained;
use crate::sample::SamplerKind;
use crate::text;

/// Checkpoints of a run that the page lists.
const LISTED: usize = 200;

/// All networks.
#[derive(Debug)]
pub(super) struct Catalogue(Vec<Source>);

/// A run or a file.
#[derive(Debug)]
pub(super) struct Source {
    /// As it was given.
    pub(super) path: PathBuf,
    pub(super) is_run: bool,
    /// Settings, or why there are none.
    config: Result<RunConfig, String>,
}

/// What tells the weights that a job needs from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The file or run folder to load.
    pub(super) path: PathBuf,
    pub(super) weights: Weights,
    /// The newest checkpoint and its time, for a run folder: a run that is trained has others soon.
    newest: Option<(PathBuf, Option<SystemTime>)>,
}

impl Catalogue {
    /// Reads the settings of each.
    pub(super) fn new(paths: &[PathBuf]) -> Catalogue {
        Catalogue(paths.iter().map(|path| Source::new(path)).collect())
    }

    /// All of them, in the order of their numbers.
    pub(super) fn sources(&self) -> &[Source] {
        &self.0
    }

    /// The settings of a network.
    ///
    /// # Errors
    /// No such number, or settings that cannot be read.
    pub(super) fn config(&self, number: u32) -> Result<&RunConfig> {
        self.source(number)?.usable()
    }

    /// The weights of a network.
    ///
    /// # Errors
    /// No such number, or checkpoint.
    pub(super) fn key(&self, number: u32, step: Option<u64>, raw: bool) -> Result<Key> {
        let source = self.source(number)?;
        source.usable()?;
        let weights = if raw { Weights::Raw } else { Weights::Ema };
        let checkpoints = source.checkpoints();
        let changed = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
        let (path, newest) = match step {
            None => {
                let newest = checkpoints.first().map(|(_, path)| path.clone());
                let newest = newest.map(|path| (path.clone(), changed(&path)));
                (source.path.clone(), newest)
            }
            Some(step) => {
                let found = checkpoints.into_iter().find(|(of, _)| *of == step);
                let (_, path) = found.with_context(|| {
                    format!("there is no checkpoint of step {step} any more; choose another")
                })?;
                (path, None)
            }
        };
        Ok(Key {
            path,
            weights,
            newest,
        })
    }

    /// What the page shows of them.
    pub(super) fn to_json(&self) -> Value {
        let sources = self.0.iter().enumerate();
        sources.map(|(id, source)| source.to_json(id)).collect()
    }

    fn source(&self, number: u32) -> Result<&Source> {
        let found = self.0.get(number as usize);
        found.with_context(|| format!("there is no network of number {number}; reload the page"))
    }
}

impl Source {
    fn new(path: &Path) -> Source {
        // Also one that has no checkpoint yet: it will have some.
        let is_run = path.is_dir() && seems_a_run(path);
        let config = match is_run {
            true => config_of_run(path),
            false => config_of_file(path),
        };
        Source {
            path: path.to_owned(),
            is_run,
            config: config.map_err(|error| text::printable(&format!("{error:#}"))),
        }
    }

    /// A name for people.
    pub(super) fn name(&self) -> String {
        text::path(&self.path)
    }

    /// The settings, if images can be made from noise with this network.
    fn usable(&self) -> Result<&RunConfig> {
        let config = self
            .config
            .as_ref()
            .map_err(|said| anyhow::anyhow!("{said}"))?;
        ensure!(
            config.upscale.is_none(),
            "this network makes images larger, and is for `ddpm upscale`"
        );
        Ok(config)
    }

    /// Why nothing can be made with it, if so.
    pub(super) fn refused(&self) -> Option<String> {
        self.usable().err().map(|error| format!("{error:#}"))
    }

    /// The checkpoints of a run, from the newest.
    fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        match self.is_run {
            true => by_step(&self.path),
            false => vec![],
        }
    }

    fn to_json(&self, id: usize) -> Value {
        let config = match self.usable() {
            Ok(config) => config,
            Err(error) => {
                return json!({ "id": id, "name": self.name(), "refused": format!("{error:#}") });
            }
        };
        let checkpoints = self.checkpoints();
        let steps: Vec<u64> = checkpoints
            .iter()
            .map(|(step, _)| *step)
            .take(LISTED)
            .collect();
        let newest = match checkpoints.first() {
            Some((_, path)) => path.clone(),
            None => self.path.clone(),
        };
        let [channels, height, width] = config.model.chw();
        let conditional = config.conditional.as_ref();
        let names = conditional.map_or(&[][..], |conditional| &conditional.classes);
        json!({
            "id": id,
            "name": self.name(),
            "is_run": self.is_run,
            "steps": steps,
            "channels": channels,
            "height": height,
            "width": width,
            "timesteps": config.diffusion.timesteps,
            "classes": config.model.classes(),
            "class_names": names,
            "can_have_no_class": config.model.null_class().is_some(),
            "samplers": samplers(&newest, config),
        })
    }
}

/// The samplers that this network can be used with, and their default steps.
fn samplers(checkpoint: &Path, config: &RunConfig) -> Value {
    let measured = |weights| Calibration::path_beside(checkpoint, weights).exists();
    let measured = measured(Weights::Ema) || measured(Weights::Raw);
    let timesteps = config.diffusion.timesteps as usize;
    let kinds = SamplerKind::value_variants()
        .iter()
        .filter(|kind| match kind {
            SamplerKind::Ddcm => false,
            SamplerKind::Analytic => measured,
            _ => true,
        });
    let shown = |kind: &SamplerKind| {
        let about = kind.to_possible_value();
        let about = about.and_then(|value| value.get_help().map(ToString::to_string));
        json!({
            "name": kind.name(),
            "about": about,
            "steps": kind.default_steps().map_or(timesteps, |steps| steps.min(timesteps)),
            "adds_noise": matches!(kind, SamplerKind::Ddpm | SamplerKind::Analytic | SamplerKind::DpmPp2mSde),
        })
    };
    kinds.map(shown).collect()
}

fn config_of_run(path: &Path) -> Result<RunConfig> {
    let config = RunFolder::new(path.to_owned()).config();
    // A run may have lost its settings: its checkpoints hold them too.
    config.or_else(|_| Ok(read_checkpoint(&find(path)?.0)?.meta.config))
}

/// Loads it once: what a file says of itself is known then, and whether it can be used.
fn config_of_file(path: &Path) -> Result<RunConfig> {
    let loaded = Pretrained::load_with(path, &Request::default(), Device::Cpu);
    let loaded =
        loaded.context("it cannot be used as it is; see `ddpm inspect` and `ddpm import`")?;
    Ok(loaded.meta.config)
}

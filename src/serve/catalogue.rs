//! The networks that can be asked for. Requests name them by number, never by path; a number stays with its network, and
//! runs that begin later in a folder of runs get the next ones.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tch::Device;

use crate::checkpoint::{
    Calibration, RunFolder, Weights, by_step, changed, find, read_checkpoint, seems_a_run,
};
use crate::config::RunConfig;
use crate::interop::Request;
use crate::pretrained::{Pretrained, name_of};
use crate::runs::runs_below;
use crate::sample::SamplerKind;
use crate::text::{self, plural, printable};

/// Checkpoints of a run that the page lists.
const LISTED: usize = 200;
/// Runs of folders that are served from the start: the newest.
const MOST_AT_START: usize = 100;
/// Most networks, with runs that begin later.
const MOST: usize = 1000;
/// Time between two looks for new runs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);

/// All networks.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Folders of runs, which are served as they come.
    folders: Vec<PathBuf>,
    sources: RwLock<Vec<Arc<Source>>>,
    /// How many there were at the start, and when that was.
    at_start: usize,
    started: SystemTime,
    /// Runs that were too old to be among them; they come in when they are trained again.
    older: HashSet<PathBuf>,
    /// The last look for new runs: one at a time.
    looked: Mutex<Instant>,
}

/// A run or a file.
#[derive(Debug)]
struct Source {
    /// As it was given.
    path: PathBuf,
    /// Without links: what tells it from others.
    real: PathBuf,
    is_run: bool,
    /// What of a run's folder was seen before its settings were read: these are read again when it is another.
    stamp: Stamp,
    /// Settings, or why there are none.
    config: Result<Arc<RunConfig>, String>,
}

/// Whether a run's folder is there, and the time of its settings, which may come later, or change. What is shown of a run goes
/// by this and not by the disk, so that one that is back is not shown before its settings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    is_there: bool,
    settings: Option<SystemTime>,
}

impl Stamp {
    fn of(run: &Path) -> Stamp {
        let settings = std::fs::metadata(run.join("config.toml"));
        Stamp {
            is_there: run.is_dir(),
            settings: settings.ok().and_then(|file| file.modified().ok()),
        }
    }
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
    /// Reads the settings of each network, and of the newest runs in each folder.
    pub(super) fn new(networks: &[PathBuf], folders: &[PathBuf]) -> Catalogue {
        let mut known = HashSet::new();
        let mut is_new = |path: &PathBuf| known.insert(real(path));
        let mut paths: Vec<PathBuf> = networks.to_vec();
        paths.retain(&mut is_new);
        let mut runs = runs_in(folders);
        runs.retain(&mut is_new);
        runs.sort_by_cached_key(|run| (Reverse(changed(run)), run.clone()));
        let older = runs.split_off(runs.len().min(MOST_AT_START));
        paths.extend(runs);
        Catalogue {
            folders: folders.to_vec(),
            at_start: paths.len(),
            started: SystemTime::now(),
            older: older.into_iter().collect(),
            sources: RwLock::new(
                paths
                    .iter()
                    .map(|path| Arc::new(Source::new(path)))
                    .collect(),
            ),
            looked: Mutex::new(Instant::now()),
        }
    }

    /// What there is to say at start.
    pub(super) fn notes(&self) -> Vec<String> {
        let sources = self.sources();
        let refused = sources.iter().filter_map(|source| {
            let why = source.refused()?;
            Some(format!(
                "note: {} is not for the page: {why}",
                source.name()
            ))
        });
        let older = (!self.older.is_empty()).then(|| {
            let runs = plural(self.older.len() as u64, "older run");
            format!("note: {runs} left out; name those that are wanted: ddpm serve RUN")
        });
        let empty = self
            .folders
            .iter()
            .filter(|folder| runs_below(folder).is_empty());
        let empty = empty.map(|folder| {
            let name = text::path(folder);
            format!("note: there is no run in {name} yet; one that begins there comes on the page")
        });
        refused.chain(older).chain(empty).collect()
    }

    /// Takes up settings that are new, and runs that have begun or gone on; for these it looks every few seconds at most.
    pub(super) fn renew(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = self.sources();
        for source in &mut sources {
            if source.is_run && source.stamp != Stamp::of(&source.path) {
                *source = Arc::new(Source::of_run(&source.path));
            }
        }
        if looked.elapsed() >= BETWEEN_LOOKS {
            let new = self.new_runs(&sources);
            sources.extend(new.iter().map(|run| Arc::new(Source::of_run(run))));
            *looked = Instant::now();
        }
        *self.sources.write().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// The runs in the folders that are not among `sources`, but for those that were too old and still are.
    fn new_runs(&self, sources: &[Arc<Source>]) -> Vec<PathBuf> {
        let served: HashSet<&PathBuf> = sources.iter().map(|source| &source.real).collect();
        let there = sources.iter().filter(|source| source.is_there()).count();
        let is_older = |run: &PathBuf| {
            self.older.contains(run) && changed(run).is_none_or(|when| when < self.started)
        };
        let mut new = runs_in(&self.folders);
        new.retain(|run| !is_older(run) && !served.contains(&real(run)));
        new.truncate(MOST.saturating_sub(there));
        new
    }

    /// The runs, as they are shown: those that came last first. Each with its number, its folder, and whether images can be
    /// made with it.
    pub(super) fn runs(&self) -> Vec<(usize, PathBuf, bool)> {
        let runs = self.shown().into_iter().filter(|(_, one)| one.is_run);
        runs.map(|(id, one)| (id, one.path.clone(), one.usable().is_ok()))
            .collect()
    }

    /// What is there now: a run that is deleted is not, until it is there again.
    fn shown(&self) -> Vec<(usize, Arc<Source>)> {
        let mut shown: Vec<_> = self.sources().into_iter().enumerate().collect();
        let mut later = shown.split_off(self.at_start);
        later.reverse();
        later.extend(shown);
        later.retain(|(_, source)| source.is_there());
        later
    }

    fn sources(&self) -> Vec<Arc<Source>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        sources.clone()
    }

    /// The settings of a network.
    ///
    /// # Errors
    /// No such number, or settings that cannot be read.
    pub(super) fn config(&self, number: u32) -> Result<Arc<RunConfig>> {
        self.source(number)?.usable().cloned()
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
        let modified = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
        let (path, newest) = match step {
            None => {
                let newest = checkpoints.first().map(|(_, path)| path.clone());
                let newest = newest.map(|path| (path.clone(), modified(&path)));
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
        let shown = self.shown().into_iter();
        shown.map(|(id, source)| source.to_json(id)).collect()
    }

    fn source(&self, number: u32) -> Result<Arc<Source>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let found = sources.get(number as usize).cloned();
        found.with_context(|| format!("there is no network of number {number}; reload the page"))
    }
}

impl Source {
    fn new(path: &Path) -> Source {
        // Also one that has no checkpoint yet: it will have some.
        match path.is_dir() && seems_a_run(path) {
            true => Source::of_run(path),
            false => Source::of(path, false, Stamp::of(path), config_of_file(path)),
        }
    }

    /// A run, also while its folder is away.
    fn of_run(path: &Path) -> Source {
        // Before the settings: what changes meanwhile is read again.
        let stamp = Stamp::of(path);
        Source::of(path, true, stamp, config_of_run(path))
    }

    fn of(path: &Path, is_run: bool, stamp: Stamp, config: Result<RunConfig>) -> Source {
        Source {
            path: path.to_owned(),
            real: real(path),
            is_run,
            stamp,
            config: match config {
                Ok(config) => Ok(Arc::new(config)),
                Err(error) => Err(printable(&format!("{error:#}"))),
            },
        }
    }

    /// False for a run whose folder is gone.
    fn is_there(&self) -> bool {
        !self.is_run || self.stamp.is_there
    }

    /// A name for people.
    fn name(&self) -> String {
        text::path(&self.path)
    }

    /// The settings, if images can be made from noise with this network.
    fn usable(&self) -> Result<&Arc<RunConfig>> {
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
    fn refused(&self) -> Option<String> {
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
        let names: Vec<String> = names
            .iter()
            .map(|name| printable(&text::shown(name)))
            .collect();
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
            "sigma": name_of(&config.sample.sigma),
            "clip_x0": config.sample.clip_x0,
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

/// A path without links; as it is, if that cannot be told.
fn real(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The runs in some folders.
fn runs_in(folders: &[PathBuf]) -> Vec<PathBuf> {
    let found = folders.iter().flat_map(|folder| runs_below(folder));
    found.map(|run| run.dir).collect()
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

#[cfg(test)]
mod tests {
    use super::Catalogue;
    use crate::checkpoint::RunFolder;
    use crate::config::Preset;

    #[test]
    fn a_run_that_comes_back_is_not_shown_before_its_settings_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (run, away) = (dir.path().join("run"), dir.path().join("away"));
        std::fs::create_dir_all(run.join("checkpoints")).unwrap();
        let folder = RunFolder::new(run.clone());
        folder.write_config(&Preset::Demo.config()).unwrap();
        let catalogue = Catalogue::new(std::slice::from_ref(&run), &[]);
        // Whether images can be made with each run that is shown.
        let shown = || -> Vec<bool> {
            let runs = catalogue.runs().into_iter();
            runs.map(|(_, _, is_usable)| is_usable).collect()
        };
        assert_eq!(shown(), [true]);
        std::fs::rename(&run, &away).unwrap();
        catalogue.renew();
        assert_eq!(shown(), [false; 0]);
        std::fs::rename(&away, &run).unwrap();
        assert_eq!(shown(), [false; 0]);
        catalogue.renew();
        assert_eq!(shown(), [true]);
    }
}

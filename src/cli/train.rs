//! `ddpm train`.

mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use clap::{ArgAction, Args};
use tch::Device;

use super::advice::to_import_first;
use super::args::compute::ComputeArgs;
use super::args::group::{GroupArgs, as_rank, asked, before_meeting};
use super::args::preset_table::{EXAMPLES, long_help};
use super::args::run::run_or_latest;
use super::args::settings::{BaseArgs, SettingArgs};
use super::args::values::located;
use super::findings;
use super::flags::describe_error;
use super::out::{self, fail, say};
use super::outputs::{ForceArg, Outputs};
use super::signals;
use super::terminal::{Quiet, Terminal};
use crate::checkpoint::{Resumable, RunFolder, nearest_run};
use crate::config::{ConfigError, MapLayout, Preset, RunConfig, Unnamed};
use crate::device::Chosen;
use crate::distributed::{Group, Place, RankLost, Reduce};
use crate::interop::Request;
use crate::pretrained::Pretrained;
use crate::text::shell;
use crate::train::{End, Start, dry_run, resume_changes, settings_around, train};
use words::{announce, summary, tell_renewed};

/// Train a model, or resume an existing run (--run).
///
/// Without --data, a small model is trained on built-in images in minutes: the demo.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub(super) struct TrainCommand {
    /// Folder of the run, new or to be resumed; latest for the newest in runs/ [default: runs/PRESET-DATE]
    ///
    /// A new one needs --data, --preset, --config, --builtin-images or --init-from, so that a misspelt name begins
    /// nothing. A folder that is named latest is ./latest.
    #[arg(long, value_name = "DIR", value_parser = run_or_latest())]
    run: Option<PathBuf>,
    /// Resume only: an error if --run names no run
    #[arg(long, requires = "run", conflicts_with = "init_from")]
    resume: bool,
    #[command(flatten)]
    base: BaseArgs,
    /// Say what the command would do, and write nothing
    ///
    /// The images are read and counted, and two steps are timed in memory. The settings go to standard output, in the form of
    /// a run's config.toml; all else is said on standard error.
    #[arg(long)]
    dry_run: bool,
    /// Start from the weights, network and schedule of this file
    ///
    /// It is a run folder, a checkpoint, or a file of another program that needs no hints; convert one that needs
    /// hints with `ddpm import` first.
    #[arg(long, value_name = "FILE", value_parser = run_or_latest())]
    init_from: Option<PathBuf>,
    /// With --init-from: start from the raw weights instead of their EMA
    #[arg(long, requires = "init_from", hide_short_help = true)]
    raw: bool,
    /// Cache the decoded images in FILE, for a faster next start
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    cache: Option<PathBuf>,
    /// Save and stop after this time, for example 11h50m; exit code 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time_limit: Option<Duration>,
    /// Stop if a checkpoint or a sample grid cannot be written, instead of trying again at the next
    #[arg(long, hide_short_help = true)]
    strict: bool,
    /// Write the report of the run, report.html in its folder, anew after each save [default: true]
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    report: bool,
    /// Write events for TensorBoard into the run's folder: curves, grids, settings [default: true]
    ///
    /// Show them with `tensorboard --logdir runs`. Each start decides for itself.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    tensorboard: bool,
    /// Train even if more memory is needed than is free
    #[arg(long, hide_short_help = true)]
    force: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// How the ranks of a group add up their gradients
    #[arg(long, value_enum, default_value_t = Reduce::F32, help_heading = "Several GPUs or hosts", hide_short_help = true)]
    reduce: Reduce,
    #[command(flatten)]
    group: GroupArgs,
}

impl TrainCommand {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let started = Instant::now();
        let place = Place::of_environment()?;
        let chosen = before_meeting(place.as_ref(), || {
            match (self.dry_run, &place) {
                (false, _) => self.check_cache()?,
                (true, None) => say("dry run: nothing is written"),
                (true, Some(place)) => bail!(
                    "--dry-run is for one process; give it without {}",
                    place.launcher
                ),
            }
            self.settings.auto_accumulate()?;
            // Before any other work with tensors.
            self.compute.choose_for(place.as_ref())
        })?;
        if self.dry_run {
            return self.dry_run(chosen);
        }
        let group = self.group.join(place, &chosen)?;
        if group.is_some() {
            signals::stop().expect_repeats();
        }
        let done = as_rank(group.as_ref(), || {
            let start = self.prepare(&chosen, group.as_ref())?;
            let start = Start {
                chosen: Some(chosen),
                group: group.clone(),
                ..start
            };
            self.train(start, started)
        });
        match (done, signals::stop().reason()) {
            // Whoever started the ranks ends them, one after another.
            (Err(error), Some(reason)) if error.is::<RankLost>() => {
                fail(&describe_error(&error));
                Ok(ExitCode::from(reason.exit_code()))
            }
            (done, _) => done,
        }
    }

    fn dry_run(&self, chosen: Chosen) -> Result<ExitCode> {
        let start = self.lead(&chosen, self.run.clone(), false)?;
        let config = dry_run(Start {
            chosen: Some(chosen),
            ..start
        })?;
        out::lines(&config.to_toml()?);
        Ok(out::exit_code(ExitCode::SUCCESS))
    }

    /// The start of a process by itself, or of a rank: rank 0 finds what is there, and the others do as it does.
    fn prepare(&self, chosen: &Chosen, group: Option<&Arc<Group>>) -> Result<Start> {
        let Some(group) = group else {
            return self.lead(chosen, self.run.clone(), false);
        };
        group.compare("command line", &asked(self.base.file())?)?;
        let mut led = None;
        let shared = group.share(|| {
            let again = group.place().attempt > 0;
            let run = match (&self.run, again) {
                (None, true) => group.recall(RUN_KEY)?.map(PathBuf::from),
                (run, _) => run.clone(),
            };
            let start = self.lead(chosen, run, again)?;
            let folder = start.folder.dir().to_string_lossy().into_owned();
            group.remember(RUN_KEY, &folder)?;
            let shared = (folder, start.config.to_toml()?);
            led = Some(start);
            Ok(serde_json::to_vec(&shared)?)
        })?;
        if let Some(start) = led {
            return Ok(start);
        }
        let (folder, config): (PathBuf, String) = serde_json::from_slice(&shared)?;
        let config = RunConfig::of_a_run(&config).context("rank 0 sent no settings")?;
        Ok(Start {
            folder: RunFolder::new(folder),
            observer: Arc::new(Quiet),
            ..self.start(config, None, None, None)?
        })
    }

    /// The start of the process that writes the run's files. `again`: it was begun before, with the same command.
    fn lead(&self, chosen: &Chosen, run: Option<PathBuf>, again: bool) -> Result<Start> {
        let existing = self.existing(run.as_deref())?;
        let has_weights = (existing.as_ref()).is_some_and(|run| run.checkpoint.is_some());
        let init = match again && has_weights {
            true => None,
            false => self.init(has_weights)?,
        };
        let config = self.resolve(existing.as_ref(), init.as_ref())?;
        if let Err(wrong) = config.validate() {
            return Err(self.located(wrong, existing.is_some()));
        }
        if chosen.device == Device::Cpu && self.settings.wants_nchw() {
            say("note: --layout nchw is for CUDA; a CPU computes in nhwc");
        }
        let start = self.start(config, run, existing, init)?;
        announce(&start);
        Ok(start)
    }

    fn train(&self, start: Start, started: Instant) -> Result<ExitCode> {
        let (folder, config) = (start.folder.clone(), start.config.clone());
        let leads = start.group.as_ref().is_none_or(|group| group.leads());
        match train(start)? {
            End::Finished | End::NoLongerBetter { .. } if !leads => Ok(ExitCode::SUCCESS),
            end @ (End::Finished | End::NoLongerBetter { .. }) => {
                let steps = match end {
                    End::NoLongerBetter { step } => step,
                    _ => config.train.steps,
                };
                let said = summary(&folder, &config, steps, started.elapsed());
                said.lines().for_each(say);
                Ok(ExitCode::SUCCESS)
            }
            End::Stopped { reason, step } => {
                let dir = shell(folder.dir());
                if leads {
                    say(&match folder.dir().join("config.toml").exists() {
                        true => {
                            format!("saved at step {step}; resume with: ddpm train --run {dir}")
                        }
                        false => "stopped before the first step; nothing is saved".to_owned(),
                    });
                }
                Ok(ExitCode::from(reason.exit_code()))
            }
        }
    }

    /// An error in a setting, with its place in --config or in the run's config.toml if it is from there.
    fn located(&self, wrong: ConfigError, existing: bool) -> Error {
        match self.run.as_ref().filter(|_| existing) {
            Some(run) => located(wrong, Some(&run.join("config.toml")), Preset::Demo),
            None => self.base.located(wrong),
        }
    }

    /// The cache file must not be another file of this start. Its reader refuses files that are no cache.
    fn check_cache(&self) -> Result<()> {
        let mut outputs = Outputs::new(ForceArg::default());
        outputs.reads(self.init_from.iter().chain(self.base.file()));
        outputs.runs_in(self.run.as_deref());
        if let Some(cache) = &self.cache {
            outputs.updates("--cache", cache);
        }
        outputs.check()
    }

    /// The run that --run names, if it is there. If not, the other flags must be those of a new run.
    fn existing(&self, run: Option<&Path>) -> Result<Option<Resumable>> {
        let Some(dir) = run else {
            return Ok(None);
        };
        let folder = RunFolder::new(dir.to_owned());
        let existing = match self.dry_run {
            true => folder.look()?,
            false => folder.resumable()?,
        };
        match &existing {
            Some(run) if run.config_restored => say(&format!(
                "warning: {} has no config.toml; its settings are those of its newest checkpoint, and the file is written again",
                dir.display()
            )),
            Some(_) => {}
            None => self.refuse_misspelt(dir)?,
        }
        Ok(existing)
    }

    /// Refuses a new run that seems to be meant as one that exists.
    fn refuse_misspelt(&self, dir: &Path) -> Result<()> {
        let meant = self.settings.names_images() || self.base.given() || self.init_from.is_some();
        if meant && !self.resume {
            return Ok(());
        }
        let nearest = nearest_run(dir).map_or(String::new(), |run| {
            format!("; the run with the nearest name is {}", run.display())
        });
        let begin = match self.resume {
            true => "leave out --resume to begin one",
            false => "to begin one, name its images with --data DIR, or its settings with --preset",
        };
        bail!("there is no run in {}{nearest}; {begin}", dir.display())
    }

    /// The network of --init-from. A run that `has_weights` continues from its own; one without may start from others.
    fn init(&self, has_weights: bool) -> Result<Option<Pretrained>> {
        let Some(path) = &self.init_from else {
            return Ok(None);
        };
        if has_weights {
            bail!("this run has begun already; leave out --init-from, or name another --run");
        }
        let request = Request {
            raw: self.raw,
            ..Request::default()
        };
        let loaded = findings::load(path, &request, Device::Cpu);
        (loaded.map(Some)).map_err(|error| to_import_first(error, path, self.raw))
    }

    /// A new run: preset, file, flags, or the settings of the weights that it begins with. An existing one: its own
    /// settings, then flags; a preset or file that is named again must describe the same run.
    fn resolve(
        &self,
        existing: Option<&Resumable>,
        init: Option<&Pretrained>,
    ) -> Result<RunConfig> {
        let fallback = if self.settings.has_data() {
            Preset::Celebahq128
        } else {
            Preset::Demo
        };
        let with_flags = |mut config| -> Result<RunConfig> {
            self.settings.apply(&mut config)?;
            Ok(config)
        };
        match (existing, init) {
            (None, None) => {
                let config = with_flags(self.base.resolve(fallback)?)?;
                if let Some(theirs) = self.base.of_a_run() {
                    tell_renewed(&theirs, &config)?;
                }
                Ok(config)
            }
            (None, Some(network)) => {
                let theirs = network.config();
                let named = self.base.given();
                let base = named.then(|| self.base.resolve(theirs.preset));
                let config = with_flags(settings_around(theirs, base.transpose()?))?;
                // A file that was imported has not been trained here.
                if network.meta.step > 0 {
                    tell_renewed(theirs, &config)?;
                }
                Ok(config)
            }
            (Some(run), _) => {
                if self.base.given() {
                    let unnamed = Unnamed::of(&run.config);
                    let again = self.base.resolve_with(fallback, unnamed)?;
                    resume_changes(run, &with_flags(again)?)?;
                }
                let mut config = with_flags(run.config.clone())?;
                if self.settings.wants_layout_measured() {
                    config.train.layout = run.config.train.layout;
                    let kept = config.train.layout.unwrap_or(MapLayout::Nchw);
                    say(&format!(
                        "note: --layout auto is for new runs; this one keeps {kept}, or takes what --layout names"
                    ));
                }
                for change in resume_changes(run, &config)? {
                    say(&format!("changed from here on: {change}"));
                }
                Ok(config)
            }
        }
    }

    /// Everything about this start, with the terminal and the signals that ask it to stop.
    fn start(
        &self,
        config: RunConfig,
        run: Option<PathBuf>,
        existing: Option<Resumable>,
        init: Option<Pretrained>,
    ) -> Result<Start> {
        ensure!(
            self.cache.is_none() || config.data.folder.is_some(),
            "--cache keeps decoded images, and built-in ones are not decoded; give --data too"
        );
        let (resume, damaged, lock) = match existing {
            Some(run) => {
                let resume = run.checkpoint.map(|(_, checkpoint)| checkpoint);
                (resume, run.damaged, Some(run.lock))
            }
            None => (None, Vec::new(), None),
        };
        if init.is_some() && config.data.hold_out.is_some() && resume.is_none() {
            say(
                "note: the weights of --init-from may have been trained on images that are held out here; if so, they are \
                 not held out for this network",
            );
        }
        let new = Start::new(config);
        Ok(Start {
            folder: run.map_or(new.folder, RunFolder::new),
            lock,
            resume,
            damaged,
            init: init.map(|network| network.state_dict()),
            cache: self.cache.clone(),
            stop: signals::stop().with_time_limit(self.time_limit),
            strict: self.strict,
            tensorboard: self.tensorboard,
            force: self.force,
            auto_accumulate: self.settings.auto_accumulate()?,
            reduce: self.reduce,
            report: self.report,
            observer: Arc::new(Terminal::default()),
            ..new
        })
    }
}

/// Key under which a group keeps the folder of its run, for when torchrun starts it again.
const RUN_KEY: &str = "run";

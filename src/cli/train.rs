//! `ddpm train`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use tch::Device;

use super::args::compute::ComputeArgs;
use super::args::settings::{BaseArgs, SettingArgs};
use super::findings;
use crate::checkpoint::{Resumable, RunFolder};
use crate::config::{Preset, RunConfig};
use crate::interop::Request;
use crate::pretrained::Network;
use crate::train::{End, Start, farewell, train};

/// Train a model; with --run on an existing run, go on where it was.
///
/// Without --data it draws its own images and trains a small model in minutes: a demo.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm train                              the demo
  ddpm train --data photos                the 128-px model on your images (wants a GPU)
  ddpm train --preset demo --data photos  a small 32-px model on your images
  ddpm train --run runs/NAME              go on with a run
  ddpm train --run runs/NAME --steps N    … until step N

Ctrl-C and SIGTERM finish the step, save and exit with 130 or 143; a second one exits at once. SIGUSR1
saves and samples now.")]
pub(super) struct TrainCommand {
    /// Folder of the run, new or existing [default: runs/PRESET-DATE]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    base: BaseArgs,
    /// Begin with the weights, the network and the schedule of this file (ours, or anything that `import`
    /// takes) instead of drawn weights; a foreign file that does not say all is imported first
    #[arg(long, value_name = "FILE")]
    init_from: Option<PathBuf>,
    /// Begin with its raw weights instead of their average
    #[arg(long, requires = "init_from")]
    raw: bool,
    /// Keep the decoded images in FILE for a quick next start
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Save and stop after this long, for example 11h50m, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time_limit: Option<Duration>,
    /// End the run when a checkpoint or a sample grid cannot be written, instead of trying again at the next
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Settings that a resumed run may change without becoming another run.
const MAY_CHANGE: [&str; 13] = [
    "train.steps",
    "train.save_every_steps",
    "train.keep",
    "train.accumulate",
    "train.checkpoint_blocks",
    "train.on_bad_step",
    "train.explosion_factor",
    "train.sample_steps",
    "train.sample_limit_secs",
    "sample.",
    "optim.lr",
    "optim.lr_schedule",
    "optim.clip_norm",
];

fn may_change(key: &str) -> bool {
    MAY_CHANGE
        .iter()
        .any(|k| key == *k || (k.ends_with('.') && key.starts_with(k)))
}

impl TrainCommand {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let started = Instant::now();
        let auto_accumulate = self.settings.auto_accumulate()?;
        let mut named = match &self.run {
            Some(dir) => RunFolder::new(dir.clone()).resumable()?,
            None => None,
        };
        for damaged in named.iter().flat_map(|run| &run.damaged) {
            eprintln!("warning: {damaged}; going on from an earlier one");
        }
        let init = self.init(named.as_ref())?;
        let config = self.resolve(named.as_ref(), init.as_ref())?;
        for warning in config.validate()? {
            eprintln!("warning: {warning}");
        }
        let folder = RunFolder::new(
            self.run
                .clone()
                .unwrap_or_else(|| default_folder(config.preset)),
        );
        if self.cache.is_some() && config.data.folder.is_none() {
            bail!(
                "--cache keeps decoded images, and built-in ones are not decoded; give --data too"
            );
        }
        if config.data.folder.is_none() && config.preset == Preset::Demo {
            eprintln!("This is the demo, on built-in images. For your own: ddpm train --data DIR");
        }
        let (resume, lock) = match named.take() {
            Some(run) => (
                run.checkpoint.map(|(_, checkpoint)| checkpoint),
                Some(run.lock),
            ),
            None => (None, None),
        };
        match &resume {
            Some(c) => eprintln!(
                "resuming {} at step {}",
                folder.dir().display(),
                c.meta.step
            ),
            None => eprintln!("run folder {}", folder.dir().display()),
        }
        let start = Start {
            folder: folder.clone(),
            lock,
            config: config.clone(),
            resume,
            init: init.map(|network| network.state_dict()),
            cache: self.cache.clone(),
            chosen: self.compute.choose()?,
            time_limit: self.time_limit,
            strict: self.strict,
            auto_accumulate,
        };
        match train(start)? {
            End::Finished => {
                eprintln!("{}", farewell(&folder, &config, started.elapsed()));
                Ok(ExitCode::SUCCESS)
            }
            End::Stopped(reason) => Ok(ExitCode::from(reason.exit_code())),
        }
    }

    /// The network to begin with. A run that has steps goes on with its own weights, and one that has not
    /// may begin as it was told to.
    fn init(&self, existing: Option<&Resumable>) -> Result<Option<Network>> {
        let Some(path) = &self.init_from else {
            return Ok(None);
        };
        if existing.is_some_and(|run| run.checkpoint.is_some()) {
            bail!("this run has begun already; leave out --init-from, or name another --run");
        }
        let request = Request {
            raw: self.raw,
            ..Request::default()
        };
        findings::load(path, &request, Device::Cpu).map(Some)
    }

    /// Settings of a run that begins with the weights of `network`: all of that file's, or its network,
    /// schedule and sampler over the preset or file that is named.
    fn resolve_from(&self, network: &Network) -> Result<RunConfig> {
        let theirs = &network.meta.config;
        let mut config = theirs.clone();
        if self.base.given() {
            config = self.base.resolve(theirs.preset)?;
            config.model = theirs.model.clone();
            config.diffusion = theirs.diffusion.clone();
            let sample = &mut config.sample;
            sample.sigma = theirs.sample.sigma;
            sample.clip_x0 = theirs.sample.clip_x0;
            sample.last_noise = theirs.sample.last_noise;
        }
        config.data.folder = None;
        self.settings.apply(&mut config)?;
        Ok(config)
    }

    /// A new run: preset, file, flags. An existing one: its own settings, then flags; a preset or file
    /// that is named again must describe the same run.
    fn resolve(&self, existing: Option<&Resumable>, init: Option<&Network>) -> Result<RunConfig> {
        if let (None, Some(network)) = (existing, init) {
            return self.resolve_from(network);
        }
        let fallback = if self.settings.has_data() {
            Preset::Celebahq128
        } else {
            Preset::Demo
        };
        let Some(run) = existing else {
            let mut config = self.base.resolve(fallback)?;
            self.settings.apply(&mut config)?;
            return Ok(config);
        };
        if self.base.given() {
            let mut again = self.base.resolve(fallback)?;
            self.settings.apply(&mut again)?;
            refuse_changes(&again, &run.config)?;
        }
        let mut config = run.config.clone();
        self.settings.apply(&mut config)?;
        refuse_changes(&config, &run.config)?;
        for change in config.differences(&run.config)? {
            eprintln!("changed from here on: {change}");
        }
        let done = run.checkpoint.as_ref().map_or(0, |(_, c)| c.meta.step);
        if config.train.steps < done {
            bail!(
                "this run has done {done} steps, more than --steps {}; name a larger number, or another --run",
                config.train.steps
            );
        }
        Ok(config)
    }
}

/// A resumed run with another network, data set or seed would be neither run.
fn refuse_changes(wanted: &RunConfig, existing: &RunConfig) -> Result<()> {
    let refused: Vec<String> = wanted
        .differences(existing)?
        .iter()
        .filter(|d| !may_change(&d.key))
        .map(|d| format!("\n  {d}"))
        .collect();
    if !refused.is_empty() {
        bail!(
            "this run exists with other settings; resume it without these, or begin another with its weights (--run NEW --init-from THIS_RUN):{}",
            refused.concat()
        );
    }
    Ok(())
}

/// `runs/PRESET-YYYYMMDD-HHMMSS` in UTC, with a number if that is taken.
fn default_folder(preset: Preset) -> PathBuf {
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

//! `ddpm config`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::args::run::run_or_latest;
use super::out::{self, say};
use crate::checkpoint::{RunFolder, is_ours, read_checkpoint};
use crate::config::{Preset, RunConfig};
use crate::pretrained::ours;
use crate::text;

/// Print settings as TOML that `ddpm train --config` takes: of a preset, a run or a checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm config demo > my.toml
  ddpm config runs/NAME | diff my.toml -
  ddpm train --config <(ddpm config runs/NAME) --data DIR")]
pub(super) struct ConfigCommand {
    /// Name of a preset, a run folder, or a checkpoint
    ///
    /// Of a run, these are the settings of its config.toml, with which it would go on. A folder that is named as a preset is
    /// ./demo.
    #[arg(value_name = "PRESET|RUN|CKPT", value_parser = run_or_latest())]
    of: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    pub(super) fn run(&self) -> Result<()> {
        let (what, config) = self.find()?;
        say(&what);
        match self.json {
            true => out::json(&serde_json::to_string_pretty(&config.to_named()?)?),
            false => out::lines(&toml::to_string(&config.to_named()?)?),
        }
        Ok(())
    }

    /// The settings, and whose they are.
    fn find(&self) -> Result<(String, RunConfig)> {
        let path = &self.of;
        let preset = path
            .to_str()
            .and_then(|name| Preset::from_str(name, false).ok());
        if let Some(preset) = preset {
            let other = match path.exists() {
                true => format!("; what is named so here is ./{}", preset.name()),
                false => String::new(),
            };
            let said = format!("settings of the preset {}{other}", preset.name());
            return Ok((said, preset.config()));
        }
        let folder = RunFolder::new(path.clone());
        if path.join("config.toml").is_file() {
            let said = format!("settings of the run {}", text::path(path));
            return Ok((said, folder.config()?));
        }
        let checkpoint = self.checkpoint(path)?;
        let meta = read_checkpoint(&checkpoint)?.meta;
        let said = format!(
            "settings of {}, step {}",
            text::path(&checkpoint),
            meta.step
        );
        Ok((said, meta.config))
    }

    fn checkpoint(&self, path: &Path) -> Result<PathBuf> {
        let presets: Vec<String> = (Preset::value_variants().iter())
            .map(|preset| preset.name())
            .collect();
        let wanted = || {
            format!(
                "{} is no preset, run or checkpoint; want a folder, a file, or one of {}",
                text::path(path),
                presets.join(", ")
            )
        };
        ensure!(path.exists(), wanted());
        let found = ours(path).with_context(wanted)?;
        let file = found.map_or_else(|| path.to_owned(), |(file, _)| file);
        ensure!(
            file.is_file() && is_ours(&file).with_context(wanted)?,
            "{} is of another program, and holds no settings of a run; `ddpm import` converts it",
            text::path(path)
        );
        Ok(file)
    }
}

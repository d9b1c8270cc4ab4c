//! Checkpoints that describe themselves.
//!
//! A safetensors file whose metadata entry `ddpm` is the JSON of [`Meta`]. A training checkpoint
//! holds, for every parameter NAME, `model.NAME`, `ema.NAME` (the running sum, not bias-corrected, so
//! that a resume is exact), `optim.exp_avg.NAME` and `optim.exp_avg_sq.NAME`. A weights file holds
//! NAME alone: a plain `state_dict`. The JSON begins with the BLAKE3 of the rest of it and of all tensors.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::checksum::checksum;
use super::evaluations::Evaluations;
use super::origin::Origin;
use crate::config::RunConfig;
use crate::formats::safetensors;
use crate::optim::bias_correction;
use crate::text::{quoting, shell};

/// Latest layout version that this program reads.
///
/// 1: no checksum, no history. 2: both. 3: the same, of a network with classes that programs of before do not know;
/// other files are still written as 2, which those programs read.
const FORMAT: u32 = 3;
const METADATA_KEY: &str = "ddpm";

/// Contents of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contents {
    /// Everything a resume needs.
    Training,
    /// EMA weights alone, bias-corrected.
    EmaWeights,
    /// Raw weights alone.
    RawWeights,
    /// Weights from another program, averaged or not.
    Weights,
}

impl std::fmt::Display for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Contents::Training => "training state",
            Contents::EmaWeights => "EMA weights only",
            Contents::RawWeights => "raw weights only",
            Contents::Weights => "weights only",
        })
    }
}

/// One of the two sets of weights in a training checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The bias-corrected average.
    Ema,
    /// The weights as trained.
    Raw,
}

impl std::fmt::Display for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Weights::Ema => "EMA",
            Weights::Raw => "raw",
        })
    }
}

/// The metadata of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Layout version.
    pub format: u32,
    /// Contents of the tensors.
    pub contents: Contents,
    /// Version of the program that wrote it.
    pub written_by: String,
    /// Training steps done.
    pub step: u64,
    /// Steps averaged in the EMA.
    pub ema_steps: u64,
    /// Images in the data set it was trained on; 0 if unknown.
    #[serde(rename = "pictures")]
    pub images: u64,
    /// State of the training besides tensors and step number.
    #[serde(default)]
    pub history: History,
    /// Device, arithmetic and libraries that it was trained with: a resume elsewhere differs in the last bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Where the weights came from, if from another program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Model, schedule, objective, seed and all else.
    pub config: RunConfig,
}

/// State of a run that its next steps depend on, besides tensors and the step number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Factor on the learning rate: halved by each rollback.
    pub lr_factor: f64,
    /// Number of returns to a checkpoint after a bad step.
    pub rollbacks: u32,
    /// Bad steps that were skipped, counted from 1.
    pub skipped: Vec<u64>,
    /// Running means of loss and gradient norm; none before the first step.
    #[serde(rename = "usual")]
    pub running_stats: Option<RunningStats>,
    /// True if the run began with weights from elsewhere, false if with those of its seed; none in files of 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_weights: Option<bool>,
    /// Its evaluations; none in runs without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<Evaluations>,
}

/// Running means over the steps that passed the guard.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningStats {
    /// Of ln(loss) and ln(gradient norm).
    pub ln: [f32; 2],
    /// Number of steps averaged.
    pub steps: u64,
}

impl History {
    /// Refuses a history that no run of `step` steps can have.
    fn validate(&self, step: u64) -> Result<()> {
        let skipped = &self.skipped;
        let in_order = skipped.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = skipped.first().is_none_or(|first| *first > 0)
            && skipped.last().is_none_or(|last| *last <= step);
        let stats = self.running_stats.unwrap_or_default();
        let evaluations = self.evaluations.as_ref();
        ensure!(
            in_order
                && in_range
                && self.lr_factor > 0.0
                && self.lr_factor <= 1.0
                && stats.steps <= step
                && evaluations.is_none_or(|found| found.is_possible(step))
                && stats.ln.iter().all(|ln| ln.is_finite()),
            "its history is impossible: {self:?} after {step} steps"
        );
        Ok(())
    }
}

impl Default for History {
    fn default() -> History {
        History {
            lr_factor: 1.0,
            rollbacks: 0,
            skipped: vec![],
            running_stats: None,
            given_weights: None,
            evaluations: None,
        }
    }
}

impl Meta {
    /// Metadata of a file written now, for weights whose training is unknown.
    pub fn new(contents: Contents, config: &RunConfig) -> Meta {
        Meta {
            format: format_for(config),
            contents,
            written_by: concat!("ddpm ", env!("CARGO_PKG_VERSION")).to_owned(),
            step: 0,
            ema_steps: 0,
            images: 0,
            history: History::default(),
            environment: None,
            origin: None,
            config: config.clone(),
        }
    }
}

/// A file with its metadata; tensors are mapped, not read.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its metadata.
    pub meta: Meta,
    /// All tensors.
    pub tensors: Vec<(String, Tensor)>,
}

impl Checkpoint {
    /// The tensors below `prefix`, without it.
    pub fn section(&self, prefix: &str) -> Vec<(String, Tensor)> {
        self.tensors
            .iter()
            .filter_map(|(name, t)| {
                Some((name.strip_prefix(prefix)?.to_owned(), t.shallow_clone()))
            })
            .collect()
    }

    /// One set of weights as a plain `state_dict`.
    ///
    /// # Errors
    /// The file holds only the other set.
    pub fn weights(&self, weights: Weights) -> Result<Vec<(String, Tensor)>> {
        match (self.meta.contents, weights) {
            (Contents::Training, Weights::Raw) => Ok(self.section("model.")),
            (Contents::Training, Weights::Ema) => Ok(self.corrected_ema()),
            (Contents::Weights, _)
            | (Contents::EmaWeights, Weights::Ema)
            | (Contents::RawWeights, Weights::Raw) => Ok(self.section("")),
            (Contents::RawWeights, Weights::Ema) => {
                bail!("this file holds raw weights and no EMA; use them with `request.raw`")
            }
            (Contents::EmaWeights, Weights::Raw) => {
                bail!("this file holds EMA weights and no raw ones; leave `request.raw` out")
            }
        }
    }

    fn corrected_ema(&self) -> Vec<(String, Tensor)> {
        if self.meta.ema_steps == 0 {
            return self.section("model.");
        }
        let scale = bias_correction(self.meta.config.optim.ema, self.meta.ema_steps);
        self.section("ema.")
            .into_iter()
            .map(|(name, t)| (name, t / scale))
            .collect()
    }
}

/// True for a file written by this program, by its metadata.
///
/// # Errors
/// An unreadable file, or a damaged safetensors file.
pub fn is_ours(path: &Path) -> Result<bool> {
    Ok(safetensors::is(path)? && safetensors::open(path)?.metadata.contains_key(METADATA_KEY))
}

/// What a file written by this program holds, by its metadata alone.
///
/// # Errors
/// Unreadable, not ours, or damaged.
pub(super) fn contents_of(path: &Path) -> Result<Contents> {
    let file = safetensors::open(path)?;
    let text = file.metadata.get(METADATA_KEY).context("not ours")?;
    Ok(parse_meta(text)?.contents)
}

/// The metadata of a file of ours, without a look at its tensors but at their sizes: quick, and no proof that it is
/// undamaged.
///
/// # Errors
/// Unreadable, truncated, not ours, of a newer format, or with settings that cannot work.
pub fn read_meta(path: &Path) -> Result<Meta> {
    let file = safetensors::open(path)?;
    let text = file.metadata.get(METADATA_KEY);
    let text = text.with_context(|| format!("{} has no `ddpm` metadata", path.display()))?;
    parse_meta(text).with_context(|| format!("cannot read {}", path.display()))
}

/// Opens a file of ours and checks that it is whole and unchanged and that its config makes sense.
///
/// # Errors
/// Unreadable, truncated, damaged, not ours, of a newer format, or with settings that cannot work.
pub fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    let file = safetensors::open(path)?;
    let text = file.metadata.get(METADATA_KEY).with_context(|| {
        format!(
            "{} does not name its model (no `ddpm` metadata); add a config with: ddpm import {} --config FILE.toml --to OTHER.safetensors",
            path.display(),
            shell(path)
        )
    })?;
    let cannot = || format!("cannot read {}", path.display());
    let meta = parse_meta(text).with_context(cannot)?;
    if meta.format >= 2 {
        verify(text, &file.tensors).with_context(cannot)?;
    }
    Ok(Checkpoint {
        meta,
        tensors: file.tensors,
    })
}

/// The lowest layout version in which a file of these settings says all that it must.
fn format_for(config: &RunConfig) -> u32 {
    let of_classes = config.model.has_new_classes() || config.conditional.is_some();
    match of_classes || config.upscale.is_some() {
        true => 3,
        false => 2,
    }
}

/// Puts the checksum of a file in front of its settings.
fn seal(meta: &str, checksum: &str) -> String {
    format!("{{\"checksum\":\"{checksum}\",{}", &meta[1..])
}

fn verify(sealed: &str, tensors: &[(String, Tensor)]) -> Result<()> {
    let rest = sealed.strip_prefix("{\"checksum\":\"");
    let (written, rest) = rest
        .and_then(|rest| rest.split_once("\","))
        .context("its `ddpm` metadata does not start with a checksum; the file is damaged")?;
    let found = checksum(&format!("{{{rest}"), tensors)?;
    ensure!(
        written == found,
        "the file is damaged: what it holds does not match its checksum; use another checkpoint of the run, and check the disk"
    );
    Ok(())
}

fn parse_meta(text: &str) -> Result<Meta> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged =
        |error: serde_json::Error| quoting(error).context("its `ddpm` metadata is damaged");
    let Version { format } = serde_json::from_str(text).map_err(damaged)?;
    ensure!(
        (1..=FORMAT).contains(&format),
        "its format is {format} and this program reads 1 to {FORMAT}; use the ddpm that wrote it"
    );
    let mut meta: serde_json::Value = serde_json::from_str(text).map_err(damaged)?;
    // Files from before there was more than one network do not name theirs.
    if let Some(serde_json::Value::Object(model)) = meta.pointer_mut("/config/model") {
        model.entry("kind").or_insert_with(|| "unet".into());
    }
    let meta: Meta = serde_json::from_value(meta).map_err(damaged)?;
    meta.config.validate()?;
    let history = meta.history.validate(meta.step);
    history.map_err(quoting)?;
    Ok(meta)
}

/// Writes tensors (any device, any strides) with their metadata and checksum, whole or not at all.
///
/// # Errors
/// Disk full, folder not writable, …; an older file at `path` stays as it was.
pub fn write_checkpoint(path: &Path, meta: &Meta, tensors: &[(String, Tensor)]) -> Result<()> {
    let on_host = |(name, tensor): &(String, Tensor)| {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        (name.clone(), tensor)
    };
    let tensors: Vec<_> = tensors.iter().map(on_host).collect();
    // A file read in an older layout is written in the current one.
    let meta = serde_json::to_string(&Meta {
        format: format_for(&meta.config),
        ..meta.clone()
    })?;
    let sealed = seal(&meta, &checksum(&meta, &tensors)?);
    safetensors::write(path, (METADATA_KEY.to_owned(), sealed), &tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelKind, Preset};

    #[test]
    fn only_networks_that_older_programs_do_not_know_are_of_a_later_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let written = |kind: ModelKind, classes, null_class| {
            let mut config = Preset::Demo.config();
            config.model = kind.config([3, 32, 32]);
            config.model.set_classes(classes, null_class);
            let meta = Meta::new(Contents::Weights, &config);
            write_checkpoint(&path, &meta, &[("w".into(), Tensor::from_slice(&[1f32]))]).unwrap();
            let read = read_checkpoint(&path).unwrap().meta;
            assert_eq!((read.format, &read.config), (meta.format, &config));
            read.format
        };
        assert_eq!(written(ModelKind::Unet, None, false), 2);
        assert_eq!(written(ModelKind::UnetAttention, Some(10), false), 2);
        assert_eq!(written(ModelKind::UnetAttention, Some(10), true), 3);
        for kind in [ModelKind::Unet, ModelKind::Lucidrains, ModelKind::Gau] {
            assert_eq!(written(kind, Some(10), false), 3, "{kind:?}");
        }
    }

    #[test]
    fn a_later_format_is_refused_by_number() {
        let error = parse_meta("{\"format\": 4, \"what\": \"ever\"}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "its format is 4 and this program reads 1 to 3; use the ddpm that wrote it"
        );
    }
}

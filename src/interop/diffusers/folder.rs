//! The files of a diffusers model on disk: a pipeline, a bare U-Net, a training checkpoint.
//!
//! ```text
//! pipeline/                    checkpoint-500/              old pipeline/, or a bare U-Net's folder
//!   model_index.json             unet/                        [model_index.json]
//!   unet/config.json             unet_ema/                    config.json
//!   unet/diffusion_pytorch_model.safetensors                  diffusion_pytorch_model.bin
//!   scheduler/scheduler_config.json                           scheduler_config.json
//! ```
//!
//! Only names and the small JSON files are read here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::config::{CLASS, class_of};
use super::json::read_json;
use super::knobs::Knobs;
use super::weights;

/// The files of one U-Net.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// `config.json`.
    pub(crate) config: PathBuf,
    /// The weights: one file, or where `sharded` the index of several (`….index.json`), all of which
    /// are there.
    pub(crate) weights: PathBuf,
    /// True if `weights` is an index.
    pub(crate) sharded: bool,
    /// `scheduler_config.json`, if there is one.
    pub(crate) scheduler: Option<PathBuf>,
    /// A choice between files, for the report.
    pub(crate) note: Option<String>,
}

/// Finds the files of the U-Net in the folder `path`, or around the weights file `path`. A training
/// checkpoint's EMA is preferred to its raw weights, unless `raw`.
///
/// `None` if nothing looks like diffusers.
///
/// # Errors
/// A diffusers folder that lacks a file, or one of another network; each names the files looked for.
pub(crate) fn find(path: &Path, raw: bool) -> Result<Option<Folder>> {
    // Names matter below, and "." has no name.
    let path = std::path::absolute(path)
        .with_context(|| format!("cannot find the place of {}", path.display()))?;
    let info = fs::metadata(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if info.is_dir() {
        in_folder(&path, raw)
    } else {
        around_file(&path, raw)
    }
}

fn in_folder(dir: &Path, raw: bool) -> Result<Option<Folder>> {
    if dir.join("model_index.json").is_file() {
        refuse_other_pipelines(&dir.join("model_index.json"))?;
        let Some(unet) = ["unet", ""]
            .map(|below| dir.join(below))
            .into_iter()
            .find(|unet| unet.join("config.json").is_file())
        else {
            bail!(
                "{} is a diffusers pipeline without the settings of its U-Net: looked for unet/config.json \
                 and config.json; download them too",
                dir.display()
            );
        };
        let note = average_beside(&unet, raw);
        return folder_of(&unet, note).map(Some);
    }
    if let Some((unet, note)) = of_training(dir, raw)? {
        return folder_of(&unet, note).map(Some);
    }
    if dir.join("config.json").is_file() {
        return match class_of(&read_json(&dir.join("config.json"))?)? {
            Some(_) => folder_of(dir, average_beside(dir, raw)).map(Some),
            None => Ok(None),
        };
    }
    ensure!(
        !weights::any(dir),
        "{} holds weights of diffusers without settings: looked for config.json beside them; put it there",
        dir.display()
    );
    Ok(None)
}

/// The folder to read of a training checkpoint's `unet` and `unet_ema`.
fn of_training(dir: &Path, raw: bool) -> Result<Option<(PathBuf, Option<String>)>> {
    let [plain, ema] = ["unet", "unet_ema"].map(|below| dir.join(below));
    let has = |unet: &Path| unet.join("config.json").is_file();
    Ok(match (has(&plain), has(&ema)) {
        (true, true) if raw => Some((
            plain,
            Some("unet/ is used, not the average in unet_ema/".into()),
        )),
        (true, true) => Some((
            ema,
            Some("unet_ema/ is used, the average of the weights in unet/".into()),
        )),
        (true, false) => Some((plain, None)),
        (false, true) => {
            ensure!(
                !raw,
                "{} has no raw weights: looked for unet/config.json and found only unet_ema/",
                dir.display()
            );
            Some((ema, Some("unet_ema/ is used; there is no unet/".into())))
        }
        (false, false) => {
            for unet in [plain, ema] {
                ensure!(
                    !weights::any(&unet),
                    "{} holds weights of diffusers without settings: looked for config.json beside them; \
                     put it there",
                    unet.display()
                );
            }
            None
        }
    })
}

/// A note of the average in `unet_ema/`, for weights in the `unet/` beside it that were named themselves.
fn average_beside(unet: &Path, raw: bool) -> Option<String> {
    let average = unet.with_file_name("unet_ema");
    let named = unet.file_name().is_some_and(|name| name == "unet");
    (named && !raw && average.join("config.json").is_file()).then(|| {
        "the weights in unet/ are wanted, not their average in unet_ema/ beside it".to_owned()
    })
}

fn around_file(path: &Path, raw: bool) -> Result<Option<Folder>> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let config = dir.join("config.json");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kinds = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];
    let index = weights::is_index(&name);
    if !(index || kinds.iter().any(|kind| name.ends_with(kind))) || !config.is_file() {
        return Ok(None);
    }
    if class_of(&read_json(&config)?)?.is_none() {
        return Ok(None);
    }
    refuse_other_classes(&config)?;
    ensure!(
        !weights::is_shard(&name),
        "{} is one shard of several; give the folder {} instead",
        path.display(),
        dir.display()
    );
    folder_with(config, path.to_owned(), dir, average_beside(dir, raw)).map(Some)
}

fn folder_of(unet: &Path, note: Option<String>) -> Result<Folder> {
    let config = unet.join("config.json");
    refuse_other_classes(&config)?;
    let (weights, variant) = weights::find(unet)?;
    let note = match (note, variant) {
        (Some(note), Some(variant)) => Some(format!("{note}; {variant}")),
        (note, variant) => note.or(variant),
    };
    folder_with(config, weights, unet, note)
}

fn folder_with(
    config: PathBuf,
    weights: PathBuf,
    unet: &Path,
    note: Option<String>,
) -> Result<Folder> {
    let name = weights.file_name().unwrap_or_default();
    let sharded = weights::is_index(&name.to_string_lossy());
    if sharded {
        weights::check_shards(&weights)?;
    }
    Ok(Folder {
        config,
        weights,
        sharded,
        scheduler: scheduler_near(unet),
        note,
    })
}

fn refuse_other_classes(config: &Path) -> Result<()> {
    let class = class_of(&read_json(config)?)?.unwrap_or_else(|| "no class".to_owned());
    ensure!(
        class == CLASS,
        "{} is of {class}, and the only diffusers network that is read is {CLASS}",
        config.display()
    );
    Ok(())
}

/// Refuses, by name, a pipeline whose network is not a `UNet2DModel` over pixels.
fn refuse_other_pipelines(index: &Path) -> Result<()> {
    let knobs = Knobs::parse("model_index.json", &read_json(index)?)
        .with_context(|| index.display().to_string())?;
    let pipeline = knobs.word("_class_name", "a pipeline")?;
    // A part is ["library", "class"], or [null, null] if left out.
    let class = |value: &Value| value.get(1).and_then(Value::as_str).map(str::to_owned);
    let unet = knobs.get("unet").and_then(class);
    ensure!(
        unet.as_deref() == Some(CLASS),
        "{} is of {pipeline}, with {} as its U-Net; the only diffusers network that is read is {CLASS}",
        index.display(),
        unet.as_deref().unwrap_or("nothing")
    );
    for (part, value) in knobs.iter() {
        let known = matches!(part, "unet" | "scheduler") || part.starts_with('_');
        if let (false, Some(class)) = (known, class(value)) {
            bail!(
                "{} is of {pipeline}, which has a part {part} ({class}) besides U-Net and scheduler: its \
                 U-Net does not work on pixels alone, and no other pipeline is read",
                index.display()
            );
        }
    }
    Ok(())
}

/// `scheduler_config.json` beside a U-Net's folder, in it, or in the run that a training checkpoint
/// belongs to.
fn scheduler_near(unet: &Path) -> Option<PathBuf> {
    let named = |dir: &Path, test: fn(&str) -> bool| {
        dir.file_name()
            .is_some_and(|name| test(&name.to_string_lossy()))
    };
    let mut places = vec![unet];
    if named(unet, |name| name == "unet" || name == "unet_ema") {
        places.extend(unet.parent());
    }
    let last = *places.last().unwrap_or(&unet);
    if named(last, |name| name.starts_with("checkpoint-")) {
        places.extend(last.parent());
    }
    places
        .iter()
        .flat_map(|dir| {
            ["scheduler/scheduler_config.json", "scheduler_config.json"].map(|f| dir.join(f))
        })
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests;

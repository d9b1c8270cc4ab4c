//! The weights in a U-Net's folder: one file, a variant such as fp16, or shards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::json::read_json;
use super::knobs::Knobs;
use crate::text::printable;

/// Beginning of all their names.
const STEM: &str = "diffusion_pytorch_model.";

/// Endings after the stem, best first.
const ENDINGS: [&str; 4] = [
    "safetensors",
    "safetensors.index.json",
    "bin",
    "bin.index.json",
];

/// Endings of weights that other programs name as they like.
const OTHER_ENDINGS: [&str; 5] = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];

/// Beginnings of what accelerate saves beside weights.
const STATES: [&str; 5] = [
    "optimizer",
    "scheduler",
    "sampler",
    "scaler",
    "random_states",
];

/// True if a folder holds a file named like diffusers' weights.
pub(super) fn any(dir: &Path) -> bool {
    names(dir).is_ok_and(|names| !names.is_empty())
}

/// True for the name of an index of shards.
pub(super) fn is_index(name: &str) -> bool {
    name.contains(".index.") && name.ends_with(".json")
}

/// True for the name of one shard of several: `…-00001-of-00002.safetensors`.
pub(super) fn is_shard(name: &str) -> bool {
    let digits = |s: &str, from_end: bool| {
        let end = if from_end {
            s.chars().next_back()
        } else {
            s.chars().next()
        };
        end.is_some_and(|c| c.is_ascii_digit())
    };
    name.split_once("-of-")
        .is_some_and(|(before, after)| digits(before, true) && digits(after, false))
}

/// The weights in a folder, one file or the index of several; and a note if only a variant was
/// there.
///
/// # Errors
/// No weights there, or several variants.
pub(super) fn find(dir: &Path) -> Result<(PathBuf, Option<String>)> {
    for ending in ENDINGS {
        let file = dir.join(format!("{STEM}{ending}"));
        if file.is_file() {
            return Ok((file, None));
        }
    }
    let variants = variants(dir)?;
    if variants.is_empty() {
        return only_other(dir);
    }
    ensure!(
        variants.len() == 1,
        "{} holds weights in the variants {}; give the file of one of them",
        dir.display(),
        variants.keys().cloned().collect::<Vec<_>>().join(", ")
    );
    let (variant, (_, file)) = variants.into_iter().next().context("no variant")?;
    let note = format!("the variant {variant} is used, the only one there");
    Ok((file, Some(note)))
}

/// The only weights in a folder under another name, as trainers save them.
///
/// # Errors
/// None there, or several.
fn only_other(dir: &Path) -> Result<(PathBuf, Option<String>)> {
    let cannot = || format!("cannot list {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        let name = name.to_string_lossy().into_owned();
        let ending = OTHER_ENDINGS.iter().any(|ending| name.ends_with(ending));
        let usable = ending && !is_shard(&name) && dir.join(&name).is_file();
        if usable && !name.starts_with('.') && !STATES.iter().any(|state| name.starts_with(state)) {
            names.push(name);
        }
    }
    names.sort();
    ensure!(
        !names.is_empty(),
        "no weights in {}: looked for {}, and for variants such as {STEM}fp16.safetensors",
        dir.display(),
        ENDINGS.map(|ending| format!("{STEM}{ending}")).join(", ")
    );
    let listed = names.iter().map(|name| printable(name)).collect::<Vec<_>>();
    let listed = listed.join(", ");
    ensure!(
        names.len() == 1,
        "{} holds several files of weights: {listed}; give one of them",
        dir.display()
    );
    let note = format!("{listed} is used, the only file of weights there");
    Ok((dir.join(&names[0]), Some(note)))
}

/// The best file of each variant, with its rank among [`ENDINGS`].
fn variants(dir: &Path) -> Result<BTreeMap<String, (usize, PathBuf)>> {
    let mut found = BTreeMap::new();
    for name in names(dir)? {
        let Some((rank, variant)) = variant_of(&name) else {
            continue;
        };
        let candidate = (rank, dir.join(&name));
        let best = found.entry(variant).or_insert_with(|| candidate.clone());
        if candidate.0 < best.0 {
            *best = candidate;
        }
    }
    Ok(found)
}

/// Rank and variant of a file's name: the variant is before the last part, also in
/// `….safetensors.index.fp16.json`.
fn variant_of(name: &str) -> Option<(usize, String)> {
    let (start, last) = name.strip_prefix(STEM)?.rsplit_once('.')?;
    let (before, variant) = start.rsplit_once('.').unwrap_or(("", start));
    let ending = if before.is_empty() {
        last.to_owned()
    } else {
        format!("{before}.{last}")
    };
    let rank = ENDINGS.iter().position(|known| *known == ending)?;
    (!is_shard(name)).then(|| (rank, variant.to_owned()))
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot list {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(STEM) && variant_or_plain(&name) {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn variant_or_plain(name: &str) -> bool {
    let plain = name
        .strip_prefix(STEM)
        .is_some_and(|rest| ENDINGS.contains(&rest));
    plain || variant_of(name).is_some()
}

/// Checks that all shards that an index names lie in its folder.
///
/// # Errors
/// Not an index, a name that leads out of the folder, or a missing shard.
pub(super) fn check_shards(index: &Path) -> Result<()> {
    let name = index.display().to_string();
    let knobs =
        Knobs::parse("the index of shards", &read_json(index)?).with_context(|| name.clone())?;
    let map = knobs.get("weight_map").and_then(Value::as_object);
    let map = map.with_context(|| format!("{name}: no weight_map {{\"tensor\": \"file\", …}}"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let file = file.as_str().with_context(|| {
            format!("{name}: the file of tensor {tensor} is {file}, want a name")
        })?;
        let mut parts = Path::new(file).components();
        let bare = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
        ensure!(
            bare && !is_index(file),
            "{name}: the file of tensor {tensor} is {file:?}, want the bare name of a file in the same folder"
        );
        files.insert(file);
    }
    ensure!(!files.is_empty(), "{name}: weight_map is empty");
    let dir = index.parent().unwrap_or(Path::new(""));
    let missing: Vec<_> = files
        .into_iter()
        .map(|file| dir.join(file))
        .filter(|file| !file.is_file())
        .map(|file| file.display().to_string())
        .collect();
    ensure!(
        missing.is_empty(),
        "{name} names shards that are not there: {}; download them too",
        missing.join(", ")
    );
    Ok(())
}

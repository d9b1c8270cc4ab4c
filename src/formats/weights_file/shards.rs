//! The shards of a Hugging Face checkpoint, opened by their index as one file.
//!
//! The index is JSON: `{"metadata": {...}, "weight_map": {KEY: FILE}}`. The files are beside it; a
//! name that leads elsewhere is refused.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::WeightsFile;
use super::node::Node;
use crate::fs::open_regular;

/// Longest index that is read; one key takes about 100 bytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Most shards that are opened.
const MAX_SHARDS: usize = 1000;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// See [`WeightsFile::open_shards`].
pub(super) fn open(index: &Path) -> Result<WeightsFile> {
    merge(index).with_context(|| format!("cannot read the shards of {}", index.display()))
}

fn merge(path: &Path) -> Result<WeightsFile> {
    let mut weight_map = read_index(path)?.weight_map;
    let names: BTreeSet<String> = weight_map.values().cloned().collect();
    ensure!(!names.is_empty(), "its weight_map lists no file");
    ensure!(
        names.len() <= MAX_SHARDS,
        "its weight_map lists {} files, wanted at most {MAX_SHARDS}",
        names.len()
    );
    for name in &names {
        ensure!(
            is_plain(name),
            "its weight_map names the file {name:?}, wanted a plain name in the same folder; \
             do not trust this file"
        );
    }
    let mut whole: Option<WeightsFile> = None;
    let mut entries = Vec::new();
    for name in names {
        let mut shard = WeightsFile::open(&path.with_file_name(&name))?;
        let part = whole.as_ref().map_or(0, |whole| whole.parts.len());
        entries.extend(listed(&mut shard, &name, part, &mut weight_map));
        whole = Some(match whole {
            None => shard,
            Some(whole) => join(whole, shard)?,
        });
    }
    if let Some((key, name)) = weight_map.first_key_value() {
        anyhow::bail!("it lists tensor {key:?} in {name:?}, which does not contain it");
    }
    let mut whole = whole.context("its weight_map lists no file")?;
    whole.path = path.to_owned();
    whole.root = Node::Group(entries);
    Ok(whole)
}

fn read_index(path: &Path) -> Result<Index> {
    let mut text = Vec::new();
    open_regular(path)?
        .take(MAX_INDEX_BYTES + 1)
        .read_to_end(&mut text)?;
    ensure!(
        text.len() as u64 <= MAX_INDEX_BYTES,
        "it is longer than {MAX_INDEX_BYTES} bytes, too long for an index"
    );
    serde_json::from_slice(&text).context(
        "it is not an index of shards, wanted JSON of the form {\"weight_map\": {KEY: FILE}}",
    )
}

fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    single && !name.contains(['/', '\\', '\0'])
}

/// Moves the listed tensors of a shard into the tree and off the list.
fn listed(
    shard: &mut WeightsFile,
    name: &str,
    part: usize,
    weight_map: &mut BTreeMap<String, String>,
) -> Vec<(String, Node)> {
    let Node::Group(entries) = &mut shard.root else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, mut node) in entries.drain(..) {
        let Node::Tensor(slot) = &mut node else {
            continue;
        };
        if weight_map.get(&key).is_some_and(|file| file == name) {
            slot.part = part;
            weight_map.remove(&key);
            found.push((key, node));
        }
    }
    found
}

fn join(mut whole: WeightsFile, mut shard: WeightsFile) -> Result<WeightsFile> {
    ensure!(
        whole.container == shard.container,
        "its shards are of two kinds: {} is {}, {} is {}",
        whole.path.display(),
        whole.container,
        shard.path.display(),
        shard.container
    );
    whole.parts.append(&mut shard.parts);
    for (key, value) in shard.metadata {
        whole.metadata.entry(key).or_insert(value);
    }
    Ok(whole)
}

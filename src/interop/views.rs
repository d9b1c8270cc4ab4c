//! Finding the `state_dict`s in a file: at its top, under a key, below a prefix, inside wrappers.
//!
//! `{"model": …}`, `module.`, `_orig_mod.`, Lightning's `state_dict` and the like are all groups and prefixes, in any
//! order, and every family is searched for below all of them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail, ensure};

use super::averages::joined;
use super::dotless;
use super::keys::Keys;
use super::view::{MOST_NETWORKS, View, keys_of};
use crate::checkpoint::{Family, Weights};
use crate::formats::weights_file::Node;

/// Deepest nesting that is searched.
const MOST_DEPTH: usize = 4;

/// For each family, a key at the top of its `state_dict`.
const TOP_KEYS: [&str; 8] = [
    "conv_in.weight",
    "input_blocks.0.0.weight",
    "head.weight",
    "init_conv.weight",
    "temb.dense.0.weight",
    "time_embed.0.weight",
    // lucidrains' oldest files have no `init_conv`.
    "mid_block1.mlp.1.weight",
    "patch_in.weight",
];

/// Longest of them with wrappers inside.
const MOST_TOP_BYTES: usize = 256;

/// Parts of a key that name a wrapper around a module, and no module of a network.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// All `state_dict`s of known families in `root`.
pub(super) fn find(root: &Node) -> Vec<View<'_>> {
    let mut found = Vec::new();
    search(root, &mut Vec::new(), &mut found);
    found
}

fn search<'a>(node: &'a Node, path: &mut Vec<String>, found: &mut Vec<View<'a>>) {
    let Node::Group(group) = node else { return };
    let all = keys_of(group);
    let mut prefixes: BTreeSet<&str> = all.iter().flat_map(|(key, _)| prefixes_of(key)).collect();
    // Keras numbers layers through a whole process, so no key of its files is certain.
    if all.iter().any(|(key, _)| key.ends_with("/embeddings:0")) {
        prefixes.insert("");
    }
    let first = found.len();
    for prefix in prefixes.into_iter().take(MOST_NETWORKS) {
        let (keys, names) = below(&all, prefix);
        let Some(family) = Family::of(&keys) else {
            continue;
        };
        found.push(View {
            family,
            path: joined(path, prefix),
            group,
            prefix: prefix.to_owned(),
            keys,
            names,
        });
    }
    let averages = dotless::find(&all, &found[first..], path);
    found.extend(averages);
    if path.len() < MOST_DEPTH {
        for (name, child) in group {
            path.push(name.clone());
            search(child, path, found);
            path.pop();
        }
    }
}

/// The prefixes with which a key may be that at the top of a `state_dict`: empty, or with a dot at the end.
fn prefixes_of(key: &str) -> impl Iterator<Item = &str> {
    TOP_KEYS.iter().filter_map(move |top| {
        let first = top.split('.').next().unwrap_or(top);
        // Wrappers may stand inside too: `conv_in._orig_mod.weight`.
        let starts = key.match_indices(first).map(|(start, _)| start);
        let start = starts
            .filter(|&start| key.len() - start <= MOST_TOP_BYTES)
            .filter(|&start| start == 0 || key[..start].ends_with('.'))
            .find(|&start| unwrapped(&key[start..]) == *top)?;
        Some(&key[..start])
    })
}

/// A key without the wrappers in it.
fn unwrapped(key: &str) -> String {
    let parts = key.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// The keys below a prefix, without it and without wrappers, and the names of those that had some.
fn below(all: &Keys, prefix: &str) -> (Keys, HashMap<String, String>) {
    let plain = all.below(prefix);
    let bare: Keys = plain
        .iter()
        .map(|(key, shape)| (unwrapped(key), shape.to_vec()))
        .collect();
    if bare.len() < plain.len() {
        // Two keys that differ in their wrappers only.
        return (plain, HashMap::new());
    }
    let names = plain.iter().filter_map(|(key, _)| {
        let bare = unwrapped(key);
        (bare != key).then(|| (bare, format!("{prefix}{key}")))
    });
    let names = names.collect();
    (bare, names)
}

/// The view to read: named by `key`, else the averaged or the raw one, else the only one.
///
/// # Errors
/// No view, or several that are indistinguishable; the error lists them.
pub(super) fn choose<'a>(
    mut views: Vec<View<'a>>,
    weights: Weights,
    key: Option<&str>,
) -> Result<View<'a>> {
    let listing = |views: &[View]| {
        let paths: Vec<String> = views
            .iter()
            .map(|v| format!("\n  key = {:?} ({})", v.path, v.family))
            .collect();
        paths.concat()
    };
    ensure!(!views.is_empty(), "it holds no weights of a known network");
    if let Some(key) = key {
        let all = listing(&views);
        let below = format!("{key}.");
        // A key above a prefix names what is below: `ema` the network in `ema.module`.
        if views.iter().any(|v| v.path == key) {
            views.retain(|v| v.path == key);
        } else {
            views.retain(|v| v.path.starts_with(&below));
        }
        ensure!(
            !views.is_empty(),
            "key = {key:?}: nothing there; it has:{all}"
        );
    }
    if views.len() > 1 {
        let wanted = weights == Weights::Ema;
        let matching = views.iter().filter(|v| v.is_average() == wanted).count();
        if matching > 0 {
            views.retain(|v| v.is_average() == wanted);
        }
    }
    // lucidrains keeps the trained weights twice: alone, and beside their average.
    if views.len() > 1
        && weights == Weights::Raw
        && views.iter().any(|v| !v.path.contains("online"))
    {
        views.retain(|v| !v.path.contains("online"));
    }
    if views.len() > 1 {
        bail!(
            "it holds several networks; choose one by key:{}",
            listing(&views)
        );
    }
    let view = views.remove(0);
    ensure!(
        weights == Weights::Ema || key.is_some() || !view.is_average(),
        "it holds averaged weights only (at {:?}), no raw weights; ask for EMA weights",
        view.path
    );
    Ok(view)
}

#[cfg(test)]
mod tests;

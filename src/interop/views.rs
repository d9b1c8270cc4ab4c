//! Finding the `state_dict`s in a file: at its top, under a key, below a prefix, inside wrappers.
//!
//! `{"model": …}`, `module.`, `_orig_mod.`, Lightning's `state_dict` and the like are all groups and prefixes, in any order,
//! and every family is searched for below all of them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail, ensure};

use super::averages;
use super::keys::Keys;
use crate::checkpoint::{Family, Weights};
use crate::formats::weights_file::{Node, TensorSlot};
use crate::text::{printable, shown};

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

/// Parts of a key that name a wrapper around a module, and no module of a network.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// Most objects of other classes that an error lists.
const MOST_OBJECTS: usize = 8;

/// One `state_dict` in a file.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// The family whose network it fits.
    pub(super) family: Family,
    /// Path of keys to it, then its prefix, as in `ema.ema_model.model`.
    pub(super) path: String,
    /// The dict that holds it.
    pub(super) group: &'a [(String, Node)],
    /// Prefix of its keys there, for example `ema_model.model.`.
    pub(super) prefix: String,
    /// Its keys without the prefix.
    pub(super) keys: Keys,
    /// For keys that the dict spells otherwise than with the prefix before them, their names there.
    pub(super) names: HashMap<String, String>,
}

impl<'a> View<'a> {
    /// The whole of a file known to be of `family`.
    ///
    /// # Errors
    /// A file that is not a dict of tensors.
    pub(super) fn whole(family: Family, root: &'a Node) -> Result<View<'a>> {
        let Node::Group(group) = root else {
            bail!("it is {}, want a dict of tensors", root.kind());
        };
        Ok(View {
            family,
            path: String::new(),
            group,
            prefix: String::new(),
            keys: keys_of(group),
            names: HashMap::new(),
        })
    }
}

impl View<'_> {
    /// True if its path names averaged weights.
    pub(super) fn is_average(&self) -> bool {
        averages::named(&self.path)
    }

    /// The name in the dict of a key without the prefix.
    pub(super) fn name(&self, key: &str) -> String {
        let name = self.names.get(key).cloned();
        name.unwrap_or_else(|| format!("{}{key}", self.prefix))
    }

    /// The tensor at a key without the prefix.
    pub(super) fn slot(&self, key: &str) -> Option<&TensorSlot> {
        slot_at(self.group, &self.name(key))
    }

    /// The objects among its tensors, which are not read: a sentence for the error of what they leave out.
    pub(super) fn objects(&self) -> Option<String> {
        let below = |name: &String| name.starts_with(&self.prefix);
        let objects = self.group.iter().filter_map(|(name, node)| match node {
            Node::Object(class) if below(name) => Some((name.clone(), class.clone())),
            _ => None,
        });
        objects_text(objects.collect())
    }
}

/// The objects of other classes in a file, which are not read; `None` if there are none.
pub(super) fn objects_in(root: &Node) -> Option<String> {
    objects_text(root.objects(MOST_OBJECTS + 1))
}

fn objects_text(objects: Vec<(String, String)>) -> Option<String> {
    let list = |(name, class): &(String, String)| format!("{} ({class})", printable(&shown(name)));
    let mut listed: Vec<String> = objects.iter().take(MOST_OBJECTS).map(list).collect();
    if objects.len() > MOST_OBJECTS {
        listed.push("…".to_owned());
    }
    (!listed.is_empty()).then(|| {
        format!(
            "objects of Python classes are not read: {}; if the weights are in one, load the file in Python and save \
             them alone: torch.save(model.state_dict(), FILE)",
            listed.join(", ")
        )
    })
}

/// The tensor at `key` of a dict.
pub(super) fn slot_at<'a>(group: &'a [(String, Node)], key: &str) -> Option<&'a TensorSlot> {
    group.iter().find_map(|(name, node)| match node {
        Node::Tensor(slot) if name == key => Some(slot),
        _ => None,
    })
}

/// All `state_dict`s of known families in `root`.
pub(super) fn find(root: &Node) -> Vec<View<'_>> {
    let mut found = Vec::new();
    search(root, &mut Vec::new(), &mut found);
    found
}

/// The tensors of a dict, with their shapes.
pub(super) fn keys_of(group: &[(String, Node)]) -> Keys {
    let tensors = group.iter().filter_map(|(name, node)| match node {
        Node::Tensor(slot) => Some((name.clone(), slot.shape.clone())),
        _ => None,
    });
    tensors.collect()
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
    for prefix in prefixes {
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
    let averages = averages::without_dots(&all, &found[first..], path);
    found.extend(averages);
    if path.len() < MOST_DEPTH {
        for (name, child) in group {
            path.push(name.clone());
            search(child, path, found);
            path.pop();
        }
    }
}

/// A path of keys and a prefix in the dict there, in one.
pub(super) fn joined(path: &[String], prefix: &str) -> String {
    let mut parts: Vec<&str> = path.iter().map(String::as_str).collect();
    if !prefix.is_empty() {
        parts.push(prefix.trim_end_matches('.'));
    }
    parts.join(".")
}

/// The prefixes with which a key may be that at the top of a `state_dict`: empty, or with a dot at the end.
fn prefixes_of(key: &str) -> impl Iterator<Item = &str> {
    TOP_KEYS.iter().filter_map(move |top| {
        let first = top.split('.').next().unwrap_or(top);
        // Wrappers may stand inside too: `conv_in._orig_mod.weight`.
        let starts = key.match_indices(first).map(|(start, _)| start);
        let start = starts
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

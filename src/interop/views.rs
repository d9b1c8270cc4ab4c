//! Finding the `state_dict`s in a file: at its top, under a key, below a prefix.

use anyhow::{Result, bail, ensure};

use super::keys::Keys;
use crate::checkpoint::{Family, Weights};
use crate::formats::weights_file::{Node, TensorSlot};

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
        })
    }
}

impl View<'_> {
    /// True if its path names averaged weights.
    pub(super) fn is_average(&self) -> bool {
        let path = self.path.to_ascii_lowercase();
        path.contains("ema") && !path.contains("online")
    }

    /// The tensor at a key without the prefix.
    pub(super) fn slot(&self, key: &str) -> Option<&TensorSlot> {
        let full = format!("{}{key}", self.prefix);
        slot_at(self.group, &full)
    }
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

fn keys_of(group: &[(String, Node)]) -> Keys {
    let tensors = group.iter().filter_map(|(name, node)| match node {
        Node::Tensor(slot) => Some((name.clone(), slot.shape.clone())),
        _ => None,
    });
    tensors.collect()
}

fn search<'a>(node: &'a Node, path: &mut Vec<String>, found: &mut Vec<View<'a>>) {
    let Node::Group(group) = node else { return };
    let all = keys_of(group);
    let mut prefixes: Vec<&str> = all
        .iter()
        .flat_map(|(key, _)| TOP_KEYS.iter().filter_map(move |top| key.strip_suffix(top)))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect();
    // Keras numbers layers through a whole process, so no key of its files is certain.
    if all.iter().any(|(key, _)| key.ends_with("/embeddings:0")) {
        prefixes.push("");
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    for prefix in prefixes {
        let keys = all.below(prefix);
        let Some(family) = Family::of(&keys) else {
            continue;
        };
        let mut place = path.clone();
        if !prefix.is_empty() {
            place.push(prefix.trim_end_matches('.').to_owned());
        }
        found.push(View {
            family,
            path: place.join("."),
            group,
            prefix: prefix.to_owned(),
            keys,
        });
    }
    if path.len() < MOST_DEPTH {
        for (name, child) in group {
            path.push(name.clone());
            search(child, path, found);
            path.pop();
        }
    }
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
        views.retain(|v| v.path == key);
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

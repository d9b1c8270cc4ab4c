//! Averaged weights by name: in a file, and in another file beside it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::Family;
use crate::formats::weights_file::Node;
use crate::text::{plural, printable, shown};

/// Words that name an average. Adam's `exp_avg` is none.
const WORDS: [&str; 5] = ["ema", "shadow", "averaged", "swa", "polyak"];
/// What the average of latent-diffusion keeps beside its tensors.
const COUNTERS: [&str; 2] = ["decay", "num_updates"];
/// Most of them that are listed, about.
const MOST_FOUND: usize = 8;
/// Deepest nesting that is searched.
const MOST_DEPTH: usize = 4;

/// True if a path names averaged weights.
pub(super) fn named(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    (path.contains("ema") || is_word(&path)) && !path.contains("online")
}

/// True if one of a name's words is one for an average: `model_ema`, `ema.module`, and not `schema`.
pub(super) fn is_word(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| WORDS.contains(&word))
}

/// A path of keys and a prefix in the dict there, in one.
pub(super) fn joined(path: &[String], prefix: &str) -> String {
    let mut parts: Vec<&str> = path.iter().map(String::as_str).collect();
    if !prefix.is_empty() {
        parts.push(prefix.trim_end_matches('.'));
    }
    parts.join(".")
}

/// What a file holds under an average's names: places, and what is there. For a file whose raw weights are read.
pub(super) fn all_in(root: &Node) -> Vec<String> {
    let mut found = Vec::new();
    search(root, &mut Vec::new(), &mut found);
    found
}

fn search(node: &Node, path: &mut Vec<String>, found: &mut Vec<String>) {
    let mut prefixes: BTreeMap<String, u64> = BTreeMap::new();
    for (name, child) in node.entries() {
        if found.len() >= MOST_FOUND {
            return;
        }
        let place = || printable(&shown(&joined(path, name)));
        match child {
            Node::Object(class) if is_word(name) => {
                found.push(format!("{} (an object of {class})", place()));
            }
            Node::Group(_) if is_word(name) => match tensors(child) {
                0 => {}
                count => found.push(format!("{} ({})", place(), plural(count, "tensor"))),
            },
            Node::Tensor(slot) if !slot.shape.is_empty() => {
                if let Some(prefix) = average_prefix(name) {
                    *prefixes.entry(prefix).or_default() += 1;
                }
            }
            Node::Group(_) if path.len() < MOST_DEPTH => {
                path.push(name.clone());
                search(child, path, found);
                path.pop();
            }
            _ => {}
        }
    }
    for (prefix, count) in prefixes.into_iter().take(MOST_FOUND) {
        let place = printable(&shown(&joined(path, &prefix)));
        found.push(format!("{place} ({})", plural(count, "tensor")));
    }
}

/// A key up to the part that names an average, if it has one before its last.
fn average_prefix(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('.').collect();
    let (_, above) = parts.split_last()?;
    let part = above.iter().position(|part| is_word(part))?;
    Some(parts[..=part].join("."))
}

/// Tensors in a group that are more than a counter.
fn tensors(node: &Node) -> u64 {
    let count = |(name, child): &(String, Node)| match child {
        Node::Tensor(slot) => {
            u64::from(!slot.shape.is_empty() && !COUNTERS.contains(&name.as_str()))
        }
        _ => tensors(child),
    };
    node.entries().iter().map(count).sum()
}

/// The file with the average of these weights, by the names that the family's program gives both: OpenAI's
/// `model000100.pt` and `ema_0.9999_000100.pt`, Keras-DDPM's `model.weights` and `model.ema.weights`.
pub(super) fn beside(family: Family, path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match family {
        Family::Openai => {
            let step = name.strip_prefix("model")?.strip_suffix(".pt")?;
            if step.is_empty() || !step.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            let ending = format!("_{step}.pt");
            let mut names: Vec<String> = std::fs::read_dir(folder)
                .ok()?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.starts_with("ema_") && name.ends_with(&ending))
                .collect();
            names.sort();
            names.into_iter().next_back()
        }
        Family::KerasDdpm => {
            let stem = name.strip_suffix(".weights")?;
            let average = format!("{stem}.ema.weights");
            (!stem.ends_with(".ema") && folder.join(&average).is_file()).then_some(average)
        }
        _ => None,
    }
}

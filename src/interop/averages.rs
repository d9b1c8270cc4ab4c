//! Averaged weights in a file: where their names say so, under names without dots, and beside the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::keys::Keys;
use super::views::{View, joined};
use crate::checkpoint::Family;
use crate::formats::weights_file::Node;
use crate::text::{plural, printable, shown};

/// Words that name an average. Adam's `exp_avg` is none.
const WORDS: [&str; 5] = ["ema", "shadow", "averaged", "swa", "polyak"];
/// What the average of latent-diffusion keeps beside its tensors.
const COUNTERS: [&str; 2] = ["decay", "num_updates"];
/// Deepest nesting that is searched.
const MOST_DEPTH: usize = 4;

/// True if a path names averaged weights.
pub(super) fn named(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    (path.contains("ema") || is_word(&path)) && !path.contains("online")
}

/// True if one of a name's words is one for an average: `model_ema`, `ema.module`, and not `schema`.
fn is_word(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| WORDS.contains(&word))
}

/// The averages of the networks `views` of one dict, with the keys `all`, under the names that latent-diffusion's
/// `LitEma` gives: those of the network without dots, as `model_ema.diffusion_modelinput_blocks00weight` for
/// `model.diffusion_model.input_blocks.0.0.weight`. Each is whole and of one network only.
pub(super) fn without_dots<'a>(all: &Keys, views: &[View<'a>], path: &[String]) -> Vec<View<'a>> {
    let prefixes: BTreeSet<&str> = all
        .iter()
        .filter_map(|(key, _)| Some(&key[..=key.rfind('.')?]))
        .filter(|prefix| is_word(prefix))
        .collect();
    let mut found = Vec::new();
    for prefix in prefixes {
        let below = all.below(prefix);
        if below.iter().any(|(key, _)| key.contains('.')) {
            continue;
        }
        let mut of_views = views.iter().filter_map(|view| {
            let names = names_without_dots(view, &below, prefix)?;
            Some(View {
                family: view.family,
                path: joined(path, prefix),
                group: view.group,
                prefix: prefix.to_owned(),
                keys: view.keys.clone(),
                names,
            })
        });
        if let (Some(view), None) = (of_views.next(), of_views.next()) {
            found.push(view);
        }
    }
    found
}

/// For each key of a network its name in the average below `prefix`; `None` unless every one is there, with its shape.
fn names_without_dots(view: &View, below: &Keys, prefix: &str) -> Option<HashMap<String, String>> {
    // The average is of a module somewhere above the network: parts of the network's prefix belong to its names.
    let starts = view.prefix.match_indices('.').map(|(dot, _)| dot + 1);
    [0].into_iter().chain(starts).find_map(|start| {
        let above = view.prefix[start..].replace('.', "");
        let name = |key: &str| format!("{above}{}", key.replace('.', ""));
        let fits = |(key, shape): (&str, &[i64])| {
            let found = below.shape(&name(key), shape.len()).ok();
            found.is_some_and(|found| found == shape)
        };
        let names: HashMap<String, String> = view
            .keys
            .iter()
            .map(|(key, _)| (key.to_owned(), format!("{prefix}{}", name(key))))
            .collect();
        let distinct: BTreeSet<&String> = names.values().collect();
        (distinct.len() == view.keys.len() && view.keys.iter().all(fits)).then_some(names)
    })
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
    for (prefix, count) in prefixes {
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

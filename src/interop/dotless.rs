//! Averages whose names have lost their dots.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::averages::{is_word, joined};
use super::keys::Keys;
use super::view::{MOST_NETWORKS, View};

/// The averages of the networks `views` of one dict, with the keys `all`, under the names that latent-diffusion's
/// `LitEma` gives: those of the network without dots, as `model_ema.diffusion_modelinput_blocks00weight` for
/// `model.diffusion_model.input_blocks.0.0.weight`. Each is whole and of one network only.
pub(super) fn find<'a>(all: &Keys, views: &[View<'a>], path: &[String]) -> Vec<View<'a>> {
    // The keys right below each prefix are counted first: a file may have very many.
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, _) in all.iter() {
        if let Some(dot) = key.rfind('.') {
            *counts.entry(&key[..=dot]).or_default() += 1;
        }
    }
    let least = views.iter().map(|view| view.keys.len()).min();
    let prefixes = counts
        .into_iter()
        .filter(|(prefix, count)| least.is_some_and(|least| *count >= least) && is_word(prefix));
    let mut found = Vec::new();
    for (prefix, _) in prefixes.take(MOST_NETWORKS) {
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

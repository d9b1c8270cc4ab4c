//! The settings of runs: what differs from a preset, and from run to run.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;

use crate::config::RunConfig;

/// Longest value that is shown, characters: a list of betas has thousands.
const MAX_CHARS: usize = 200;

/// A setting of a run.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    setting: String,
    /// `None` where it is not set.
    value: Option<String>,
    /// The preset's.
    preset: Option<String>,
}

/// A setting that is not the same in all runs.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    setting: String,
    values: Vec<Option<String>>,
}

/// All settings of a run, each with that of its preset.
///
/// # Errors
/// Settings that cannot be written.
pub(super) fn all(config: &RunConfig) -> Result<Vec<Setting>> {
    let mut preset = config.preset.config();
    // A run of another size is no other preset: what the kind of network brings differs all the same.
    preset.preset = config.preset;
    let (ours, theirs) = (flat(config)?, flat(&preset)?);
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let setting = |name: &String| Setting {
        setting: name.clone(),
        value: ours.get(name).cloned(),
        preset: theirs.get(name).cloned(),
    };
    Ok(names.into_iter().map(setting).collect())
}

/// The settings that are not the same in all runs, with the value of each.
///
/// # Errors
/// Settings that cannot be written.
pub(super) fn that_differ(configs: &[RunConfig]) -> Result<Vec<Row>> {
    let flat: Vec<_> = configs.iter().map(flat).collect::<Result<_>>()?;
    let names: BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let row = |name: &String| Row {
        setting: name.clone(),
        values: flat
            .iter()
            .map(|settings| settings.get(name).cloned())
            .collect(),
    };
    let differs = |row: &Row| row.values.windows(2).any(|pair| pair[0] != pair[1]);
    Ok(names.into_iter().map(row).filter(differs).collect())
}

/// `section.key` and value, as TOML.
fn flat(config: &RunConfig) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let table = toml::Value::Table(toml::Table::try_from(config)?);
    add("", &table, &mut found);
    Ok(found)
}

fn add(path: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
    let toml::Value::Table(table) = value else {
        found.insert(path.to_owned(), shortened(&value.to_string()));
        return;
    };
    for (key, value) in table {
        let dot = if path.is_empty() { "" } else { "." };
        add(&format!("{path}{dot}{key}"), value, found);
    }
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn what_differs_is_found_by_name() {
        let demo = Preset::Demo.config();
        let mut other = demo.clone();
        other.optim.clip_norm = Some(1.0);
        other.diffusion.betas = vec![0.125; 1000];
        let differs: Vec<_> = all(&other)
            .unwrap()
            .into_iter()
            .filter(|s| s.value != s.preset)
            .collect();
        let names: Vec<&str> = differs.iter().map(|s| s.setting.as_str()).collect();
        assert_eq!(names, ["diffusion.betas", "optim.clip_norm"]);
        assert_eq!(differs[1].value.as_deref(), Some("1.0"));
        assert_eq!(differs[1].preset, None);
        assert!(differs[0].value.as_ref().unwrap().chars().count() == MAX_CHARS + 1);
        assert!(all(&demo).unwrap().iter().all(|s| s.value == s.preset));
        let rows = that_differ(&[demo.clone(), other, demo]).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].values, [None, Some("1.0".to_owned()), None]);
    }
}

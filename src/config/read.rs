//! Settings from TOML text: what is wrong with it, and where.

use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{ModelKind, Preset, RunConfig, Unnamed};
use crate::text::{printable, quoting};

/// A mistake in TOML settings, and its place.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{place}: {message}")]
pub struct TomlError {
    /// Where it is.
    pub place: Place,
    /// The setting, if it is one, and what is wrong.
    pub message: String,
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Place {
    fn of(text: &str, byte: usize) -> Place {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }

    /// `FILE:LINE:COLUMN`, as compilers write it.
    pub fn in_file(self, path: &Path) -> String {
        format!("{}:{}:{}", path.display(), self.line, self.column)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl TomlError {
    /// The same, with the name of the file.
    pub fn in_file(self, path: &Path) -> anyhow::Error {
        quoting(format!("{}: {}", self.place.in_file(path), self.message))
    }
}

impl RunConfig {
    /// Reads TOML settings over a preset: the text's own `preset` key, else `fallback`.
    ///
    /// Without `data.rules` and `train.draws` they are the latest: the settings are for a new run.
    ///
    /// # Errors
    /// Bad syntax, unknown keys, and values of the wrong type or out of its range, each with its place.
    pub fn from_toml(text: &str, fallback: Preset) -> Result<RunConfig, TomlError> {
        Self::from_toml_with(text, fallback, Unnamed::NEW)
    }

    /// The settings of a run from its own config.toml, which names all that a run had when it was written; `None` for
    /// any other text.
    pub fn of_a_run(text: &str) -> Option<RunConfig> {
        toml::from_str(text).ok()
    }

    /// As [`RunConfig::from_toml`], with `unnamed` where the text names none: [`Unnamed::OLD`] for the settings of a run
    /// itself.
    ///
    /// # Errors
    /// As `from_toml`.
    pub fn from_toml_with(
        text: &str,
        fallback: Preset,
        unnamed: Unnamed,
    ) -> Result<RunConfig, TomlError> {
        let resolve = |file| resolve(file, fallback, unnamed);
        let at = |byte, message| TomlError {
            place: Place::of(text, byte),
            message,
        };
        let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let byte = error.span().map_or(0, |span| span.start);
            at(byte, printable(error.message()))
        })?;
        resolve(file.clone()).map_err(|error| match culprit(text, &file, resolve) {
            Some((byte, message)) => at(byte, message),
            None => at(0, printable(error.message())),
        })
    }
}

/// The place of a setting, such as `train.steps`, in TOML text that names it.
pub fn place_of(text: &str, setting: &str) -> Option<Place> {
    let found = keys(text).into_iter().find(|key| key.name() == setting)?;
    Some(Place::of(text, found.value))
}

/// The settings of a file over those of its preset.
fn resolve(
    file: toml::Table,
    fallback: Preset,
    unnamed: Unnamed,
) -> Result<RunConfig, toml::de::Error> {
    let preset = match file.get("preset") {
        Some(name) => name.clone().try_into()?,
        None => fallback,
    };
    let mut base = preset.config();
    unnamed.apply(&mut base);
    // Another kind of network has other settings, so those of the preset's network are dropped.
    if let Some(kind) = file.get("model").and_then(|m| m.get("kind")) {
        let kind: ModelKind = kind.clone().try_into()?;
        if kind != base.model.kind() {
            base.model = kind.config(base.model.chw());
        }
    }
    let mut merged =
        toml::Table::try_from(base).map_err(<toml::de::Error as serde::de::Error>::custom)?;
    let names_inputs = (file.get("model")).is_some_and(|m| m.get("condition_channels").is_some());
    merge(&mut merged, file);
    let mut config: RunConfig = merged.try_into()?;
    // `upscale` says it all; what contradicts it is refused later.
    if config.upscale.is_some() && !names_inputs {
        config.set_upscale(config.upscale.clone());
    }
    Ok(config)
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(b)), toml::Value::Table(o)) => merge(b, o),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// A key of a file, and its places in bytes.
struct Key {
    path: Vec<String>,
    key: usize,
    value: usize,
}

impl Key {
    fn name(&self) -> String {
        self.path.join(".")
    }
}

/// The keys of a text, and of its tables, in the order of the text.
fn keys(text: &str) -> Vec<Key> {
    let mut found = Vec::new();
    let Ok(table) = DeTable::parse(text) else {
        return found;
    };
    for (section, value) in table.get_ref().iter() {
        let key = |path, key: usize, value: usize| Key { path, key, value };
        let name = section.get_ref().to_string();
        match value.get_ref() {
            DeValue::Table(settings) => {
                found.extend(settings.iter().map(|(setting, value)| {
                    let path = vec![name.clone(), setting.get_ref().to_string()];
                    key(path, setting.span().start, value.span().start)
                }));
            }
            _ => found.push(key(vec![name], section.span().start, value.span().start)),
        }
        // An empty section is wrong only by its name.
        if matches!(value.get_ref(), DeValue::Table(settings) if settings.is_empty()) {
            let path = vec![section.get_ref().to_string()];
            found.push(key(path, section.span().start, section.span().start));
        }
    }
    found.sort_by_key(|key| key.key);
    found
}

/// The first key that is wrong by itself, as an error of the merged settings does not say where it comes from.
fn culprit(
    text: &str,
    file: &toml::Table,
    resolve: impl Fn(toml::Table) -> Result<RunConfig, toml::de::Error>,
) -> Option<(usize, String)> {
    let keys = keys(text);
    let decisive = |key: &&Key| ["preset", "model.kind"].contains(&key.name().as_str());
    // These two decide which others exist.
    let (first, others): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(decisive);
    let mut tried = toml::Table::new();
    let alone = |mut with: toml::Table, key: &Key| {
        set(&mut with, key, get(file, key)?);
        Some(with)
    };
    for key in first {
        tried = alone(tried, key)?;
        if let Err(error) = resolve(tried.clone()) {
            return Some(described(key, &error));
        }
    }
    others.into_iter().find_map(|key| {
        let error = resolve(alone(tried.clone(), key)?).err()?;
        Some(described(key, &error))
    })
}

fn get(file: &toml::Table, key: &Key) -> Option<toml::Value> {
    let (first, rest) = key.path.split_first()?;
    let value = file.get(first)?;
    match rest {
        [] => Some(value.clone()),
        [setting, ..] => value.get(setting).cloned(),
    }
}

fn set(file: &mut toml::Table, key: &Key, value: toml::Value) {
    match key.path.as_slice() {
        [section, setting] => {
            let section = file
                .entry(section.as_str())
                .or_insert_with(|| toml::Table::new().into());
            if let toml::Value::Table(section) = section {
                section.insert(setting.clone(), value);
            }
        }
        path => {
            file.insert(path.concat(), value);
        }
    }
}

/// Place and words of an error in one key.
fn described(key: &Key, error: &toml::de::Error) -> (usize, String) {
    let mut said = printable(error.message());
    let unknown = said.starts_with("unknown field");
    // Serde's names of types, in words.
    for (name, words) in [
        ("expected u64", "expected a whole number, at least 0"),
        ("expected usize", "expected a whole number, at least 0"),
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list"),
        (
            "expected internally tagged enum ModelConfig",
            "expected a table",
        ),
    ] {
        if let Some(start) = said.strip_suffix(name) {
            said = format!("{start}{words}");
        }
    }
    if let Some((start, _)) = said.split_once(", expected struct ") {
        said = format!("{start}, expected a table");
    }
    let byte = if unknown { key.key } else { key.value };
    (byte, format!("{}: {said}", printable(&key.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_with_its_line_and_column() {
        for (text, wanted) in [
            ("[train\nsteps = 1\n", "1:7: unclosed table, expected `]`"),
            (
                "preset = \"demo\"\n[model]\n  blokcs = 3\n",
                "3:3: model.blokcs: unknown field `blokcs`, expected one of `height`",
            ),
            (
                "[train]\nsteps = 5\n\n[model]\nblocks = \"x\"\n",
                "5:10: model.blocks: invalid type: string \"x\", expected a whole number",
            ),
            (
                "[train]\nseed = 1\nsteps = -3\n",
                "3:9: train.steps: invalid value: integer `-3`, expected a whole number, at least 0",
            ),
            (
                "preset = \"deo\"\n",
                "1:10: preset: unknown variant `deo`, expected one of `demo`",
            ),
            (
                "[model]\nheight = 8\nkind = \"unot\"",
                "3:8: model.kind: unknown variant `unot`",
            ),
            (
                "model = 3\n",
                "1:9: model: invalid type: integer `3`, expected a table",
            ),
            (
                "train = 3\n",
                "1:9: train: invalid type: integer `3`, expected a table",
            ),
            (
                "# é\n[trian]\nsteps = 1\n",
                "3:1: trian.steps: unknown field `trian`",
            ),
            ("\n[trian]\n", "2:2: trian: unknown field `trian`"),
            ("é = 1\n", "1:1: "),
            (
                "[optim]\nlr_schedule = [[0, 1.0], [\"a\", 1]]\n",
                "2:15: optim.lr_schedule: invalid type: string \"a\", expected a whole number, at least 0",
            ),
            ("[data]\nresize = \"a\\u001b[2J\"\n", "2:10: data.resize: "),
        ] {
            let error = RunConfig::from_toml(text, Preset::Demo).unwrap_err();
            let said = error.in_file(Path::new("f")).to_string();
            assert!(said.starts_with(&format!("f:{wanted}")), "{text}: {said}");
            assert!(!said.contains('\u{1b}'), "{said}");
        }
    }

    #[test]
    fn a_setting_is_found_in_the_text_that_names_it() {
        let text = "[train]\nsteps = 0\n";
        let place = place_of(text, "train.steps").unwrap();
        assert_eq!((place.line, place.column), (2, 9));
        assert_eq!(place_of(text, "train.seed"), None);
    }
}

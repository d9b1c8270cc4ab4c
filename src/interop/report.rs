//! What an import found, assumed and lacks.

use std::path::PathBuf;

use serde::Serialize;

/// Something that was read off the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// What, for example "widths".
    pub what: String,
    /// Its value.
    pub value: String,
    /// Where it was seen: keys, shapes, a config file, or a hint's flag.
    pub from: String,
}

/// Something that the file does not say and that must not be guessed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MissingHint {
    /// The flag that says it, for example "--num-heads N".
    pub flag: String,
    /// What it means and what usual values are.
    pub about: String,
}

impl MissingHint {
    /// The field of [`Hints`](super::Hints) that answers it, or both where either does.
    pub fn setting(&self) -> String {
        let words = self.flag.split(' ').filter_map(|word| match word {
            "or" => Some(word.to_owned()),
            _ => Some(word.strip_prefix("--")?.replace('-', "_")),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The story of an import.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Read off the file.
    pub facts: Vec<Fact>,
    /// Taken for granted, each with why.
    pub assumptions: Vec<String>,
    /// What the caller chose in place of what the file says, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// Needed and not there; the import fails if there are any.
    pub missing: Vec<MissingHint>,
}

impl Report {
    /// Notes what was read off the file.
    pub fn fact(&mut self, what: impl Into<String>, value: impl ToString, from: impl Into<String>) {
        self.facts.push(Fact {
            what: what.into(),
            value: value.to_string(),
            from: from.into(),
        });
    }

    /// Notes what is taken for granted, and why.
    pub fn assume(&mut self, what: impl Into<String>) {
        self.assumptions.push(what.into());
    }

    /// Takes a hint and notes it, or notes that it is missing and goes on with `placeholder`.
    pub fn need<T: Clone + std::fmt::Debug>(
        &mut self,
        hint: &Option<T>,
        flag: &str,
        about: &str,
        placeholder: T,
    ) -> T {
        match hint {
            Some(value) => {
                let name = flag.split(' ').next().unwrap_or(flag);
                self.fact(name.trim_start_matches('-'), format!("{value:?}"), name);
                value.clone()
            }
            None => {
                self.missing.push(MissingHint {
                    flag: flag.to_owned(),
                    about: about.to_owned(),
                });
                placeholder
            }
        }
    }
}

/// A file of another program that does not say all that is needed, with what was found in it.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.listing(MissingHint::setting))]
pub struct MissingHints {
    /// The file.
    pub path: PathBuf,
    /// What was found, and all hints that are missing.
    pub report: Report,
}

impl MissingHints {
    /// The file and what it leaves open, each hint by the `name` that it gets.
    pub fn listing(&self, name: impl Fn(&MissingHint) -> String) -> String {
        let line = |hint: &MissingHint| format!("\n  {}  {}", name(hint), hint.about);
        let hints: String = self.report.missing.iter().map(line).collect();
        let path = self.path.display();
        format!("{path} does not hold all that is needed; add:{hints}")
    }
}

//! Steps whose numbers went wrong: the records in `RUN/incidents`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::remark;
use crate::fs::read_text;
use crate::text;

/// Largest record that is read: each image of a batch and each parameter takes about 100 bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Most records that are shown, from the first.
const MOST: usize = 200;

/// Largest gradients that are named.
const GRADIENTS: usize = 3;

/// A step, as a page shows it.
#[derive(Debug, Serialize)]
pub(super) struct Incident {
    step: u64,
    loss: String,
    grad_norm: String,
    gradients: String,
}

/// What is read of a record. Numbers may be words: `NaN`, `inf`.
#[derive(Deserialize)]
struct Record {
    step: u64,
    loss: Value,
    grad_norm: Value,
    gradients: Vec<Gradient>,
}

#[derive(Deserialize)]
struct Gradient {
    name: String,
    norm: Value,
}

pub(super) fn read(run: &Path, remarks: &mut Vec<String>) -> Vec<Incident> {
    let entries = std::fs::read_dir(run.join("incidents"));
    let paths = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    if paths.len() > MOST {
        remarks.push(format!(
            "{} are not shown, only the first {MOST}",
            text::plural((paths.len() - MOST) as u64, "further incident")
        ));
        paths.truncate(MOST);
    }
    let incident = |path: &std::path::PathBuf| remark(remarks, incident(path));
    paths.iter().filter_map(incident).collect()
}

fn incident(path: &Path) -> Result<Incident> {
    let cannot = || format!("cannot read {}", text::path(path));
    let json = read_text(path, MAX_BYTES).with_context(cannot)?;
    let mut record: Record = serde_json::from_str(&json)
        .map_err(text::quoting)
        .with_context(cannot)?;
    // What is not a number is the largest of all.
    let size = |norm: &Value| norm.as_f64().map_or(f64::INFINITY, f64::abs);
    record
        .gradients
        .sort_by(|a, b| size(&b.norm).total_cmp(&size(&a.norm)));
    let gradients: Vec<String> = (record.gradients.iter().take(GRADIENTS))
        .map(|gradient| {
            format!(
                "{} {}",
                text::printable(&gradient.name),
                shown(&gradient.norm)
            )
        })
        .collect();
    Ok(Incident {
        step: record.step,
        loss: shown(&record.loss),
        grad_norm: shown(&record.grad_norm),
        gradients: gradients.join(", "),
    })
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(word) => text::shown(word),
        other => other
            .as_f64()
            .map_or_else(|| "–".to_owned(), |v| format!("{v:.4}")),
    }
}

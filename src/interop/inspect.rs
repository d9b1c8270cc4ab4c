//! Description of a file: its settings, keys and shapes, and what in it cannot be used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::foreign::{Foreign, Request};
use super::report::Report;
use crate::checkpoint::{Checkpoint, is_ours, read_checkpoint};
use crate::config::ModelConfig;
use crate::formats::dtypes;
use crate::formats::finite::{NotFinite, check_finite};
use crate::formats::weights_file::{Node, WeightsFile};
use crate::text::{printable, shown};

/// Most entries of the top level, and most objects, that are printed.
const MOST_SHOWN: usize = 16;
/// Most objects, and most tensors that are not finite, that are listed.
const MOST_LISTED: usize = 1000;

/// Description of a file, human-readable and as JSON.
#[derive(Debug, Serialize)]
pub struct Description {
    /// The file.
    pub path: String,
    /// "ddpm checkpoint", "safetensors file", "PyTorch file", …
    pub container: String,
    /// Facts in the order of printing: key, value.
    pub facts: Vec<(String, String)>,
    /// Settings of a file of ours, as in config.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// Result of importing a file of another program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<Importing>,
    /// Keys at the top of the file, and their values' kinds.
    pub top_level: Vec<(String, String)>,
    /// Objects of Python classes, which are not read: the keys that lead to them, and their classes; the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<(String, String)>,
    /// Tensors with values that are NaN or infinite, and how many each has; the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_finite: Vec<(String, u64)>,
    /// All tensors, with the keys that lead to them.
    pub tensors: Vec<TensorInfo>,
    /// Values in all tensors.
    pub values: u64,
    /// Values of each element type.
    pub dtypes: BTreeMap<String, u64>,
}

/// Result of an import.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importing {
    /// The file can be imported, if nothing is missing in the report.
    Known {
        /// Its program.
        family: String,
        /// Settings found, assumed and missing.
        report: Report,
    },
    /// The file cannot be imported.
    Refused {
        /// The reason.
        reason: String,
    },
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct TensorInfo {
    /// Its key.
    pub name: String,
    /// Element type, as PyTorch names it.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<i64>,
}

/// Describes a checkpoint of ours, or a file or folder of another program.
///
/// # Errors
/// A file of an unknown kind, or a damaged one.
pub fn describe(path: &Path) -> Result<Description> {
    if path.is_file() && is_ours(path)? {
        return describe_ours(path, &read_checkpoint(path)?);
    }
    let importing = Foreign::examine(path, &Request::default());
    let import = Some(match &importing {
        Ok(foreign) => Importing::Known {
            family: foreign.family.to_string(),
            report: foreign.report.clone(),
        },
        Err(error) => Importing::Refused {
            reason: format!("{error:#}"),
        },
    });
    let file = match importing {
        Ok(foreign) => foreign.into_file(),
        Err(error) if path.is_dir() => return Err(error),
        Err(_) => WeightsFile::open(path)?,
    };
    let mut tensors = Vec::new();
    list("", &file.root, &mut tensors);
    let mut facts: Vec<_> = file.metadata.clone().into_iter().collect();
    facts.sort();
    Ok(Description {
        import,
        top_level: top_level(&file.root),
        objects: file.root.objects(MOST_LISTED),
        not_finite: counts(file.not_finite(MOST_LISTED)),
        ..finish(path, file.container.to_string(), facts, tensors)
    })
}

fn describe_ours(path: &Path, checkpoint: &Checkpoint) -> Result<Description> {
    let meta = &checkpoint.meta;
    let mut facts = vec![
        ("contents".into(), meta.contents.to_string()),
        ("network".into(), meta.config.model.kind().name()),
        ("step".into(), meta.step.to_string()),
        ("written by".into(), meta.written_by.clone()),
    ];
    if let Some(upscale) = &meta.config.upscale {
        let factor = upscale.factor;
        facts.insert(
            2,
            (
                "upscale".into(),
                format!("makes images {factor} times as high and wide"),
            ),
        );
    }
    if let Some(classes) = classes(&meta.config.model) {
        facts.insert(2, ("classes".into(), classes));
    }
    if let Some(origin) = &meta.origin {
        facts.push(("imported from".into(), origin.family.to_string()));
    }
    let tensors = checkpoint.tensors.iter().map(|(name, t)| TensorInfo {
        name: name.clone(),
        dtype: dtypes::to_torch(t.kind())
            .map_or("?", |d| d.torch_name())
            .to_owned(),
        shape: t.size(),
    });
    let not_finite = checkpoint.tensors.iter();
    let not_finite = not_finite.filter_map(|(name, t)| check_finite(name, t).err());
    Ok(Description {
        not_finite: counts(not_finite.take(MOST_LISTED).collect()),
        config: Some(serde_json::to_value(&meta.config)?),
        ..finish(path, "ddpm checkpoint".into(), facts, tensors.collect())
    })
}

/// The classes of a network that has them, in words.
fn classes(model: &ModelConfig) -> Option<String> {
    let classes = model.classes()?;
    Some(match model.null_class() {
        None => classes.to_string(),
        Some(null) => format!("{classes}, and {null} for no class"),
    })
}

fn counts(found: Vec<NotFinite>) -> Vec<(String, u64)> {
    let count = |tensor: NotFinite| (tensor.name, tensor.bad);
    found.into_iter().map(count).collect()
}

/// The keys of the top level without tensors, which are listed anyway.
fn top_level(root: &Node) -> Vec<(String, String)> {
    match root {
        Node::Group(entries) => entries
            .iter()
            .filter(|(_, node)| !matches!(node, Node::Tensor(_)))
            .map(|(key, node)| (key.clone(), node.kind()))
            .collect(),
        other => vec![(String::new(), other.kind())],
    }
}

fn list(path: &str, node: &Node, tensors: &mut Vec<TensorInfo>) {
    let Node::Group(entries) = node else { return };
    for (key, node) in entries {
        // Shortened: the file chose the lengths of its keys, and each is repeated for all below it.
        let name = if path.is_empty() {
            shown(key)
        } else {
            shown(&format!("{path}.{}", shown(key)))
        };
        match node {
            Node::Tensor(slot) => tensors.push(TensorInfo {
                name,
                dtype: slot.dtype.torch_name().to_owned(),
                shape: slot.shape.clone(),
            }),
            node => list(&name, node, tensors),
        }
    }
}

fn finish(
    path: &Path,
    container: String,
    facts: Vec<(String, String)>,
    tensors: Vec<TensorInfo>,
) -> Description {
    let mut dtypes = BTreeMap::new();
    for t in &tensors {
        let total = dtypes.entry(t.dtype.clone()).or_insert(0u64);
        *total = total.saturating_add(values_of(&t.shape));
    }
    Description {
        path: path.display().to_string(),
        container,
        facts,
        config: None,
        import: None,
        top_level: vec![],
        objects: vec![],
        not_finite: vec![],
        values: dtypes.values().copied().fold(0, u64::saturating_add),
        dtypes,
        tensors,
    }
}

/// Values in a tensor. Shapes are printed before they are checked, so the count saturates.
fn values_of(shape: &[i64]) -> u64 {
    if shape.contains(&0) {
        return 0;
    }
    let dims = shape.iter().map(|&dim| dim.unsigned_abs());
    dims.fold(1, u64::saturating_mul)
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.path, self.container)?;
        for (key, value) in &self.facts {
            writeln!(f, "  {}: {}", printable(key), printable(value))?;
        }
        if let Some(import) = &self.import {
            write_import(f, import)?;
        }
        for (section, settings) in self.config.iter().filter_map(|c| c.as_object()).flatten() {
            match settings.as_object() {
                None => writeln!(f, "  {section}: {settings}")?,
                Some(settings) => {
                    let settings: Vec<_> =
                        settings.iter().map(|(k, v)| format!("{k} {v}")).collect();
                    writeln!(f, "  {section}: {}", settings.join(", "))?;
                }
            }
        }
        if !self.top_level.is_empty() {
            writeln!(f, "  at the top:")?;
            for (key, kind) in self.top_level.iter().take(MOST_SHOWN) {
                writeln!(f, "    {}: {}", printable(key), printable(kind))?;
            }
            if self.top_level.len() > MOST_SHOWN {
                writeln!(f, "    … and {} more", self.top_level.len() - MOST_SHOWN)?;
            }
        }
        if !self.objects.is_empty() {
            writeln!(f, "  objects of Python classes, not read:")?;
            for (key, class) in self.objects.iter().take(MOST_SHOWN) {
                writeln!(f, "    {}: {}", printable(key), printable(class))?;
            }
            if self.objects.len() > MOST_SHOWN {
                writeln!(f, "    … and {} more", self.objects.len() - MOST_SHOWN)?;
            }
        }
        if !self.not_finite.is_empty() {
            writeln!(f, "  not finite (values that are NaN or infinite):")?;
            for (key, bad) in self.not_finite.iter().take(MOST_SHOWN) {
                writeln!(f, "    {}: {bad}", printable(key))?;
            }
            if self.not_finite.len() > MOST_SHOWN {
                writeln!(f, "    … and {} more", self.not_finite.len() - MOST_SHOWN)?;
            }
        }
        let kinds: Vec<String> = self
            .dtypes
            .iter()
            .map(|(dtype, values)| format!("{values} {dtype}"))
            .collect();
        writeln!(
            f,
            "  {} tensors, {} values: {}",
            self.tensors.len(),
            self.values,
            kinds.join(", ")
        )?;
        for t in &self.tensors {
            writeln!(f, "    {} {} {:?}", printable(&t.name), t.dtype, t.shape)?;
        }
        Ok(())
    }
}

fn write_import(f: &mut fmt::Formatter<'_>, import: &Importing) -> fmt::Result {
    match import {
        Importing::Refused { reason } => {
            let lines: Vec<String> = reason.lines().map(printable).collect();
            writeln!(f, "  cannot be imported: {}", lines.join("\n    "))
        }
        Importing::Known { family, report } => {
            writeln!(f, "  program: {family}")?;
            for fact in &report.facts {
                let line = format!("{}: {} (from {})", fact.what, fact.value, fact.from);
                writeln!(f, "  {}", printable(&line))?;
            }
            for assumption in &report.assumptions {
                writeln!(f, "  assumed: {}", printable(assumption))?;
            }
            for missing in &report.missing {
                writeln!(f, "  importing needs {}: {}", missing.flag, missing.about)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, shape: &[i64]) -> Description {
        let tensor = TensorInfo {
            name: name.to_owned(),
            dtype: "float32".to_owned(),
            shape: shape.to_vec(),
        };
        let facts = vec![(name.to_owned(), name.to_owned())];
        finish(
            Path::new("a.pt"),
            "PyTorch file".into(),
            facts,
            vec![tensor],
        )
    }

    #[test]
    fn shapes_that_cannot_be_are_counted_without_overflow() {
        assert_eq!(description("w", &[2, 3]).values, 6);
        assert_eq!(description("w", &[]).values, 1);
        assert_eq!(description("w", &[i64::MAX, i64::MAX]).values, u64::MAX);
        assert_eq!(description("w", &[i64::MAX, i64::MAX, 0]).values, 0);
    }

    #[test]
    fn names_do_not_steer_the_terminal() {
        let text = description("a\u{1b}[2J\n\"b\u{e9}", &[1]).to_string();
        assert_eq!(text.matches("a\\u{1b}[2J\\n\"b\u{e9}").count(), 3);
        assert!(!text.contains('\u{1b}'));
    }
}

//! What a file holds, without loading its tensors.

use std::fmt;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::file::{Checkpoint, read_checkpoint};
use super::{dtypes, pt, safetensors};

/// A file, for people and programs.
#[derive(Debug, Serialize)]
pub struct Description {
    /// The file.
    pub path: String,
    /// "ddpm checkpoint", "safetensors" or "PyTorch file".
    pub container: &'static str,
    /// Facts in the order they are told: key, value.
    pub facts: Vec<(String, String)>,
    /// Settings of a file of ours, as in config.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// All tensors.
    pub tensors: Vec<TensorInfo>,
    /// Values in all tensors.
    pub values: u64,
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

/// Describes a checkpoint, a safetensors file or a PyTorch file.
///
/// # Errors
/// A file that is none of these, or damaged.
pub fn describe(path: &Path) -> Result<Description> {
    let mut magic = [0; 9];
    let is_safetensors =
        fs_err::File::open(path)?.read_exact(&mut magic).is_ok() && magic[8] == b'{';
    if !is_safetensors {
        return describe_pt(path);
    }
    let file = safetensors::open(path)?;
    if file.metadata.contains_key("ddpm") {
        return describe_ours(path, &read_checkpoint(path)?);
    }
    let mut facts: Vec<_> = file.metadata.into_iter().collect();
    facts.sort();
    Ok(assemble(path, "safetensors", facts, None, &file.tensors))
}

fn describe_ours(path: &Path, checkpoint: &Checkpoint) -> Result<Description> {
    let meta = &checkpoint.meta;
    let facts = vec![
        (
            "contents".into(),
            format!("{:?}", meta.contents).to_lowercase(),
        ),
        ("step".into(), meta.step.to_string()),
        ("written by".into(), meta.written_by.clone()),
    ];
    let config = Some(serde_json::to_value(&meta.config)?);
    Ok(assemble(
        path,
        "ddpm checkpoint",
        facts,
        config,
        &checkpoint.tensors,
    ))
}

fn assemble(
    path: &Path,
    container: &'static str,
    facts: Vec<(String, String)>,
    config: Option<serde_json::Value>,
    tensors: &[(String, tch::Tensor)],
) -> Description {
    let tensors = tensors.iter().map(|(name, t)| TensorInfo {
        name: name.clone(),
        dtype: dtypes::to_torch(t.kind())
            .map_or("?", |d| d.torch_name())
            .to_owned(),
        shape: t.size(),
    });
    finish(path, container, facts, config, tensors.collect())
}

fn describe_pt(path: &Path) -> Result<Description> {
    let file = pt::read(path)?;
    let tensors = match file.tensors_in(&file.root) {
        Ok(tensors) => tensors
            .into_iter()
            .map(|(name, t)| TensorInfo {
                name: name.to_owned(),
                dtype: t.storage.dtype.torch_name().to_owned(),
                shape: t.shape.iter().map(|&n| n as i64).collect(),
            })
            .collect(),
        Err(_) => vec![],
    };
    // A flat state_dict is told by its tensors; anything else by its top level.
    let facts = if tensors.is_empty() {
        file.top_level()
    } else {
        vec![]
    };
    Ok(finish(path, "PyTorch file", facts, None, tensors))
}

fn finish(
    path: &Path,
    container: &'static str,
    facts: Vec<(String, String)>,
    config: Option<serde_json::Value>,
    tensors: Vec<TensorInfo>,
) -> Description {
    let values = tensors
        .iter()
        .map(|t| t.shape.iter().product::<i64>() as u64)
        .sum();
    Description {
        path: path.display().to_string(),
        container,
        facts,
        config,
        tensors,
        values,
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.path, self.container)?;
        for (key, value) in &self.facts {
            writeln!(f, "  {key}: {value}")?;
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
        writeln!(
            f,
            "  {} tensors, {} values",
            self.tensors.len(),
            self.values
        )?;
        for t in &self.tensors {
            writeln!(f, "    {} {} {:?}", t.name, t.dtype, t.shape)?;
        }
        Ok(())
    }
}

//! Reads PyTorch checkpoints (`.pt`, `.pth`, `.ckpt`, `.bin`): the zip archive of torch 1.6 and
//! later, and the older file of pickles followed by raw storages.
//!
//! Opening a file reads its directory and its pickle. A tensor's bytes are read when
//! [`PtFile::tensor`] asks for them. Nothing read from the file is trusted: see the crate's
//! `pickle` module for the objects; here every length is held against the file's before memory is
//! taken, and an expanded view may take at most `MAX_EXPANSION` times the file.
//!
//! Source: `torch/serialization.py` of torch 2.11, `_load` and `_legacy_load`.

mod legacy;
mod source;
#[cfg(test)]
mod tests;
mod zip;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use self::legacy::{LEGACY_MAGIC, read_legacy};
use self::source::{Extent, Source};
use self::zip::{ZIP_MAGIC, read_zip};
use super::error::CheckpointError;
use super::host_tensor::{HostTensor, TensorError, byte_len, strided_span};
use super::pickle::{TensorRef, Value};

/// How many times the file's length its tensors may take in memory; above 1 only if they share
/// storages.
const MAX_EXPANSION: u64 = 16;
/// What tensors may take in memory however short the file is.
const FREE_BYTES: u64 = 1 << 20;
/// Most keys that an error message lists.
const MAX_LISTED: usize = 12;

type Result<T> = std::result::Result<T, CheckpointError>;

/// An open PyTorch checkpoint; its tensors are still on disk.
#[derive(Debug)]
pub struct PtFile {
    /// What was saved.
    pub root: Value,
    source: Source,
    storages: HashMap<String, Extent>,
}

/// Opens a PyTorch checkpoint and reads everything but its tensors' bytes.
///
/// # Errors
/// If the file cannot be read, is not a PyTorch checkpoint, is damaged, or holds more than tensors
/// and plain data: a global outside the whitelist is named, and nothing in the file is ever run.
pub fn read(path: &Path) -> Result<PtFile> {
    let source = Source::open(path)?;
    let mut head = Vec::new();
    (&source.file)
        .take(LEGACY_MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|error| source.io("read", error))?;
    let (root, storages) = if head.starts_with(ZIP_MAGIC) {
        read_zip(&source)?
    } else if head == LEGACY_MAGIC {
        read_legacy(&source)?
    } else {
        let hex: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(CheckpointError::NotPt {
            path: source.path,
            first_bytes: hex.join(" "),
        });
    };
    Ok(PtFile {
        root,
        source,
        storages,
    })
}

impl PtFile {
    /// Reads one tensor, contiguous; `name` is for messages only.
    ///
    /// # Errors
    /// If its storage is missing, cut short or fails its checksum, or the view leaves it, overlaps
    /// itself, or takes much more memory than the file.
    pub fn tensor(&self, name: &str, tensor: &TensorRef) -> Result<HostTensor> {
        let error = |source| self.tensor_error(name, source);
        let (extent, start, len) = self.locate(tensor).map_err(error)?;
        let span = self.source.slice(extent, start, len)?;
        HostTensor::from_strided(
            tensor.storage.dtype,
            tensor.shape.clone(),
            &tensor.strides,
            span,
        )
        .map_err(error)
    }

    /// Reads the weights when the file holds nothing else: a flat dict of tensors, in the file's
    /// order.
    ///
    /// # Errors
    /// If the file holds anything else, which the message lists, or a tensor cannot be read.
    pub fn state_dict(&self) -> Result<Vec<(String, HostTensor)>> {
        self.state_dict_in(&self.root)
    }

    /// Reads the weights kept in one value of the file, such as `file.root.get("ema")`.
    ///
    /// # Errors
    /// As [`PtFile::state_dict`].
    pub fn state_dict_in(&self, value: &Value) -> Result<Vec<(String, HostTensor)>> {
        let entries = self.tensors_in(value)?;
        let mut total_bytes = 0_usize;
        for (name, tensor) in &entries {
            let bytes = byte_len(tensor.storage.dtype, &tensor.shape)
                .map_err(|error| self.tensor_error(name, error))?;
            total_bytes = total_bytes.saturating_add(bytes);
            self.check_limit(total_bytes)
                .map_err(|error| self.tensor_error(name, error))?;
        }
        entries
            .into_iter()
            .map(|(name, tensor)| Ok((name.to_owned(), self.tensor(name, tensor)?)))
            .collect()
    }

    /// Lists a flat dict of tensors without reading their bytes; an entry `_metadata` is left out.
    ///
    /// # Errors
    /// If `value` is anything else, which the message lists.
    pub fn tensors_in<'a>(&self, value: &'a Value) -> Result<Vec<(&'a str, &'a TensorRef)>> {
        let not_state_dict = || CheckpointError::NotStateDict {
            path: self.source.path.clone(),
            found: listing(value),
        };
        let Value::Dict(items) = value else {
            return Err(not_state_dict());
        };
        items
            .iter()
            .filter(|(key, _)| !matches!(key, Value::Str(name) if &**name == "_metadata"))
            .map(|item| match item {
                (Value::Str(name), Value::Tensor(tensor)) => Ok((&**name, &**tensor)),
                _ => Err(not_state_dict()),
            })
            .collect()
    }

    /// What the file holds at its top level: key and kind, such as `("step", "int 5")`.
    ///
    /// A file that is no dict has one entry with an empty key.
    pub fn top_level(&self) -> Vec<(String, String)> {
        match &self.root {
            Value::Dict(items) => items
                .iter()
                .map(|(key, value)| (key_text(key), value.kind()))
                .collect(),
            other => vec![(String::new(), other.kind())],
        }
    }

    /// Finds a tensor's bytes: its storage, and the first byte and length in there.
    fn locate(
        &self,
        tensor: &TensorRef,
    ) -> std::result::Result<(&Extent, usize, usize), TensorError> {
        let storage = &tensor.storage;
        let item_bytes = storage.dtype.size_bytes();
        let extent = self
            .storages
            .get(&*storage.key)
            .ok_or_else(|| TensorError::NoStorage {
                key: storage.key.to_string(),
            })?;
        if (storage.numel as u64).checked_mul(item_bytes as u64) != Some(extent.bytes) {
            return Err(TensorError::StorageSize {
                key: storage.key.to_string(),
                numel: storage.numel,
                dtype: storage.dtype,
                found_bytes: extent.bytes,
            });
        }
        self.check_limit(byte_len(storage.dtype, &tensor.shape)?)?;
        let span = strided_span(&tensor.shape, &tensor.strides)?;
        if span == 0 {
            return Ok((extent, 0, 0));
        }
        let end = tensor.offset.checked_add(span);
        if end.is_none_or(|end| end > storage.numel) {
            return Err(TensorError::PastStorage {
                offset: tensor.offset,
                span,
                numel: storage.numel,
            });
        }
        Ok((extent, tensor.offset * item_bytes, span * item_bytes))
    }

    fn check_limit(&self, bytes: usize) -> std::result::Result<(), TensorError> {
        let limit = (self.source.file_bytes.saturating_mul(MAX_EXPANSION)).max(FREE_BYTES);
        let limit_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        if bytes > limit_bytes {
            return Err(TensorError::Expanded { bytes, limit_bytes });
        }
        Ok(())
    }

    fn tensor_error(&self, name: &str, source: TensorError) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.source.path.clone(),
            tensor: name.to_owned(),
            source,
        }
    }
}

/// A dict's first keys and their kinds, or the kind of anything else.
fn listing(value: &Value) -> String {
    let Value::Dict(items) = value else {
        return value.kind();
    };
    let mut parts: Vec<String> = items
        .iter()
        .take(MAX_LISTED)
        .map(|(key, value)| format!("{:?}: {}", key_text(key), value.kind()))
        .collect();
    if items.len() > MAX_LISTED {
        parts.push(format!("and {} more", items.len() - MAX_LISTED));
    }
    format!("{{{}}}", parts.join(", "))
}

fn key_text(key: &Value) -> String {
    match key {
        Value::Str(name) => name.to_string(),
        Value::Int(number) => number.to_string(),
        other => other.kind(),
    }
}

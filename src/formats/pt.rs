//! Reads PyTorch checkpoints (`.pt`, `.pth`, `.ckpt`, `.bin`): the zip archive of torch 1.6 and
//! later, and the older file of pickles followed by raw storages.
//!
//! Opening a file reads its directory and its pickle. A tensor's bytes are read when
//! [`PtFile::tensor`] asks for them. Nothing in the file is trusted: `pickle` checks the objects;
//! here every length is checked against the file's before memory is allocated, and views,
//! expanded or stepped, may cost at most `MAX_EXPANSION` times the file.
//!
//! Source: `torch/serialization.py` of torch 2.11, `_load` and `_legacy_load`.

#[cfg(test)]
pub(super) mod handmade;
mod legacy;
mod source;
#[cfg(test)]
mod tests;
pub mod write;
mod zip;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

pub(super) use self::legacy::LEGACY_MAGIC;
use self::legacy::read_legacy;
use self::source::{Extent, Source};
pub(super) use self::zip::ZIP_MAGIC;
use self::zip::read_zip;
use super::CheckpointError;
use super::dtypes::kind_of_torch;
use super::host_tensor::{TensorError, byte_len, is_contiguous, strided_span};
use super::pickle::{TensorRef, Value};
use crate::text::shown;

/// Memory limit of a file's tensors, as a multiple of its length; above 1 only if they share storages.
const MAX_EXPANSION: u64 = 16;
/// Memory that tensors may take however short the file is.
const FREE_BYTES: u64 = 1 << 20;

type Result<T> = std::result::Result<T, CheckpointError>;

/// An open PyTorch checkpoint; its tensors are still on disk.
#[derive(Debug)]
pub struct PtFile {
    /// The saved object.
    pub root: Value,
    source: Source,
    storages: HashMap<String, Extent>,
}

/// Opens a PyTorch checkpoint and reads everything but its tensors' bytes.
///
/// # Errors
/// If the file cannot be read, is not a PyTorch checkpoint, or is damaged. Objects that are neither tensors nor plain
/// data are names of their classes; nothing in the file is ever run.
pub fn read(path: &Path) -> Result<PtFile> {
    read_allowing(path, false)
}

/// Opens a PyTorch checkpoint as [`read`] does, and a TorchScript archive too: each of its modules is a dict of its
/// attributes. The program in it is not looked at.
///
/// # Errors
/// Those of [`read`].
pub fn read_modules(path: &Path) -> Result<PtFile> {
    read_allowing(path, true)
}

fn read_allowing(path: &Path, scripts: bool) -> Result<PtFile> {
    let source = Source::open(path)?;
    let mut head = Vec::new();
    (&source.file)
        .take(LEGACY_MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|error| source.io("read", error))?;
    let (root, storages) = if head.starts_with(ZIP_MAGIC) {
        read_zip(&source, scripts)?
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
    /// Reads one tensor: on CPU, of its own dtype, contiguous. `name` is for messages only.
    ///
    /// No byte is in memory twice, except for a view with gaps.
    ///
    /// # Errors
    /// If its storage is missing, cut short or fails its checksum, or the view leaves it, overlaps
    /// itself, or takes much more memory than the file.
    pub fn tensor(&self, name: &str, tensor: &TensorRef) -> Result<Tensor> {
        let error = |source| self.tensor_error(name, source);
        let torch = |source| self.torch_error(name, source);
        let (extent, start, len) = self.locate(tensor).map_err(error)?;
        let span = self.span(name, extent, start, len)?;
        let kind = kind_of_torch(tensor.storage.dtype);
        if kind == Kind::Bool {
            let found = largest(&span).map_err(torch)?;
            if found > 1 {
                return Err(error(TensorError::NotBool { found }));
            }
        }
        row_major(&span, kind, tensor).map_err(torch)
    }

    /// Bytes that a tensor takes in memory or reads from its storage, whichever is more: a view of two
    /// elements can span a whole storage.
    pub(super) fn cost_bytes(&self, name: &str, tensor: &TensorRef) -> Result<usize> {
        let dtype = tensor.storage.dtype;
        let cost = || -> std::result::Result<usize, TensorError> {
            let span = strided_span(&tensor.shape, &tensor.strides)?.min(tensor.storage.numel);
            let read_bytes = span.saturating_mul(dtype.size_bytes());
            Ok(byte_len(dtype, &tensor.shape)?.max(read_bytes))
        };
        cost().map_err(|error| self.tensor_error(name, error))
    }

    /// Checks that tensors of `bytes` in total may be read from this file; `name` is the tensor named in an
    /// error.
    pub(super) fn check_total(&self, name: &str, bytes: usize) -> Result<()> {
        self.check_limit(bytes)
            .map_err(|error| self.tensor_error(name, error))
    }

    /// Reads part of a storage a chunk at a time into a tensor `[len]` of bytes.
    fn span(&self, name: &str, extent: &Extent, start: usize, len: usize) -> Result<Tensor> {
        let torch = |source| self.torch_error(name, source);
        let options = (Kind::Uint8, Device::Cpu);
        let span = Tensor::f_empty([len as i64], options).map_err(torch)?;
        self.source.chunks(extent, start, len, |at, chunk| {
            let size = chunk.len() as i64;
            let copy = || {
                let chunk = Tensor::f_from_data_size(chunk, &[size], Kind::Uint8)?;
                span.f_narrow(0, at as i64, size)?.f_copy_(&chunk)
            };
            copy().map_err(torch)
        })?;
        Ok(span)
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

    fn torch_error(&self, name: &str, source: TchError) -> CheckpointError {
        CheckpointError::Torch {
            path: self.source.path.clone(),
            tensor: shown(name),
            source,
        }
    }

    fn tensor_error(&self, name: &str, source: TensorError) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.source.path.clone(),
            tensor: shown(name),
            source,
        }
    }
}

fn largest(bytes: &Tensor) -> std::result::Result<u8, TchError> {
    if bytes.numel() == 0 {
        return Ok(0);
    }
    Ok(bytes.f_max()?.f_int64_value(&[])? as u8)
}

/// A view's elements one after the other, given the bytes from its first to its last. The caller
/// has checked the view with [`strided_span`].
fn row_major(span: &Tensor, kind: Kind, view: &TensorRef) -> std::result::Result<Tensor, TchError> {
    // Every number of a pickle fits i64.
    let shape: Vec<i64> = view.shape.iter().map(|&dim| dim as i64).collect();
    let elements = span.f_view_dtype(kind)?;
    if is_contiguous(&view.shape, &view.strides) {
        return elements.f_view(shape.as_slice());
    }
    // A dimension of 1 is never stepped along, and its stride can be any number.
    let strides: Vec<i64> = (view.shape.iter().zip(&view.strides))
        .map(|(&dim, &stride)| if dim == 1 { 0 } else { stride as i64 })
        .collect();
    elements.f_as_strided(&shape, &strides, 0)?.f_contiguous()
}

//! Writes files as `torch.save` does: a zip archive of a protocol-2 pickle and raw storages.
//!
//! Python reads them with `torch.load(FILE, weights_only=True)`, memory-mapped too. The object may
//! nest, as the files of training programs do; tensors provide their bytes one at a time. torch's
//! `.format_version` is left out on purpose: it promises the byte layout of torch's own zip writer.

mod pickler;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::{self, Seek, Write};
use std::rc::Rc;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use self::pickler::{Storage, pickle};
use crate::formats::host_tensor::{Dtype, HostTensor};

/// Folder of the archive's entries; torch accepts any name.
const FOLDER: &str = "archive";
/// Alignment of storages in torch's files, so that memory-mapped tensors are aligned.
const ALIGNMENT_BYTES: u16 = 64;
/// Entries from this size on need the zip64 fields.
const ZIP64_BYTES: usize = u32::MAX as usize;

/// A tensor whose type and shape are known before its bytes are made.
pub trait TensorData {
    /// Element type.
    fn dtype(&self) -> Dtype;

    /// Length of each dimension, outermost first; empty for a scalar.
    fn shape(&self) -> &[usize];

    /// The elements in row-major order, little-endian: as many bytes as dtype and shape take.
    ///
    /// Called once, when the tensor's turn has come.
    ///
    /// # Errors
    /// If they are unavailable; the file is then incomplete.
    fn bytes(&self) -> io::Result<Cow<'_, [u8]>>;
}

impl TensorData for HostTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.data))
    }
}

impl<T: TensorData + ?Sized> TensorData for &T {
    fn dtype(&self) -> Dtype {
        (**self).dtype()
    }

    fn shape(&self) -> &[usize] {
        (**self).shape()
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        (**self).bytes()
    }
}

/// The contents of a file: a Python object of plain data and tensors.
#[derive(Clone)]
pub enum Item<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Item<'a>>),
    /// A tuple.
    Tuple(Vec<Item<'a>>),
    /// A dict with text keys.
    Dict(Vec<(String, Item<'a>)>),
    /// A dict with integer keys, as the `state` of an optimizer is.
    IntDict(Vec<(i64, Item<'a>)>),
    /// A `collections.OrderedDict`, which is what `state_dict()` returns.
    OrderedDict(Vec<(String, Item<'a>)>),
    /// A tensor. A clone of the item shares the tensor, and the file then holds its bytes once.
    Tensor(Rc<dyn TensorData + 'a>),
}

impl<'a> Item<'a> {
    /// A tensor, from the source of its bytes.
    pub fn tensor(data: impl TensorData + 'a) -> Self {
        Self::Tensor(Rc::new(data))
    }
}

/// Writes `root`, dicts in the order given; the same object makes the same bytes.
///
/// Nothing is flushed to disk and no file is replaced here: that is left to the caller.
///
/// # Errors
/// `InvalidInput` for a duplicate key in a dict, before anything is written, or if a tensor returns a
/// number of bytes other than announced; otherwise the errors of the writer or a tensor.
pub fn write_pt<W: Write + Seek>(writer: W, root: &Item) -> io::Result<()> {
    let (pickle, storages) = pickle(root)?;
    let mut archive = ZipWriter::new(writer);
    add(&mut archive, "data.pkl", &pickle)?;
    add(&mut archive, "byteorder", b"little")?;
    for (key, storage) in storages.iter().enumerate() {
        add(&mut archive, &format!("data/{key}"), &bytes_of(storage)?)?;
    }
    add(&mut archive, "version", b"3\n")?;
    archive.finish()?;
    Ok(())
}

/// Writes `tensors` as an `OrderedDict`, as [`write_pt`] does.
///
/// # Errors
/// `InvalidInput` for a duplicate name or a tensor whose bytes do not fit its shape, before anything is
/// written; otherwise the writer's errors.
pub fn write_state_dict<W: Write + Seek>(
    writer: W,
    tensors: &[(String, HostTensor)],
) -> io::Result<()> {
    for (name, tensor) in tensors {
        tensor
            .check()
            .map_err(|error| invalid(format!("tensor {name:?}: {error}")))?;
    }
    let items = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), Item::tensor(tensor)));
    write_pt(writer, &Item::OrderedDict(items.collect()))
}

fn bytes_of<'a>(storage: &'a Storage) -> io::Result<Cow<'a, [u8]>> {
    let bytes = storage.tensor.bytes()?;
    if bytes.len() != storage.bytes {
        return Err(invalid(format!(
            "tensor {:?}: {} {:?} takes {} bytes, it gave {}",
            storage.name,
            storage.tensor.dtype(),
            storage.tensor.shape(),
            storage.bytes,
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn add<W: Write + Seek>(archive: &mut ZipWriter<W>, name: &str, data: &[u8]) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT_BYTES)
        .large_file(data.len() >= ZIP64_BYTES);
    archive.start_file(format!("{FOLDER}/{name}"), options)?;
    archive.write_all(data)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

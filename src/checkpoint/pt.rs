//! Reads PyTorch checkpoints (`.pt`, `.pth`, `.ckpt`, `.bin`): the zip archive of torch 1.6 and
//! later, and the older file of pickles followed by raw storages.
//!
//! Opening a file reads its directory and its pickle. A tensor's bytes are read when
//! [`PtFile::tensor`] asks for them. Nothing read from the file is trusted: see the crate's
//! `pickle` module for the objects; here every length is held against the file's before memory is
//! taken, and an expanded view may take at most `MAX_EXPANSION` times the file.
//!
//! Source: `torch/serialization.py` of torch 2.11, `_load` and `_legacy_load`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use zip::{CompressionMethod, ZipArchive};

use super::error::CheckpointError;
use super::host_tensor::{HostTensor, TensorError, byte_len, strided_span};
use super::pickle::{MAX_PICKLE_BYTES, PickleError, Pickled, TensorRef, Value, unpickle};

/// How many times the file's length its tensors may take in memory; above 1 only if they share
/// storages.
const MAX_EXPANSION: u64 = 16;
/// What tensors may take in memory however short the file is.
const FREE_BYTES: u64 = 1 << 20;
/// First bytes of a zip archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// First bytes of an older file: the pickle, protocol 2, of the integer 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Second pickle of an older file.
const LEGACY_PROTOCOL: i64 = 1001;
/// Most keys that an error message lists.
const MAX_LISTED: usize = 12;
/// Bytes read at a time while a checksum is computed.
const CHUNK_BYTES: usize = 1 << 16;

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

/// The file on disk.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
    file_bytes: u64,
}

/// Where a zip entry's or a storage's bytes lie in the file. They are known to be inside it.
#[derive(Debug)]
struct Extent {
    name: String,
    start: u64,
    bytes: u64,
    /// CRC-32 of all the bytes, if the file has one.
    crc: Option<u32>,
    /// Set once the bytes were found to have that CRC.
    verified: OnceLock<()>,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let io = |action, source| CheckpointError::Io {
            path: path.to_owned(),
            action,
            source,
        };
        let file = File::open(path).map_err(|error| io("open", error))?;
        let metadata = file.metadata().map_err(|error| io("read", error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            file_bytes: metadata.len(),
        })
    }

    fn io(&self, action: &'static str, source: io::Error) -> CheckpointError {
        CheckpointError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }

    fn pickle(&self, source: PickleError) -> CheckpointError {
        CheckpointError::Pickle {
            path: self.path.clone(),
            source,
        }
    }

    fn extent(&self, name: String, start: u64, bytes: u64, crc: Option<u32>) -> Result<Extent> {
        if start
            .checked_add(bytes)
            .is_none_or(|end| end > self.file_bytes)
        {
            return Err(CheckpointError::PastEnd {
                path: self.path.clone(),
                entry: name,
                start,
                wanted_bytes: bytes,
                file_bytes: self.file_bytes,
            });
        }
        Ok(Extent {
            name,
            start,
            bytes,
            crc,
            verified: OnceLock::new(),
        })
    }

    /// Reads part of an extent; the caller has held `start + len` against its length.
    fn slice(&self, extent: &Extent, start: usize, len: usize) -> Result<Vec<u8>> {
        let whole = len as u64 == extent.bytes;
        if !whole {
            self.verify(extent)?;
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| self.io("read", io::ErrorKind::OutOfMemory.into()))?;
        bytes.resize(len, 0);
        self.file
            .read_exact_at(&mut bytes, extent.start + start as u64)
            .map_err(|error| self.io("read", error))?;
        if whole && let Some(wanted) = extent.crc {
            self.compare(extent, crc32fast::hash(&bytes), wanted)?;
        }
        Ok(bytes)
    }

    fn whole(&self, extent: &Extent) -> Result<Vec<u8>> {
        self.slice(extent, 0, extent.bytes as usize)
    }

    /// Holds an extent against its checksum, once, without keeping its bytes.
    fn verify(&self, extent: &Extent) -> Result<()> {
        let Some(wanted) = extent.crc else {
            return Ok(());
        };
        if extent.verified.get().is_some() {
            return Ok(());
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while at < extent.bytes {
            let len = (extent.bytes - at).min(CHUNK_BYTES as u64) as usize;
            self.file
                .read_exact_at(&mut chunk[..len], extent.start + at)
                .map_err(|error| self.io("read", error))?;
            hasher.update(&chunk[..len]);
            at += len as u64;
        }
        self.compare(extent, hasher.finalize(), wanted)
    }

    fn compare(&self, extent: &Extent, found: u32, wanted: u32) -> Result<()> {
        if found != wanted {
            return Err(CheckpointError::Checksum {
                path: self.path.clone(),
                entry: extent.name.clone(),
                found,
                wanted,
            });
        }
        extent.verified.get_or_init(|| ());
        Ok(())
    }
}

// The zip archive of torch 1.6 and later: FOLDER/data.pkl, FOLDER/byteorder, FOLDER/data/KEY.

fn read_zip(source: &Source) -> Result<(Value, HashMap<String, Extent>)> {
    let mut entries = zip_entries(source)?;
    let folder = zip_folder(source, &entries)?;
    if let Some(extent) = entries.get(&format!("{folder}/byteorder")) {
        check_byte_order(source, extent)?;
    }
    let pickle = &entries[&format!("{folder}/data.pkl")];
    if pickle.bytes > MAX_PICKLE_BYTES {
        return Err(source.pickle(PickleError::TooLong {
            limit: MAX_PICKLE_BYTES,
        }));
    }
    let pickle = source.whole(pickle)?;
    let root = unpickle(&mut &pickle[..])
        .map_err(|error| source.pickle(error))?
        .root;
    let prefix = format!("{folder}/data/");
    let storages = entries
        .drain()
        .filter_map(|(name, extent)| Some((name.strip_prefix(&prefix)?.to_owned(), extent)))
        .collect();
    Ok((root, storages))
}

/// Every entry of the archive, by name.
fn zip_entries(source: &Source) -> Result<HashMap<String, Extent>> {
    let zip_error = |error| CheckpointError::Zip {
        path: source.path.clone(),
        source: error,
    };
    let mut archive = ZipArchive::new(BufReader::new(&source.file)).map_err(zip_error)?;
    let is_script = |name: &[u8]| name.ends_with(b"/constants.pkl");
    if archive.file_names_raw().any(is_script) {
        return Err(CheckpointError::TorchScript {
            path: source.path.clone(),
        });
    }
    let mut duplicate = archive.has_duplicate_names();
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(zip_error)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let stored = entry.compression() == CompressionMethod::Stored
            && entry.compressed_size() == entry.size()
            && !entry.encrypted();
        if !stored {
            return Err(CheckpointError::NotStored {
                path: source.path.clone(),
                entry: name,
            });
        }
        // torch can be told to leave the checksum out, and then writes 0.
        let crc = Some(entry.crc32()).filter(|&crc| crc != 0);
        let start = entry.data_start().unwrap_or(u64::MAX);
        let extent = source.extent(name.clone(), start, entry.size(), crc)?;
        duplicate |= entries.insert(name, extent).is_some();
    }
    if duplicate {
        return Err(CheckpointError::DuplicateEntries {
            path: source.path.clone(),
        });
    }
    Ok(entries)
}

/// The folder that holds `data.pkl`: the file's stem when it was saved, or "archive".
fn zip_folder(source: &Source, entries: &HashMap<String, Extent>) -> Result<String> {
    let folders: Vec<&str> = entries
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .filter(|folder| !folder.contains('/'))
        .collect();
    match folders[..] {
        [folder] => Ok(folder.to_owned()),
        _ => Err(CheckpointError::NoPickle {
            path: source.path.clone(),
            found: folders.len(),
        }),
    }
}

fn check_byte_order(source: &Source, extent: &Extent) -> Result<()> {
    let order = source.slice(extent, 0, extent.bytes.min(16) as usize)?;
    if order != b"little" {
        return Err(CheckpointError::ByteOrder {
            path: source.path.clone(),
            found: format!("{:?}", String::from_utf8_lossy(&order)),
        });
    }
    Ok(())
}

// The file of torch before 1.6: pickles of a magic number, 1001, the machine's sizes, the object,
// and the list of storage keys; then for each key a 64-bit count of elements and the elements.

fn read_legacy(source: &Source) -> Result<(Value, HashMap<String, Extent>)> {
    let mut reader = BufReader::new(&source.file);
    reader
        .seek(SeekFrom::Start(LEGACY_MAGIC.len() as u64))
        .map_err(|error| source.io("read", error))?;
    let mut next = || unpickle(&mut reader).map_err(|error| source.pickle(error));
    let version = next()?.root;
    if version != Value::Int(LEGACY_PROTOCOL) {
        let wanted = LEGACY_PROTOCOL.to_string();
        return Err(legacy(source, "version", wanted, version.kind()));
    }
    let machine = next()?.root;
    if machine.get("little_endian") != Some(&Value::Bool(true)) {
        return Err(CheckpointError::ByteOrder {
            path: source.path.clone(),
            found: "\"big\"".to_owned(),
        });
    }
    let object = next()?;
    let keys = next()?.root;
    let start = reader
        .stream_position()
        .map_err(|error| source.io("read", error))?;
    let storages = legacy_storages(source, &object, &keys, start)?;
    Ok((object.root, storages))
}

/// Walks the storages that lie one after the other from `at` on.
fn legacy_storages(
    source: &Source,
    object: &Pickled,
    keys: &Value,
    mut at: u64,
) -> Result<HashMap<String, Extent>> {
    let bad_keys = || {
        let wanted = "a list of the storages in use, each once".to_owned();
        legacy(source, "storage list", wanted, keys.kind())
    };
    let Value::List(keys) = keys else {
        return Err(bad_keys());
    };
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Str(key) = key else {
            return Err(bad_keys());
        };
        let storage = object.storages.get(key).ok_or_else(bad_keys)?;
        let count = source.extent(format!("length of storage {key}"), at, 8, None)?;
        let mut numel = [0; 8];
        numel.copy_from_slice(&source.whole(&count)?);
        let numel = u64::from_le_bytes(numel);
        if numel != storage.numel as u64 {
            let wanted = storage.numel.to_string();
            return Err(legacy(
                source,
                "length of a storage",
                wanted,
                numel.to_string(),
            ));
        }
        let bytes = numel.saturating_mul(storage.dtype.size_bytes() as u64);
        let extent = source.extent(format!("storage {key}"), at + 8, bytes, None)?;
        at = extent.start + extent.bytes;
        if storages.insert(key.to_string(), extent).is_some() {
            return Err(bad_keys());
        }
    }
    Ok(storages)
}

fn legacy(source: &Source, part: &'static str, wanted: String, found: String) -> CheckpointError {
    CheckpointError::Legacy {
        path: source.path.clone(),
        part,
        wanted,
        found,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::host_tensor::Dtype;
    use super::super::pt_write::write_state_dict;
    use super::*;

    // Files made by hand.

    /// Reads `bytes` as a file; its path is gone when this returns, the open file is not.
    fn read_bytes(bytes: &[u8]) -> Result<PtFile> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        read(file.path())
    }

    fn written(tensors: &[(String, HostTensor)]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        write_state_dict(&mut file, tensors).unwrap();
        file.into_inner()
    }

    fn sample() -> Vec<(String, HostTensor)> {
        let data = |len: usize| (0..len).map(|byte| byte as u8).collect::<Vec<u8>>();
        vec![
            (
                "conv.weight".to_owned(),
                HostTensor::new(Dtype::F32, vec![4, 3, 3, 3], data(432)).unwrap(),
            ),
            (
                "steps".to_owned(),
                HostTensor::new(Dtype::I64, vec![], data(8)).unwrap(),
            ),
            (
                "empty".to_owned(),
                HostTensor::new(Dtype::F16, vec![0, 2], vec![]).unwrap(),
            ),
        ]
    }

    fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, data) in entries {
            archive.start_file(*name, options).unwrap();
            archive.write_all(data).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = vec![b'X'];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    fn int(value: i64) -> Vec<u8> {
        [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
    }

    fn ints(values: &[i64]) -> Vec<u8> {
        let values: Vec<Vec<u8>> = values.iter().map(|&value| int(value)).collect();
        [b"(", &values.concat()[..], b"t"].concat()
    }

    /// Instructions for a uint8 view of storage "0", said to hold `numel` elements.
    fn view(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage")[..],
            b"ctorch\nByteStorage\n",
            &text("0"),
            &text("cpu"),
            &int(numel),
            b"tQ",
            &int(offset),
            &ints(shape),
            &ints(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
        .concat()
    }

    /// A pickle of `{"w": view}`.
    fn dict_of(view: &[u8]) -> Vec<u8> {
        [b"\x80\x02}", &text("w")[..], view, b"s."].concat()
    }

    fn zip_view(view: &[u8]) -> Vec<u8> {
        zip_of(&[
            ("a/data.pkl", &dict_of(view)),
            ("a/data/0", &[1, 2, 3, 4, 5, 6]),
        ])
    }

    fn legacy_view(view: &[u8]) -> Vec<u8> {
        [
            LEGACY_MAGIC,
            b"\x80\x02M\xe9\x03.",
            &[b"\x80\x02}", &text("little_endian")[..], b"\x88s."].concat(),
            &dict_of(view),
            &[b"\x80\x02]", &text("0")[..], b"a."].concat(),
            &6_u64.to_le_bytes(),
            &[1, 2, 3, 4, 5, 6],
        ]
        .concat()
    }

    fn only_tensor(bytes: &[u8]) -> Result<HostTensor> {
        let mut tensors = read_bytes(bytes)?.state_dict()?;
        assert_eq!(tensors.len(), 1);
        Ok(tensors.remove(0).1)
    }

    fn tensor_problem(bytes: &[u8]) -> TensorError {
        match only_tensor(bytes) {
            Err(CheckpointError::Tensor { tensor, source, .. }) if tensor == "w" => source,
            other => panic!("wanted an error about the tensor, got {other:?}"),
        }
    }

    /// Overwrites `len` bytes at `offset` from each place where `signature` stands.
    fn patch(bytes: &mut [u8], signature: &[u8], offset: usize, new: &[u8]) {
        let places: Vec<usize> = (0..bytes.len() - signature.len())
            .filter(|&at| bytes[at..].starts_with(signature))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at + offset..][..new.len()].copy_from_slice(new);
        }
    }

    const CENTRAL: &[u8] = b"PK\x01\x02";

    // What is right is read.

    #[test]
    fn what_was_written_is_read() {
        let file = read_bytes(&written(&sample())).unwrap();
        assert_eq!(file.state_dict().unwrap(), sample());
        let top = [
            ("conv.weight", "tensor float32 [4, 3, 3, 3]"),
            ("steps", "tensor int64 []"),
            ("empty", "tensor float16 [0, 2]"),
        ];
        let top = top.map(|(key, kind)| (key.to_owned(), kind.to_owned()));
        assert_eq!(file.top_level(), top);
    }

    #[test]
    fn views_are_read_from_both_containers() {
        for file in [zip_view, legacy_view] {
            let tensor = only_tensor(&file(&view(6, 0, &[2, 3], &[3, 1]))).unwrap();
            assert_eq!(tensor.data, [1, 2, 3, 4, 5, 6]);
            let transposed = only_tensor(&file(&view(6, 1, &[2, 2], &[1, 2]))).unwrap();
            assert_eq!(transposed.data, [2, 4, 3, 5]);
            let expanded = only_tensor(&file(&view(6, 5, &[3], &[0]))).unwrap();
            assert_eq!(expanded.data, [6, 6, 6]);
            let empty = only_tensor(&file(&view(6, 900, &[0, 3], &[3, 1]))).unwrap();
            assert_eq!((&empty.shape[..], empty.data.len()), (&[0, 3][..], 0));
        }
    }

    #[test]
    fn nested_weights_are_reached_by_key() {
        let inner = [b"}", &text("w")[..], &view(6, 0, &[6], &[1]), b"s"].concat();
        let pickle = [
            b"\x80\x02}(",
            &text("step")[..],
            b"K\x05",
            &text("ema"),
            &inner,
            b"u.",
        ]
        .concat();
        let bytes = zip_of(&[("a/data.pkl", &pickle), ("a/data/0", &[1, 2, 3, 4, 5, 6])]);
        let file = read_bytes(&bytes).unwrap();
        let ema = file.root.get("ema").unwrap();
        assert_eq!(file.state_dict_in(ema).unwrap()[0].1.data.len(), 6);
        let error = file.state_dict().unwrap_err().to_string();
        assert!(error.contains("found {\"step\": int 5, \"ema\": dict of 1}; name the entry"));
    }

    #[test]
    fn a_file_that_is_no_dict_says_what_it_is() {
        let bytes = zip_of(&[("a/data.pkl", b"\x80\x02](K\x01K\x02e.")]);
        let file = read_bytes(&bytes).unwrap();
        assert_eq!(file.top_level(), [(String::new(), "list of 2".to_owned())]);
        let error = file.state_dict().unwrap_err().to_string();
        assert!(error.contains("found list of 2"));
    }

    #[test]
    fn a_checksum_of_zero_means_none() {
        let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
        patch(&mut bytes, CENTRAL, 16, &[0; 4]);
        assert!(only_tensor(&bytes).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip(
            tensors in prop::collection::btree_map(
                ".{0,20}",
                (prop::sample::select(&Dtype::ALL[..]), prop::collection::vec(0_usize..5, 0..4), any::<u8>()),
                0..8,
            )
        ) {
            let tensors: Vec<(String, HostTensor)> = tensors
                .into_iter()
                .filter(|(name, _)| name != "_metadata")
                .map(|(name, (dtype, shape, seed))| {
                    let len = byte_len(dtype, &shape).unwrap();
                    let top = if dtype == Dtype::Bool { 2 } else { 256 };
                    let data = (0..len).map(|byte| ((byte * 31 + usize::from(seed)) % top) as u8);
                    let tensor = HostTensor::new(dtype, shape, data.collect()).unwrap();
                    (name, tensor)
                })
                .collect();
            let read = read_bytes(&written(&tensors)).unwrap().state_dict().unwrap();
            prop_assert_eq!(read, tensors);
        }

        #[test]
        fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
            for mut bytes in [written(&sample()), legacy_view(&view(6, 0, &[2, 3], &[3, 1]))] {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                drop(read_bytes(&bytes).and_then(|file| file.state_dict()));
            }
        }
    }

    // What is wrong is refused.

    #[test]
    fn a_file_cut_short_anywhere_is_refused() {
        let zip = written(&sample());
        let legacy = legacy_view(&view(6, 0, &[2, 3], &[3, 1]));
        assert!(only_tensor(&legacy).is_ok());
        for whole in [zip, legacy] {
            for percent in 0..100 {
                let cut = &whole[..whole.len() * percent / 100];
                assert!(read_bytes(cut).is_err(), "{percent} %");
            }
            assert!(read_bytes(&whole[..whole.len() - 1]).is_err());
        }
    }

    #[test]
    fn other_files_are_named_by_their_first_bytes() {
        let error = read_bytes(b"\x89HDF\r\n\x1a\n").unwrap_err().to_string();
        assert!(error.contains("it starts with [89 48 44 46 0d 0a 1a 0a], wanted a zip archive"));
        assert!(matches!(
            read_bytes(b"").unwrap_err(),
            CheckpointError::NotPt { .. }
        ));
        let absent = read(Path::new("/no/such/file.pt")).unwrap_err();
        assert_eq!(absent.to_string(), "cannot open /no/such/file.pt");
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let mut bytes = zip_of(&[
            ("a/data.pkl", &dict_of(&view(6, 0, &[6], &[1]))),
            ("a/data/0", &[1, 2, 3, 4, 5, 6]),
            ("a/data/1", &[6, 5, 4, 3, 2, 1]),
        ]);
        patch(&mut bytes, b"a/data/1", 0, b"a/data/0");
        assert!(matches!(
            read_bytes(&bytes).unwrap_err(),
            CheckpointError::DuplicateEntries { .. }
        ));
    }

    #[test]
    fn compressed_entries_are_refused_before_they_are_read() {
        for (offset, new) in [
            (10, &8_u16.to_le_bytes()[..]),
            (24, &u32::MAX.to_le_bytes()),
        ] {
            let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
            patch(&mut bytes, CENTRAL, offset, new);
            let error = read_bytes(&bytes).unwrap_err();
            assert!(
                matches!(
                    error,
                    CheckpointError::NotStored { .. } | CheckpointError::Zip { .. }
                ),
                "{error:?}"
            );
        }
    }

    #[test]
    fn an_entry_longer_than_the_file_is_refused() {
        let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
        patch(
            &mut bytes,
            CENTRAL,
            20,
            &[0xf0, 0xff, 0xff, 0xff, 0xf0, 0xff, 0xff, 0xff],
        );
        assert!(matches!(
            read_bytes(&bytes).unwrap_err(),
            CheckpointError::PastEnd {
                wanted_bytes: 0xffff_fff0,
                ..
            }
        ));
    }

    #[test]
    fn a_changed_storage_fails_its_checksum_whole_or_in_part() {
        for shape in [6, 2] {
            let mut bytes = zip_view(&view(6, 0, &[shape], &[1]));
            patch(&mut bytes, &[1, 2, 3, 4, 5, 6], 5, &[7]);
            assert!(matches!(
                only_tensor(&bytes).unwrap_err(),
                CheckpointError::Checksum { entry, .. } if entry == "a/data/0"
            ));
        }
    }

    #[test]
    fn archives_that_torch_save_did_not_write_are_refused() {
        let none = b"\x80\x02N.";
        let error = |entries: &[(&str, &[u8])]| read_bytes(&zip_of(entries)).unwrap_err();
        assert!(matches!(
            error(&[("word/document.xml", b"")]),
            CheckpointError::NoPickle { found: 0, .. }
        ));
        assert!(matches!(
            error(&[("a/data.pkl", none), ("b/data.pkl", none)]),
            CheckpointError::NoPickle { found: 2, .. }
        ));
        assert!(matches!(
            error(&[("a/data.pkl", none), ("a/constants.pkl", none)]),
            CheckpointError::TorchScript { .. }
        ));
        assert!(matches!(
            error(&[("a/data.pkl", none), ("a/byteorder", b"big")]),
            CheckpointError::ByteOrder { .. }
        ));
    }

    #[test]
    fn a_pickle_that_runs_code_is_refused_in_both_containers() {
        let call = [b"cos\nsystem\n", &text("touch owned")[..], b"\x85R"].concat();
        for bytes in [zip_view(&call), legacy_view(&call)] {
            assert!(matches!(
                read_bytes(&bytes).unwrap_err(),
                CheckpointError::Pickle { source: PickleError::Import { name }, .. }
                    if name == "os.system"
            ));
        }
    }

    #[test]
    fn views_outside_their_storage_are_refused() {
        for (offset, shape, stride) in [(1, 6, 1), (6, 1, 1), (0, 4, 2), (i64::MAX, 2, i64::MAX)] {
            for file in [zip_view, legacy_view] {
                let problem = tensor_problem(&file(&view(6, offset, &[shape], &[stride])));
                assert!(
                    matches!(problem, TensorError::PastStorage { .. }),
                    "{problem}"
                );
            }
        }
    }

    #[test]
    fn views_that_cannot_be_are_refused() {
        let problem =
            |shape: &[i64], strides: &[i64]| tensor_problem(&zip_view(&view(6, 0, shape, strides)));
        assert!(matches!(
            problem(&[2, 2], &[1, 1]),
            TensorError::Overlap { .. }
        ));
        let max = i64::MAX;
        assert!(matches!(
            problem(&[max, max], &[0, 0]),
            TensorError::TooLarge { .. }
        ));
        assert!(matches!(
            problem(&[2 << 20], &[0]),
            TensorError::Expanded { .. }
        ));
        assert!(matches!(
            only_tensor(&zip_view(&view(6, 0, &[6], &[-1]))),
            Err(CheckpointError::Pickle { .. })
        ));
    }

    #[test]
    fn one_storage_in_many_tensors_is_limited() {
        let many: Vec<Vec<u8>> = (0..100)
            .map(|name| [text(&name.to_string()), view(6, 0, &[20_000], &[0])].concat())
            .collect();
        let pickle = [b"\x80\x02}(", &many.concat()[..], b"u."].concat();
        let bytes = zip_of(&[("a/data.pkl", &pickle), ("a/data/0", &[1, 2, 3, 4, 5, 6])]);
        let file = read_bytes(&bytes).unwrap();
        let error = file.state_dict().unwrap_err();
        assert!(matches!(
            error,
            CheckpointError::Tensor {
                source: TensorError::Expanded { .. },
                ..
            }
        ));
    }

    #[test]
    fn storages_that_are_absent_or_of_another_length_are_refused() {
        let other_length = tensor_problem(&zip_view(&view(7, 0, &[6], &[1])));
        assert!(matches!(
            other_length,
            TensorError::StorageSize {
                numel: 7,
                found_bytes: 6,
                ..
            }
        ));
        let huge = tensor_problem(&zip_view(&view(i64::MAX, 0, &[6], &[1])));
        assert!(matches!(huge, TensorError::StorageSize { .. }));
        let absent = zip_of(&[("a/data.pkl", &dict_of(&view(6, 0, &[6], &[1])))]);
        assert!(matches!(
            tensor_problem(&absent),
            TensorError::NoStorage { key } if key == "0"
        ));
        assert!(matches!(
            read_bytes(&legacy_view(&view(i64::MAX, 0, &[6], &[1]))).unwrap_err(),
            CheckpointError::Legacy {
                part: "length of a storage",
                ..
            }
        ));
    }

    #[test]
    fn a_long_pickle_is_refused_before_it_is_read() {
        let bytes = zip_of(&[("a/data.pkl", &vec![b'N'; MAX_PICKLE_BYTES as usize + 1])]);
        assert!(matches!(
            read_bytes(&bytes).unwrap_err(),
            CheckpointError::Pickle {
                source: PickleError::TooLong { .. },
                ..
            }
        ));
    }
}

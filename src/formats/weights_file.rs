//! Any file of weights as one tree of keys, its tensors still on disk.
//!
//! Four containers store tensors differently but hold the same things: names, tensors, and a few numbers
//! and texts. Importers see only this tree. A file is recognised
//! by its first bytes, since `.bin`, `.ckpt`, `.pth` and `.weights` are ambiguous.
//!
//! - `node`: the tree
//! - `from_pickle`, `from_paths`: the tree of a PyTorch file, and of an HDF5 file
//! - `shards`: one tree out of many files and their index

mod from_paths;
mod from_pickle;
mod node;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tch::Tensor;

pub use self::node::{Node, TensorSlot};
use self::node::{Place, group_text};
use super::CheckpointError;
use super::dtypes::{kind_of_torch, to_torch};
use super::finite::{NotFinite, check_finite};
use super::hdf5::Hdf5File;
use super::host_tensor::HostTensor;
use super::pickle::Value;
use super::pt::{self, PtFile};
use super::safetensors;
use crate::fs::open_regular;

/// First bytes of an HDF5 file.
const HDF5_MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Longest header of a safetensors file, in bytes: the format's own limit.
const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;
/// Bytes that distinguish the kinds of files.
const HEAD_BYTES: u64 = 64;
/// Bytes of a head that an error shows.
const SHOWN_BYTES: usize = 15;

/// Containers of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// A JSON header and raw tensors.
    Safetensors,
    /// `torch.save` of torch 1.6 and later: a zip archive.
    TorchZip,
    /// `torch.save` before torch 1.6: pickles, then raw storages.
    TorchLegacy,
    /// Keras' `.h5` and `.weights`.
    Hdf5,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch file",
            Self::TorchLegacy => "PyTorch file from before 1.6",
            Self::Hdf5 => "HDF5 file",
        })
    }
}

/// An open file of weights, or the open shards of one.
///
/// The list of keys was read; the tensors are mapped (safetensors) or read when
/// [`WeightsFile::tensor`] asks for them.
pub struct WeightsFile {
    /// The file, or the index of its shards.
    pub path: PathBuf,
    /// Its container.
    pub container: Container,
    /// `__metadata__` of a safetensors file; empty for the others.
    pub metadata: BTreeMap<String, String>,
    /// Its contents.
    pub root: Node,
    parts: Vec<Part>,
}

/// One file, opened by its container's reader.
enum Part {
    Safetensors(Vec<Tensor>),
    Pt(PtFile),
    Hdf5(PathBuf, Hdf5File),
}

impl fmt::Debug for WeightsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightsFile")
            .field("path", &self.path)
            .field("container", &self.container)
            .field("root", &self.root.kind())
            .finish_non_exhaustive()
    }
}

impl WeightsFile {
    /// Opens a file of weights: `.safetensors`, anything of `torch.save`, HDF5 of Keras.
    ///
    /// # Errors
    /// If the file cannot be read, is none of these, is damaged, or would run code. Each names the
    /// file.
    pub fn open(path: &Path) -> Result<WeightsFile> {
        Self::open_by(path, pt::read)
    }

    /// Opens a file of weights as [`WeightsFile::open`] does, and a TorchScript archive too: each module in it is a
    /// group of its attributes. The program in it is not looked at.
    ///
    /// # Errors
    /// Those of [`WeightsFile::open`].
    pub fn open_modules(path: &Path) -> Result<WeightsFile> {
        Self::open_by(path, pt::read_modules)
    }

    fn open_by(path: &Path, read_pt: ReadPt) -> Result<WeightsFile> {
        let container = recognise(path)?;
        let (metadata, root, part) = match container {
            Container::Safetensors => open_safetensors(path)?,
            Container::TorchZip | Container::TorchLegacy => open_pt(path, read_pt)?,
            Container::Hdf5 => open_hdf5(path)?,
        };
        Ok(WeightsFile {
            path: path.to_owned(),
            container,
            metadata,
            root,
            parts: vec![part],
        })
    }

    /// Opens the shards that a Hugging Face index (`*.safetensors.index.json`, `*.bin.index.json`)
    /// lists, as one file: the keys of its `weight_map`, in the order of the shards.
    ///
    /// Keys of a shard that the index does not list are left out.
    ///
    /// # Errors
    /// If the index is not of this form, names a file outside its own folder, or a key is not in
    /// the shard it names; and the errors of [`WeightsFile::open`] for each shard.
    pub fn open_shards(index: &Path) -> Result<WeightsFile> {
        shards::open(index)
    }

    /// Keras: all layers of the model in its order, if the file lists them; empty for other files.
    pub fn layers(&self) -> &[String] {
        match self.parts.first() {
            Some(Part::Hdf5(_, file)) => file.layers(),
            _ => &[],
        }
    }

    /// Reads one tensor of this file: on CPU, of its own dtype, contiguous. `name` is for messages.
    ///
    /// Tensors of safetensors files are the file's own pages, shared by all readers:
    /// copy before writing to one.
    ///
    /// # Errors
    /// If the data are missing, damaged or too large for the file; each names file and tensor.
    pub fn tensor(&self, name: &str, slot: &TensorSlot) -> Result<Tensor> {
        match (self.parts.get(slot.part), &slot.place) {
            (Some(Part::Safetensors(tensors)), Place::Mapped(index)) if *index < tensors.len() => {
                Ok(tensors[*index].shallow_clone())
            }
            (Some(Part::Pt(file)), Place::Pickled(tensor)) => Ok(file.tensor(name, tensor)?),
            (Some(Part::Hdf5(path, file)), Place::Dataset(dataset)) => file
                .read(dataset)
                .and_then(|host| to_tensor(&host))
                .with_context(|| format!("cannot read tensor {name:?} from {}", path.display())),
            _ => bail!(
                "tensor {name:?} is not from {}; this is a bug",
                self.path.display()
            ),
        }
    }

    /// Reads all tensors of one group of this file, in its order: a plain `state_dict`.
    ///
    /// # Errors
    /// If the group holds anything but tensors, which the message lists, or one cannot be read.
    pub fn state_dict(&self, group: &Node) -> Result<Vec<(String, Tensor)>> {
        let slots = group.slots().ok_or_else(|| CheckpointError::NotStateDict {
            path: self.path.clone(),
            found: group_text(group),
        })?;
        self.tensors(&slots)
    }

    /// The tensors of this file, at any depth, by their keys joined by dots.
    pub fn all_slots(&self) -> Vec<(String, &TensorSlot)> {
        let mut slots = Vec::new();
        self.root.collect_slots("", &mut slots);
        slots
    }

    /// Reads some tensors of this file, in the order given.
    ///
    /// # Errors
    /// If one cannot be read, or views that share their storages make them much larger than the file.
    pub fn tensors<N: AsRef<str>>(
        &self,
        slots: &[(N, &TensorSlot)],
    ) -> Result<Vec<(String, Tensor)>> {
        let mut total_bytes = vec![0_usize; self.parts.len()];
        for (name, slot) in slots {
            let name = name.as_ref();
            let (Some(Part::Pt(file)), Place::Pickled(tensor)) =
                (self.parts.get(slot.part), &slot.place)
            else {
                continue;
            };
            let total = &mut total_bytes[slot.part];
            *total = total.saturating_add(file.cost_bytes(name, tensor)?);
            file.check_total(name, *total)?;
        }
        let read = |(name, slot): &(N, &TensorSlot)| {
            let name = name.as_ref();
            Ok((name.to_owned(), self.tensor(name, slot)?))
        };
        slots.iter().map(read).collect()
    }
}

impl WeightsFile {
    /// The first `most` tensors with values that are NaN or infinite. Reads the whole file, one tensor at a time;
    /// tensors that cannot be read are passed over.
    pub fn not_finite(&self, most: usize) -> Vec<NotFinite> {
        let mut found = Vec::new();
        let mut total_bytes = vec![0_usize; self.parts.len()];
        self.root.each_tensor("", &mut |name, slot| {
            if found.len() == most || !self.affords(name, slot, &mut total_bytes) {
                return false;
            }
            if let Ok(tensor) = self.tensor(name, slot)
                && let Err(not_finite) = check_finite(name, &tensor)
            {
                found.push(not_finite);
            }
            true
        });
        found
    }

    /// Whether one more tensor may be read: views may share a storage, and then cost more than the file.
    fn affords(&self, name: &str, slot: &TensorSlot, total_bytes: &mut [usize]) -> bool {
        let (Some(Part::Pt(file)), Place::Pickled(tensor)) =
            (self.parts.get(slot.part), &slot.place)
        else {
            return true;
        };
        let Ok(bytes) = file.cost_bytes(name, tensor) else {
            return true;
        };
        let total = &mut total_bytes[slot.part];
        *total = total.saturating_add(bytes);
        file.check_total(name, *total).is_ok()
    }
}

/// A reader of PyTorch files.
type ReadPt = fn(&Path) -> std::result::Result<PtFile, CheckpointError>;
type Opened = (BTreeMap<String, String>, Node, Part);

fn open_safetensors(path: &Path) -> Result<Opened> {
    let file = safetensors::open(path)?;
    let mut entries = Vec::new();
    let mut tensors = Vec::new();
    for (name, tensor) in file.tensors {
        let slot = TensorSlot {
            dtype: to_torch(tensor.kind())
                .with_context(|| format!("tensor {name} of {}: no such dtype", path.display()))?,
            shape: tensor.size(),
            part: 0,
            place: Place::Mapped(tensors.len()),
        };
        entries.push((name, Node::Tensor(slot)));
        tensors.push(tensor);
    }
    let metadata = file.metadata.into_iter().collect();
    Ok((metadata, Node::Group(entries), Part::Safetensors(tensors)))
}

fn open_pt(path: &Path, read: ReadPt) -> Result<Opened> {
    let mut file = read(path)?;
    let value = std::mem::replace(&mut file.root, Value::None);
    let root =
        from_pickle::tree(&value).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((BTreeMap::new(), root, Part::Pt(file)))
}

fn open_hdf5(path: &Path) -> Result<Opened> {
    let open = || {
        let file = Hdf5File::open(path)?;
        let root = from_paths::tree(file.tree())?;
        Ok((BTreeMap::new(), root, Part::Hdf5(path.to_owned(), file)))
    };
    let named: Result<Opened> = open();
    named.with_context(|| format!("cannot read {}", path.display()))
}

fn to_tensor(host: &HostTensor) -> Result<Tensor> {
    let shape: Vec<i64> = host.shape.iter().map(|&n| n as i64).collect();
    let kind = kind_of_torch(host.dtype);
    Ok(Tensor::f_from_data_size(&host.data, &shape, kind)?)
}

/// The container, by the file's first bytes.
fn recognise(path: &Path) -> Result<Container> {
    let mut head = Vec::new();
    open_regular(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if head.starts_with(pt::ZIP_MAGIC) {
        return Ok(Container::TorchZip);
    }
    if head.starts_with(pt::LEGACY_MAGIC) {
        return Ok(Container::TorchLegacy);
    }
    if head.starts_with(HDF5_MAGIC) {
        return Ok(Container::Hdf5);
    }
    if starts_as_safetensors(&head) {
        return Ok(Container::Safetensors);
    }
    let shown: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let first_bytes = shown[..shown.len().min(SHOWN_BYTES)].join(" ");
    Err(CheckpointError::NotWeights {
        path: path.to_owned(),
        first_bytes,
        hint: hint(&head),
    }
    .into())
}

/// The length of a JSON object and its first byte.
fn starts_as_safetensors(head: &[u8]) -> bool {
    head.split_first_chunk().is_some_and(|(length, json)| {
        u64::from_le_bytes(*length) <= MAX_SAFETENSORS_HEADER && json.first() == Some(&b'{')
    })
}

/// The likely kind of a file that is mistaken for weights.
fn hint(head: &[u8]) -> &'static str {
    match head {
        [] => "; it is empty: download it again",
        _ if head.starts_with(b"version https://git-lfs") => {
            "; it is a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file"
        }
        [b'<', ..] => "; it looks like a web page: download the file itself",
        [b'{', ..] => {
            "; it looks like JSON: name the weights, or an index that ends in .index.json"
        }
        [0x80, 2..=5, ..] => {
            "; it looks like a Python pickle that torch.save did not write: load it in Python and \
             save the weights alone: torch.save(model.state_dict(), FILE)"
        }
        _ => "",
    }
}

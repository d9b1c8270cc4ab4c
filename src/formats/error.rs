//! Errors of checkpoint files.

use std::io;
use std::path::PathBuf;

use super::host_tensor::TensorError;
use super::pickle::PickleError;

/// A checkpoint that cannot be read; every message names the file and what to do about it.
///
/// The cause, where there is one, is the error's source: print the chain (`{:#}` with anyhow).
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// An error of the operating system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The checkpoint.
        path: PathBuf,
        /// The attempt: "open", "read".
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Not a container of weights.
    #[error(
        "{} holds no weights that can be read: it starts with [{first_bytes}], wanted a safetensors file, \
         a file of torch.save, or an HDF5 file of Keras{hint}",
        path.display()
    )]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// Its first bytes, in hexadecimal.
        first_bytes: String,
        /// Its likely kind and what to do, after a semicolon; may be empty.
        hint: &'static str,
    },
    /// Neither of the containers that torch writes.
    #[error(
        "{} is not a PyTorch checkpoint: it starts with [{first_bytes}], wanted a zip archive (50 4b 03 04) \
         or the file of torch before 1.6 (80 02 8a 0a); write it with torch.save",
        path.display()
    )]
    NotPt {
        /// The file.
        path: PathBuf,
        /// Its first bytes, in hexadecimal.
        first_bytes: String,
    },
    /// The zip directory is damaged.
    #[error(
        "{} starts as a zip archive but its directory cannot be read; the file is probably cut short: \
         copy or download it again",
        path.display()
    )]
    Zip {
        /// The checkpoint.
        path: PathBuf,
        /// The zip reader's error.
        source: zip::result::ZipError,
    },
    /// Two entries of one name, which readers resolve differently.
    #[error(
        "{} holds two zip entries of the same name, which torch never writes; do not trust this file",
        path.display()
    )]
    DuplicateEntries {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Bytes that belong to two entries: a way to make small files expand.
    #[error(
        "{} holds zip entries that overlap, which torch never writes; do not trust this file",
        path.display()
    )]
    OverlappingEntries {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A zip archive without the one pickle of `torch.save`.
    #[error(
        "{} is a zip archive with {found} entries named <folder>/data.pkl, wanted 1; \
         it was not written by torch.save",
        path.display()
    )]
    NoPickle {
        /// The file.
        path: PathBuf,
        /// Number of such entries.
        found: usize,
    },
    /// A program, not a checkpoint.
    #[error(
        "{} is a TorchScript archive, which holds a program; in Python, save its weights alone: \
         torch.save(dict(torch.jit.load(FILE).state_dict()), OTHER_FILE)",
        path.display()
    )]
    TorchScript {
        /// The file.
        path: PathBuf,
    },
    /// Written on a big-endian machine.
    #[error(
        "{} stores its numbers in byte order {found}, wanted \"little\"; save it again on a little-endian machine",
        path.display()
    )]
    ByteOrder {
        /// The checkpoint.
        path: PathBuf,
        /// Its declared order.
        found: String,
    },
    /// Compressed or encrypted: torch stores entries as they are.
    #[error(
        "{}: zip entry {entry:?} is compressed or encrypted, wanted stored as it is; unpack the archive and \
         pack it with `zip -0`, or write it again with torch.save",
        path.display()
    )]
    NotStored {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the entry.
        entry: String,
    },
    /// Data that the file names but does not contain.
    #[error(
        "{}: {entry:?} should hold {wanted_bytes} bytes from byte {start}, the file has {file_bytes}; \
         it is cut short: copy or download it again",
        path.display()
    )]
    PastEnd {
        /// The checkpoint.
        path: PathBuf,
        /// Zip entry or storage.
        entry: String,
        /// Start of its data.
        start: u64,
        /// Expected length.
        wanted_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// Data changed since they were written.
    #[error(
        "{}: the data of {entry:?} have checksum {found:08x}, wanted {wanted:08x}; \
         the file is damaged: copy or download it again",
        path.display()
    )]
    Checksum {
        /// The checkpoint.
        path: PathBuf,
        /// Zip entry or storage.
        entry: String,
        /// CRC-32 of the data.
        found: u32,
        /// CRC-32 in the zip directory.
        wanted: u32,
    },
    /// The pickle inside is damaged, or no pickle of `torch.save`.
    #[error("cannot read the pickle in {}", path.display())]
    Pickle {
        /// The checkpoint.
        path: PathBuf,
        /// The reason.
        source: PickleError,
    },
    /// A pre-1.6 file whose fixed parts are not as torch writes them.
    #[error(
        "{}: the {part} of this file in the format before torch 1.6 should be {wanted}, found {found}; \
         the file is damaged: copy or download it again",
        path.display()
    )]
    Legacy {
        /// The checkpoint.
        path: PathBuf,
        /// The part.
        part: &'static str,
        /// Torch's bytes there.
        wanted: String,
        /// The bytes found.
        found: String,
    },
    /// A tensor that cannot be read.
    #[error("cannot read tensor {tensor:?} from {}", path.display())]
    Tensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The reason.
        source: TensorError,
    },
    /// libtorch refused to make a tensor, most likely for lack of memory.
    #[error("libtorch cannot make tensor {tensor:?} of {}", path.display())]
    Torch {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// libtorch's error.
        source: tch::TchError,
    },
    /// Weights were expected, but the file has another layout.
    #[error(
        "{}: wanted names and their tensors, found {found}; name the entry that holds the weights, \
         or save that one alone",
        path.display()
    )]
    NotStateDict {
        /// The checkpoint.
        path: PathBuf,
        /// The contents, key by key.
        found: String,
    },
}

//! Errors of NumPy files.

use std::io;
use std::path::PathBuf;

/// A NumPy file that cannot be read; every message names the file and what to do about it.
///
/// The cause, where there is one, is the error's source: print the chain (`{:#}` with anyhow).
#[derive(Debug, thiserror::Error)]
pub enum NpzError {
    /// An error of the operating system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The attempt: "open", "read".
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Neither of NumPy's containers.
    #[error(
        "{} is not a NumPy file: it starts with [{first_bytes}], wanted an archive of np.savez (50 4b 03 04) or a \
         file of np.save (93 4e 55 4d 50 59)",
        path.display()
    )]
    NotNumpy {
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
        /// The file.
        path: PathBuf,
        /// The zip reader's error.
        source: zip::result::ZipError,
    },
    /// Entries of one name, or that share bytes: readers differ on the first, and the second makes small files expand.
    #[error("{} holds zip entries {what}, which NumPy never writes; do not trust this file", path.display())]
    Forged {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        what: &'static str,
    },
    /// No array of this name.
    #[error("{} holds no array {array:?}; it has {found}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// The names that it has.
        found: String,
    },
    /// An entry that is encrypted, packed in a way that NumPy does not use, or damaged.
    #[error(
        "{}: array {array:?} cannot be unpacked; write it again with np.savez or np.savez_compressed",
        path.display()
    )]
    Entry {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// The zip reader's error.
        source: zip::result::ZipError,
    },
    /// An array without the header that NumPy writes.
    #[error("{}: the header of array {array:?} {problem}; write it again with np.save or np.savez", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An element type that is not read.
    #[error(
        "{}: array {array:?} has elements of type {found}, wanted float64, float32, int64, int32, uint8 or text; \
         convert it with .astype",
        path.display()
    )]
    ElementType {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// NumPy's description of the type.
        found: String,
    },
    /// The data are longer or shorter than the shape requires.
    #[error(
        "{}: array {array:?} of shape {shape:?} takes {wanted_bytes} bytes, the file has {found_bytes}; it is \
         damaged or cut short: copy or download it again",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes the shape takes.
        wanted_bytes: u64,
        /// Bytes there.
        found_bytes: u64,
    },
    /// More than the reader asked for, or than the file can hold.
    #[error("{}: array {array:?} takes {bytes} bytes, {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// Bytes it takes, as the file says.
        bytes: u64,
        /// The limit, and whose it is.
        limit: String,
    },
    /// Another shape or type than what is wanted.
    #[error("{}: array {array:?} is {found}, wanted {wanted}", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// Its type and shape.
        found: String,
        /// Those that are wanted.
        wanted: String,
    },
    /// Data that end early, do not unpack, or fail their checksum.
    #[error(
        "{}: the data of array {array:?} are damaged or cut short; copy or download the file again",
        path.display()
    )]
    Data {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        array: String,
        /// The reader's error.
        source: io::Error,
    },
}

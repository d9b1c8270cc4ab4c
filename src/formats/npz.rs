//! NumPy's files: `.npz`, a zip archive of arrays, and `.npy`, one array; statistics and sets of images come in them.
//!
//! Opening a file reads its directory; an array is read when it is asked for ([`NumpyFile::read`]), a set of images
//! some at a time ([`NumpyFile::images`]). Nothing in the file is trusted: sizes are compared with each other and with
//! a limit before memory is taken for them, and of a header only what NumPy writes for plain arrays is understood.
//!
//! The reader is our own: the crate npyz allocates what a header says that it takes and recurses into it without a
//! bound, the crate ndarray-npy wants another version of ndarray and cannot stream, and libtorch's checks nothing.
//!
//! Source: `numpy/lib/format.py` of NumPy 2.4, versions 1.0 to 3.0.

mod error;
mod header;
mod rows;
mod stored;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use ndarray::ArrayD;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

pub use self::error::NpzError;
use self::header::{ElementType, NPY_MAGIC};
pub use self::rows::ImageRows;
use self::stored::Stored;
pub use self::write::write;
use crate::fs::open_regular;
use crate::text::shown;

/// First bytes of a zip archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// What deflate can make of a byte at most: 258 of two bits.
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Most bytes that an image of [`NumpyFile::images`] may take: RGB of 16384 by 16384.
const MAX_IMAGE_BYTES: u64 = 3 << 28;
/// The name of the only array of a `.npy` file, as NumPy calls the first of an archive.
pub const FIRST_ARRAY: &str = "arr_0";

type Result<T> = std::result::Result<T, NpzError>;

/// An array in memory, in C order.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names of the types")]
pub enum Values {
    F64(ArrayD<f64>),
    F32(ArrayD<f32>),
    /// Of int64 or int32.
    I64(ArrayD<i64>),
    U8(ArrayD<u8>),
    /// One text.
    Text(String),
}

impl Values {
    /// The elements as f64, if they are numbers: exact, but for integers beyond 2^53.
    pub fn into_f64(self) -> Option<ArrayD<f64>> {
        match self {
            Self::F64(values) => Some(values),
            Self::F32(values) => Some(values.mapv(f64::from)),
            Self::I64(values) => Some(values.mapv(|value| value as f64)),
            Self::U8(values) => Some(values.mapv(f64::from)),
            Self::Text(_) => None,
        }
    }
}

/// An open file; its arrays are still on disk.
#[derive(Debug)]
pub struct NumpyFile {
    path: PathBuf,
    container: Container,
}

#[derive(Debug)]
enum Container {
    /// An archive, with the names of its arrays and their places in it.
    Npz(Box<ZipArchive<BufReader<File>>>, Vec<(String, usize)>),
    Npy(File),
}

/// Opens a `.npz` or `.npy` file, whatever its name, and reads its directory.
///
/// # Errors
/// If the file cannot be read, is of another kind, or its directory is damaged or forged.
pub fn open(path: &Path) -> Result<NumpyFile> {
    let io = |action| {
        move |source| NpzError::Io {
            path: path.to_owned(),
            action,
            source,
        }
    };
    let file = open_regular(path).map_err(io("open"))?;
    let mut head = Vec::new();
    let magic_bytes = NPY_MAGIC.len() as u64;
    let read = (&file).take(magic_bytes).read_to_end(&mut head);
    read.map_err(io("read"))?;
    let container = if head.starts_with(ZIP_MAGIC) {
        open_archive(path, file)?
    } else if head == NPY_MAGIC {
        Container::Npy(file)
    } else {
        let hex: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(NpzError::NotNumpy {
            path: path.to_owned(),
            first_bytes: hex.join(" "),
        });
    };
    Ok(NumpyFile {
        path: path.to_owned(),
        container,
    })
}

fn open_archive(path: &Path, file: File) -> Result<Container> {
    let zip_error = |source| NpzError::Zip {
        path: path.to_owned(),
        source,
    };
    // Left to look for the archive's start, the zip crate tries each pair of a directory's ends, which can take
    // minutes.
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let archive = ZipArchive::with_config(config, BufReader::new(file));
    let mut archive = archive.map_err(zip_error)?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(zip_error)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let name = name.strip_suffix(".npy").unwrap_or(&name);
        arrays.push((name.to_owned(), index));
    }
    let forged = |what| NpzError::Forged {
        path: path.to_owned(),
        what,
    };
    let mut names: Vec<&String> = arrays.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < arrays.len() || archive.has_duplicate_names() {
        return Err(forged("of the same name"));
    }
    if archive.has_overlapping_entries().map_err(zip_error)? {
        return Err(forged("that overlap"));
    }
    Ok(Container::Npz(Box::new(archive), arrays))
}

impl NumpyFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the arrays, in the order of the file; that of a `.npy` file is [`FIRST_ARRAY`].
    pub fn names(&self) -> Vec<&str> {
        match &self.container {
            Container::Npz(_, arrays) => arrays.iter().map(|(name, _)| name.as_str()).collect(),
            Container::Npy(_) => vec![FIRST_ARRAY],
        }
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names().contains(&name)
    }

    /// Shape of an array, without reading it.
    ///
    /// # Errors
    /// No such array, or one whose header is damaged or of a type that is not read.
    pub fn shape(&mut self, name: &str) -> Result<Vec<usize>> {
        Ok(self.array(name)?.header.shape)
    }

    /// Reads an array of at most `max_bytes` bytes.
    ///
    /// # Errors
    /// No such array, one that is longer, of a type that is not read, damaged or cut short.
    pub fn read(&mut self, name: &str, max_bytes: u64) -> Result<Values> {
        let mut array = self.array(name)?;
        if array.data_bytes > max_bytes {
            return Err(array.too_large(format!("and at most {max_bytes} are wanted here")));
        }
        let values = match array.header.element {
            ElementType::F64 => Values::F64(array.elements(f64::from_le_bytes)?),
            ElementType::F32 => Values::F32(array.elements(f32::from_le_bytes)?),
            ElementType::I64 => Values::I64(array.elements(i64::from_le_bytes)?),
            ElementType::I32 => {
                Values::I64(array.elements(|bytes| i64::from(i32::from_le_bytes(bytes)))?)
            }
            ElementType::U8 => Values::U8(array.elements(|[byte]| byte)?),
            ElementType::Text(_) => Values::Text(array.text()?),
        };
        array.end()?;
        Ok(values)
    }

    /// Begins to read a set of images: an array `[N, H, W, C]` of uint8, C 1 or 3, or `[N, H, W]`, which is grey.
    ///
    /// # Errors
    /// No such array, another shape or type, or one whose header is damaged.
    pub fn images(&mut self, name: &str) -> Result<ImageRows<'_>> {
        let array = self.array(name)?;
        let wanted = "uint8 [N, H, W, C] with C 1 or 3, or [N, H, W]";
        let (count, hwc) = match array.header.shape[..] {
            [n, h, w, c @ (1 | 3)] => (n, [h, w, c]),
            [n, h, w] => (n, [h, w, 1]),
            _ => return Err(array.unexpected(wanted)),
        };
        if array.header.element != ElementType::U8 || hwc.contains(&0) {
            return Err(array.unexpected(wanted));
        }
        if array.header.fortran && count > 1 {
            let order = "in C order (np.ascontiguousarray): these cannot be read one by one";
            return Err(array.unexpected(order));
        }
        // Cannot overflow: the data's length was counted.
        if hwc.iter().product::<usize>() as u64 > MAX_IMAGE_BYTES && count > 0 {
            let limit = format!("and an image may take {MAX_IMAGE_BYTES}");
            return Err(array.too_large(limit));
        }
        Ok(ImageRows {
            array,
            count: count as u64,
            next: 0,
            hwc,
        })
    }

    /// Finds an array and reads its header, which is then known to fit the file.
    fn array(&mut self, name: &str) -> Result<Stored<'_>> {
        let missing = NpzError::Missing {
            path: self.path.clone(),
            array: shown(name),
            found: listed(&self.names()),
        };
        let path = &self.path;
        type Found<'a> = (Box<dyn Read + 'a>, u64, Option<u64>, Option<u64>);
        let (reader, bytes, most, start): Found<'_> = match &mut self.container {
            Container::Npy(file) if name == FIRST_ARRAY => {
                let io = |source| NpzError::Io {
                    path: path.clone(),
                    action: "read",
                    source,
                };
                file.rewind().map_err(io)?;
                let bytes = file.metadata().map_err(io)?.len();
                (Box::new(BufReader::new(file)), bytes, None, Some(0))
            }
            Container::Npz(archive, arrays) if arrays.iter().any(|(found, _)| found == name) => {
                let entry_error = |source| NpzError::Entry {
                    path: path.clone(),
                    array: shown(name),
                    source,
                };
                let found = arrays.iter().find(|(found, _)| found == name);
                let index = found.expect("it is there").1;
                let entry = archive.by_index(index).map_err(entry_error)?;
                let packed = entry.compressed_size();
                let (most, start) = match entry.compression() {
                    CompressionMethod::Stored => (packed, entry.data_start()),
                    _ => (packed.saturating_mul(MAX_DEFLATE_RATIO), None),
                };
                let bytes = entry.size();
                (Box::new(entry), bytes, Some(most), start)
            }
            _ => return Err(missing),
        };
        let mut array = Stored::begin(path, shown(name), reader, bytes, most)?;
        array.start = start.map(|start| start + array.header.bytes);
        Ok(array)
    }
}

/// Names for a message, which a file may have many of.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 8;
    if names.is_empty() {
        return "none".into();
    }
    let mut list: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| format!("{:?}", shown(name)))
        .collect();
    if names.len() > MOST {
        list.push(format!("{} more", names.len() - MOST));
    }
    list.join(", ")
}

//! A file that holds images: read by offsets, from several threads.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use flate2::bufread::MultiGzDecoder;

use crate::formats::npz;
use crate::fs::open_regular;
use crate::text::one_line;

/// Images of an array that are unpacked at a time.
const ROWS: usize = 64;

/// Most bytes that are unpacked of a file whose own length tells nothing better: so many times its length, or
/// [`FREE_BYTES`] if that is more.
const MAX_RATIO: u64 = 64;

/// See [`MAX_RATIO`].
const FREE_BYTES: u64 = 1 << 30;

/// A file that holds images.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    stamp: Stamp,
    unpacked: Option<Unpacked>,
}

/// Length and time of a file, by which a changed one is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) bytes: u64,
    /// Nanoseconds since 1970, negative before.
    pub(super) modified: i128,
}

impl Stamp {
    /// # Errors
    /// A file system without times.
    pub(super) fn of(metadata: &Metadata) -> io::Result<Stamp> {
        let nanos = |duration: Duration| duration.as_nanos() as i128;
        let since_1970 = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH);
        Ok(Stamp {
            bytes: metadata.len(),
            modified: match since_1970 {
                Ok(after) => nanos(after),
                Err(before) => -nanos(before.duration()),
            },
        })
    }
}

/// What is packed as a whole is unpacked into a temporary file without a name, when it is first read.
#[derive(Debug)]
struct Unpacked {
    how: Packed,
    file: OnceLock<Result<File, String>>,
}

/// How a file is packed as a whole.
#[derive(Debug)]
pub(super) enum Packed {
    /// By gzip; so many bytes once unpacked, if that is known.
    Gzip(Option<u64>),
    /// The images of an array of an `.npz` file, as if they were a file of their own.
    Array(String),
}

impl Archive {
    /// A file that is read as it is.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(super) fn plain(path: &Path) -> io::Result<Archive> {
        let stamp = Stamp::of(&open_regular(path)?.metadata()?)?;
        Ok(Archive {
            path: path.to_owned(),
            stamp,
            unpacked: None,
        })
    }

    /// A file whose offsets are those of what it unpacks to.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(super) fn packed(path: &Path, how: Packed) -> io::Result<Archive> {
        let file = OnceLock::new();
        Ok(Archive {
            unpacked: Some(Unpacked { how, file }),
            ..Archive::plain(path)?
        })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length and time of the file when it was opened first.
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The file, unpacked if it is packed.
    ///
    /// # Errors
    /// A file that has changed since it was opened first, or does not unpack; a full disk.
    pub(super) fn open(&self) -> io::Result<File> {
        match &self.unpacked {
            None => self.open_as_it_is(),
            Some(unpacked) => match unpacked.file.get_or_init(|| self.unpack(&unpacked.how)) {
                Ok(file) => file.try_clone(),
                Err(reason) => Err(io::Error::other(reason.clone())),
            },
        }
    }

    /// Fills `bytes` from byte `start` on.
    ///
    /// # Errors
    /// As [`Archive::open`], and a file that ends early.
    pub(super) fn read_at(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.open()?.read_exact_at(bytes, start);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("cut short: the file ends before it"),
            _ => error,
        })
    }

    fn open_as_it_is(&self) -> io::Result<File> {
        let file = open_regular(&self.path)?;
        match Stamp::of(&file.metadata()?)? == self.stamp {
            true => Ok(file),
            false => Err(io::Error::other("the file changed while it was read")),
        }
    }

    fn unpack(&self, how: &Packed) -> Result<File, String> {
        match how {
            Packed::Gzip(wanted) => self.gunzip(*wanted).map_err(|error| one_line(&error)),
            Packed::Array(name) => self.array(name).map_err(|error| one_line(&error)),
        }
    }

    fn gunzip(&self, wanted: Option<u64>) -> io::Result<File> {
        let most = wanted.unwrap_or((self.stamp.bytes.saturating_mul(MAX_RATIO)).max(FREE_BYTES));
        let mut source = gunzip(self.open_as_it_is()?).take(most + 1);
        let mut file = tempfile::tempfile()?;
        let copied = io::copy(&mut source, &mut file);
        let found =
            copied.map_err(|error| io::Error::other(format!("cannot unpack it: {error}")))?;
        match wanted {
            Some(wanted) if found < wanted => Err(io::Error::other(format!(
                "cut short: it unpacks to {found} bytes, and {wanted} are wanted"
            ))),
            _ if found > most => Err(io::Error::other(format!(
                "it unpacks to more than {most} bytes, and no more are wanted"
            ))),
            _ => Ok(file),
        }
    }

    fn array(&self, name: &str) -> anyhow::Result<File> {
        self.open_as_it_is()?;
        let mut file = npz::open(&self.path)?;
        let mut rows = file.images(name)?;
        let mut unpacked = io::BufWriter::new(tempfile::tempfile()?);
        while let Some(images) = rows.next_images(ROWS)? {
            unpacked.write_all(images.as_slice().unwrap_or_default())?;
        }
        Ok(unpacked.into_inner()?)
    }
}

/// Unpacks a gzip file as it is read.
pub(super) fn gunzip(file: File) -> impl Read {
    MultiGzDecoder::new(BufReader::new(file))
}

//! The file on disk, and the places of entries and storages in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Result;
use crate::formats::CheckpointError;
use crate::formats::pickle::PickleError;
use crate::fs::open_regular;

/// Bytes read at a time. They stay in a core's cache from the checksum to the copy; and from 32 KiB
/// on libtorch would copy on all threads, which on a busy machine wait for each other, each time.
const CHUNK_BYTES: usize = 1 << 14;

/// The file on disk.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) file_bytes: u64,
}

/// The place of a zip entry's or a storage's bytes, known to be inside the file.
#[derive(Debug)]
pub(super) struct Extent {
    name: String,
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// CRC-32 of all the bytes, if the file has one.
    crc: Option<u32>,
    /// True once the bytes were found to have that CRC.
    verified: OnceLock<()>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |action, source| CheckpointError::Io {
            path: path.to_owned(),
            action,
            source,
        };
        let file = open_regular(path).map_err(|error| io("open", error))?;
        let metadata = file.metadata().map_err(|error| io("read", error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            file_bytes: metadata.len(),
        })
    }

    pub(super) fn io(&self, action: &'static str, source: io::Error) -> CheckpointError {
        CheckpointError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }

    pub(super) fn pickle(&self, source: PickleError) -> CheckpointError {
        CheckpointError::Pickle {
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn extent(
        &self,
        name: String,
        start: u64,
        bytes: u64,
        crc: Option<u32>,
    ) -> Result<Extent> {
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

    /// Passes part of an extent to `each`, in chunks with their places in the part; the caller has checked
    /// `start + len` against the extent's length.
    ///
    /// A part is read after the whole extent's checksum was verified. If the part is the
    /// whole, the checksum is computed on the way, so that every byte is read once: `each` may have
    /// seen bad bytes when this fails.
    pub(super) fn chunks(
        &self,
        extent: &Extent,
        start: usize,
        len: usize,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let whole = len as u64 == extent.bytes;
        if !whole {
            self.verify(extent)?;
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; len.min(CHUNK_BYTES)];
        let mut at = 0;
        while at < len {
            let chunk = &mut buffer[..(len - at).min(CHUNK_BYTES)];
            self.file
                .read_exact_at(chunk, extent.start + (start + at) as u64)
                .map_err(|error| self.io("read", error))?;
            if whole && extent.crc.is_some() {
                hasher.update(chunk);
            }
            each(at, chunk)?;
            at += chunk.len();
        }
        match extent.crc {
            Some(wanted) if whole => self.compare(extent, hasher.finalize(), wanted),
            _ => Ok(()),
        }
    }

    /// Reads part of an extent; the caller has checked `start + len` against its length.
    pub(super) fn slice(&self, extent: &Extent, start: usize, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| self.io("read", io::ErrorKind::OutOfMemory.into()))?;
        self.chunks(extent, start, len, |_, chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(bytes)
    }

    pub(super) fn whole(&self, extent: &Extent) -> Result<Vec<u8>> {
        self.slice(extent, 0, extent.bytes as usize)
    }

    /// Verifies an extent's checksum, once, without keeping its bytes.
    fn verify(&self, extent: &Extent) -> Result<()> {
        if extent.crc.is_none() || extent.verified.get().is_some() {
            return Ok(());
        }
        self.chunks(extent, 0, extent.bytes as usize, |_, _| Ok(()))
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

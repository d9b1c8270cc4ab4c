//! Bounded reads from a file that may lie about its structure.
//!
//! In a sound file no two structures overlap, so all of them together are no longer than the file,
//! and each is read once. Reading more than that means reading in circles: the budget stops it
//! before memory or time runs out.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fs_err::File;

use crate::fs::open_regular;

/// An open file with its length, and the bytes of structure that may still be read.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    len: u64,
    budget: u64,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source> {
        let file = open_regular(path).with_context(|| format!("cannot open {}", path.display()))?;
        let file = File::from_parts(file, path);
        let len = file.metadata()?.len();
        Ok(Source {
            file,
            len,
            budget: len,
        })
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that describe the file's structure, `len` of them from `at`.
    pub(super) fn structure(&mut self, at: u64, len: u64) -> Result<Vec<u8>> {
        self.charge(len)?;
        self.bytes(at, len)
    }

    /// Counts bytes that are kept in memory against the length of the file.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => bail!(
                "its structures overlap: they take more than the {} bytes of the file; it is damaged",
                self.len
            ),
        }
        Ok(())
    }

    /// `len` bytes from `at`.
    pub(super) fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let end = at.checked_add(len).filter(|&end| end <= self.len);
        ensure!(
            end.is_some(),
            "bytes {at} to {at} + {len} were wanted, the file has {}; it is damaged or cut short",
            self.len
        );
        let mut bytes = vec![0; usize::try_from(len)?];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Reads little-endian numbers from the front of a structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = (self.0)
            .split_at_checked(len)
            .with_context(|| format!("{len} bytes were wanted, {} are left", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, len: usize) -> Result<()> {
        self.take(len).map(|_| ())
    }

    /// Reads the bytes that a structure of this kind begins with.
    pub(super) fn expect(&mut self, wanted: &[u8], what: &str) -> Result<()> {
        let found = self.take(wanted.len())?;
        ensure!(
            found == wanted,
            "{what} begins with {found:02x?}, want {wanted:02x?}; the file is damaged"
        );
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }
}

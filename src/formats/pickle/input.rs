//! The bytes of a pickle, read within its length limit.

use std::io::{self, Read};
use std::sync::Arc;

use super::error::{PickleError, Result};

/// Longest pickle that is read: a thousand tensors take about 200 kB.
pub(in crate::formats) const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// Longest module, class or storage name.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// The bytes of the pickle, counted.
pub(super) struct Input<'a> {
    pub(super) reader: &'a mut dyn Read,
    pub(super) at: u64,
}

impl Input<'_> {
    pub(super) fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > MAX_PICKLE_BYTES - self.at {
            return Err(PickleError::TooLong {
                limit: MAX_PICKLE_BYTES,
            });
        }
        let mut bytes = Vec::new();
        let read = (&mut *self.reader).take(len).read_to_end(&mut bytes);
        self.at += bytes.len() as u64;
        match read {
            Err(source) => Err(PickleError::Io {
                at: self.at,
                source,
            }),
            Ok(found) if (found as u64) < len => Err(PickleError::Truncated { at: self.at }),
            Ok(_) => Ok(bytes),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        if N as u64 > MAX_PICKLE_BYTES - self.at {
            return Err(PickleError::TooLong {
                limit: MAX_PICKLE_BYTES,
            });
        }
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => PickleError::Truncated { at: self.at },
                _ => PickleError::Io {
                    at: self.at,
                    source,
                },
            })?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn int32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The length in front of a long text or of long bytes.
    pub(super) fn int64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn utf8(&mut self, bytes: Vec<u8>) -> Result<String> {
        String::from_utf8(bytes).map_err(|error| PickleError::NotUtf8 {
            at: self.at,
            source: error.utf8_error(),
        })
    }

    pub(super) fn text(&mut self, len: u64) -> Result<Arc<str>> {
        let bytes = self.bytes(len)?;
        Ok(self.utf8(bytes)?.into())
    }

    pub(super) fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return self.utf8(bytes),
                _ if bytes.len() == MAX_NAME_BYTES => {
                    return Err(self.malformed("a module or class name of at most 256 bytes"));
                }
                byte => bytes.push(byte),
            }
        }
    }

    /// A little-endian two's complement integer of `len` bytes, of which none mean 0; `None` if it takes more than 64
    /// bits.
    pub(super) fn long(&mut self, len: u64) -> Result<Option<i64>> {
        let bytes = self.bytes(len)?;
        if bytes.len() > 8 {
            return Ok(None);
        }
        let negative = bytes.last().is_some_and(|&top| top >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        Ok(Some(i64::from_le_bytes(wide)))
    }

    pub(super) fn malformed(&self, wanted: &'static str) -> PickleError {
        PickleError::Malformed {
            at: self.at,
            wanted,
        }
    }
}

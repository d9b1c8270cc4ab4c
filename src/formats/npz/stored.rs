//! An array of a file that is read from its first byte to its last.

use std::io::{self, Read};
use std::path::Path;

use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use super::header::{ElementType, Header, Problem};
use super::{NpzError, Result};
use crate::text::shown;

/// Bytes that are unpacked at a time; a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 16;
/// Longest text, in characters.
const MAX_TEXT_CHARS: usize = 4096;

/// An array whose header was read, at the first byte of its data.
pub(super) struct Stored<'a> {
    path: &'a Path,
    name: String,
    pub(super) header: Header,
    pub(super) data_bytes: u64,
    /// Where the data begin in the file, if they are not packed.
    pub(super) start: Option<u64>,
    reader: Box<dyn Read + 'a>,
}

impl std::fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("name", &self.name)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<'a> Stored<'a> {
    /// Reads the header. `bytes`: header and data by the file's account; `most`: what the packed bytes can unpack to.
    pub(super) fn begin(
        path: &'a Path,
        name: String,
        mut reader: Box<dyn Read + 'a>,
        bytes: u64,
        most: Option<u64>,
    ) -> Result<Self> {
        let header = Header::read(&mut reader).map_err(|problem| match problem {
            Problem::Io(source) => NpzError::Data {
                path: path.to_owned(),
                array: name.clone(),
                source,
            },
            Problem::Text(problem) => NpzError::Header {
                path: path.to_owned(),
                array: name.clone(),
                problem,
            },
            Problem::ElementType(found) => NpzError::ElementType {
                path: path.to_owned(),
                array: name.clone(),
                found: shown(&found),
            },
        })?;
        let wanted_bytes = header.data_bytes();
        let found_bytes = bytes.saturating_sub(header.bytes);
        if wanted_bytes != Some(found_bytes) {
            return Err(NpzError::Length {
                path: path.to_owned(),
                array: name,
                shape: header.shape,
                wanted_bytes: wanted_bytes.unwrap_or(u64::MAX),
                found_bytes,
            });
        }
        let array = Self {
            path,
            name,
            header,
            data_bytes: found_bytes,
            start: None,
            reader,
        };
        match most {
            Some(most) if bytes > most => {
                let limit = format!("which the {most} that its packed bytes can hold at most deny");
                Err(array.too_large(limit))
            }
            _ => Ok(array),
        }
    }

    /// Reads all elements; `decode` takes little-endian bytes.
    pub(super) fn elements<T: Clone, const B: usize>(
        &mut self,
        decode: impl Fn([u8; B]) -> T,
    ) -> Result<ArrayD<T>> {
        let count = self.data_bytes as usize / B;
        let mut values = Vec::new();
        values
            .try_reserve_exact(count)
            .map_err(|_| self.damaged(io::ErrorKind::OutOfMemory.into()))?;
        let mut chunk = vec![0; CHUNK_BYTES.min(count * B)];
        while values.len() < count {
            let bytes = chunk.len().min((count - values.len()) * B);
            self.fill(&mut chunk[..bytes])?;
            let elements = chunk[..bytes].as_chunks::<B>().0;
            values.extend(elements.iter().map(|&element| {
                let mut element = element;
                if self.header.big_endian {
                    element.reverse();
                }
                decode(element)
            }));
        }
        let shape = IxDyn(&self.header.shape).set_f(self.header.fortran);
        let array =
            ArrayD::from_shape_vec(shape, values).expect("as many elements as the shape says");
        Ok(match self.header.fortran {
            true => array.as_standard_layout().into_owned(),
            false => array,
        })
    }

    /// Reads one text.
    pub(super) fn text(&mut self) -> Result<String> {
        let chars = match self.header.element {
            ElementType::Text(chars)
                if chars <= MAX_TEXT_CHARS && self.header.shape.iter().all(|&n| n == 1) =>
            {
                chars
            }
            _ => {
                return Err(
                    self.unexpected(&format!("one text of at most {MAX_TEXT_CHARS} characters"))
                );
            }
        };
        // As numbers of characters, four bytes each.
        let mut bytes = vec![0; chars * 4];
        self.fill(&mut bytes)?;
        let char = |element: &[u8; 4]| match self.header.big_endian {
            true => u32::from_be_bytes(*element),
            false => u32::from_le_bytes(*element),
        };
        let codes = bytes.as_chunks::<4>().0.iter().map(char);
        let text: Option<String> = codes.map(char::from_u32).collect();
        let text = text.ok_or_else(|| self.unexpected("text of valid characters"))?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let read = self.reader.read_exact(bytes);
        read.map_err(|source| self.damaged(source))
    }

    /// Checks that nothing follows; the checksum is compared there.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged(io::Error::other("more data than its header says"))),
            Err(source) => Err(self.damaged(source)),
        }
    }

    fn damaged(&self, source: io::Error) -> NpzError {
        NpzError::Data {
            path: self.path.to_owned(),
            array: self.name.clone(),
            source,
        }
    }

    pub(super) fn too_large(&self, limit: String) -> NpzError {
        NpzError::TooLarge {
            path: self.path.to_owned(),
            array: self.name.clone(),
            bytes: self.data_bytes,
            limit,
        }
    }

    pub(super) fn unexpected(&self, wanted: &str) -> NpzError {
        let order = if self.header.fortran {
            " in Fortran order"
        } else {
            ""
        };
        NpzError::Unexpected {
            path: self.path.to_owned(),
            array: self.name.clone(),
            found: format!("{} {:?}{order}", self.header.element, self.header.shape),
            wanted: wanted.to_owned(),
        }
    }
}

//! An image of a data set before it is decoded: a file, a member of an archive, or a record of bare pixels.
//!
//! The name of a member is only a name: it is never opened as a path.

use std::ffi::OsString;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::DeflateDecoder;
use image::{DynamicImage, GrayImage, RgbImage};

use super::archive::Archive;
use super::budget::Capped;

/// What deflate can make of a byte at most: 258 of two bits.
pub(super) const MAX_DEFLATE_RATIO: u64 = 1032;

/// Length of a member's header in a zip archive, before its name.
const ZIP_HEADER_BYTES: usize = 30;

/// An image of a data set, not yet decoded.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name in lists, in whatever encoding: that of its source if there are several, and its path below it.
    pub(crate) name: Box<[u8]>,
    /// Where in the name the path below the source begins.
    pub(crate) below: usize,
    /// The number of its source, from 0.
    pub(crate) source: u32,
    pub(crate) place: Place,
    /// Its class, where the source itself says it.
    pub(crate) label: Option<Box<str>>,
}

impl Entry {
    /// An image of a source, by its path below that.
    pub(super) fn new(name: &[u8], place: Place) -> Entry {
        Entry {
            name: name.into(),
            below: 0,
            source: 0,
            place,
            label: None,
        }
    }

    /// The path below its source.
    pub(super) fn path_below(&self) -> &[u8] {
        &self.name[self.below..]
    }

    /// A path that shows where it is.
    pub(super) fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) => path.clone(),
            Place::Member(Member { archive, .. }) | Place::Pixels(Pixels { archive, .. }) => {
                let mut path = archive.path().as_os_str().as_encoded_bytes().to_vec();
                path.push(b'/');
                path.extend(self.path_below());
                OsString::from_vec(path).into()
            }
        }
    }
}

/// Where the bytes of an image are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A file of its own.
    File(PathBuf),
    /// An image file within another file.
    Member(Member),
    /// Pixels without a header.
    Pixels(Pixels),
}

impl Place {
    /// The file that holds it.
    pub(super) fn file(&self) -> &Path {
        match self {
            Place::File(path) => path,
            Place::Member(Member { archive, .. }) | Place::Pixels(Pixels { archive, .. }) => {
                archive.path()
            }
        }
    }

    /// Length of the image file, or of the pixels, bytes.
    ///
    /// # Errors
    /// No such file, or something that is none: opening a pipe could wait for ever.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        match self {
            Place::File(path) => match fs_err::metadata(path)? {
                metadata if metadata.is_file() => Ok(metadata.len()),
                _ => Err(io::Error::other("not a file")),
            },
            Place::Member(member) => Ok(member.bytes),
            Place::Pixels(pixels) => Ok(pixels.bytes() as u64),
        }
    }

    /// Memory that [`Place::contents`] takes, bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        match self {
            Place::File(_) => 0,
            Place::Member(member) => match member.packing {
                Packing::None => member.bytes,
                Packing::Deflate => member.bytes + member.packed_bytes,
            },
            Place::Pixels(pixels) => pixels.bytes() as u64,
        }
    }

    /// The image file: a file opened, or a member read and unpacked.
    ///
    /// # Errors
    /// A file that cannot be opened; a member that is damaged; bare pixels.
    pub(super) fn contents(&self) -> io::Result<Contents> {
        match self {
            Place::File(path) => {
                let file = fs_err::File::open(path)?;
                let bytes = file.metadata()?.len();
                Ok(Contents::File(file, bytes))
            }
            Place::Member(member) => Ok(Contents::Memory(member.read()?)),
            Place::Pixels(_) => Err(io::Error::other("not an image file")),
        }
    }
}

/// An image file, to be read from its start any number of times.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Only so many bytes of it count.
    File(fs_err::File, u64),
    Memory(Vec<u8>),
}

impl Contents {
    /// Length, bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Contents::File(_, bytes) => *bytes,
            Contents::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// The bytes from the first.
    pub(super) fn reader(&self) -> io::Result<BufReader<ContentsReader<'_>>> {
        let mut reader = match self {
            Contents::File(file, bytes) => ContentsReader::File(Capped::new(file, *bytes)),
            Contents::Memory(bytes) => ContentsReader::Memory(Cursor::new(bytes)),
        };
        reader.rewind()?;
        Ok(BufReader::new(reader))
    }
}

/// Reads [`Contents`].
#[derive(Debug)]
pub(crate) enum ContentsReader<'a> {
    File(Capped<&'a fs_err::File>),
    Memory(Cursor<&'a [u8]>),
}

impl Read for ContentsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for ContentsReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Memory(bytes) => bytes.seek(to),
        }
    }
}

/// A member of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) archive: Arc<Archive>,
    pub(crate) start: Start,
    pub(crate) packed_bytes: u64,
    /// Once unpacked.
    pub(crate) bytes: u64,
    pub(crate) packing: Packing,
    /// Checksum of the unpacked bytes, if there is one.
    pub(crate) crc32: Option<u32>,
}

/// Where a member begins in its archive, bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// Its bytes.
    Data(u64),
    /// Its header, in a zip archive; the bytes follow.
    ZipHeader(u64),
}

/// How a member is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Deflate,
}

impl Member {
    /// Reads and unpacks it.
    ///
    /// # Errors
    /// An archive that has changed or ends early; bytes that do not unpack to the length and checksum declared.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let start = match self.start {
            Start::Data(start) => start,
            Start::ZipHeader(header) => self.after_header(header)?,
        };
        let mut packed = room(self.packed_bytes)?;
        packed.resize(self.packed_bytes as usize, 0);
        self.archive.read_at(start, &mut packed)?;
        let bytes = match self.packing {
            Packing::None => packed,
            Packing::Deflate => inflate(&packed, self.bytes)?,
        };
        match self.crc32 {
            Some(wanted) if crc32fast::hash(&bytes) != wanted => {
                Err(io::Error::other("damaged: its checksum differs"))
            }
            _ => Ok(bytes),
        }
    }

    /// Where the bytes begin after a zip header, which has a name and other fields of its own.
    fn after_header(&self, at: u64) -> io::Result<u64> {
        let mut header = [0; ZIP_HEADER_BYTES];
        self.archive.read_at(at, &mut header)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(io::Error::other(
                "damaged: there is no member where the archive's directory says",
            ));
        }
        let length = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        Ok(at + ZIP_HEADER_BYTES as u64 + length(26) + length(28))
    }
}

/// Unpacks exactly `bytes` bytes.
fn inflate(packed: &[u8], bytes: u64) -> io::Result<Vec<u8>> {
    let most = (packed.len() as u64).saturating_mul(MAX_DEFLATE_RATIO);
    if bytes > most {
        return Err(io::Error::other(format!(
            "forged: {} packed bytes cannot hold the {bytes} that it declares",
            packed.len()
        )));
    }
    let mut unpacked = room(bytes)?;
    // A byte more shows that there are more.
    let read = DeflateDecoder::new(packed)
        .take(bytes + 1)
        .read_to_end(&mut unpacked);
    read.map_err(|error| io::Error::other(format!("damaged: {error}")))?;
    match unpacked.len() as u64 {
        found if found == bytes => Ok(unpacked),
        found if found > bytes => Err(io::Error::other(format!(
            "forged: it unpacks to more than the {bytes} bytes that it declares"
        ))),
        found => Err(io::Error::other(format!(
            "cut short: it unpacks to {found} bytes of the {bytes} that it declares"
        ))),
    }
}

/// An empty buffer for so many bytes and one more.
fn room(bytes: u64) -> io::Result<Vec<u8>> {
    let mut room = Vec::new();
    let wanted = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    room.try_reserve_exact(wanted)
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    Ok(room)
}

/// The pixels of an image, bytes of a file without a header of their own.
#[derive(Debug, Clone)]
pub(crate) struct Pixels {
    pub(crate) archive: Arc<Archive>,
    /// The first byte.
    pub(crate) start: u64,
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) order: PixelOrder,
}

/// How the values of an image follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PixelOrder {
    /// `[H, W]`.
    Grey,
    /// `[H, W, 3]`.
    Rgb,
    /// `[3, H, W]`.
    RgbPlanes,
}

impl Pixels {
    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        let channels = match self.order {
            PixelOrder::Grey => 1,
            PixelOrder::Rgb | PixelOrder::RgbPlanes => 3,
        };
        self.height as usize * self.width as usize * channels
    }

    /// Reads them.
    ///
    /// # Errors
    /// A file that has changed, ends early, or cannot be unpacked.
    pub(super) fn read(&self) -> io::Result<DynamicImage> {
        let mut bytes = vec![0; self.bytes()];
        self.archive.read_at(self.start, &mut bytes)?;
        let (width, height) = (self.width, self.height);
        let image = match self.order {
            PixelOrder::Grey => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
            PixelOrder::Rgb => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
            PixelOrder::RgbPlanes => {
                let plane = bytes.len() / 3;
                let value = |i: usize| bytes[i % 3 * plane + i / 3];
                let values = (0..bytes.len()).map(value).collect();
                RgbImage::from_raw(width, height, values).map(DynamicImage::from)
            }
        };
        image.ok_or_else(|| io::Error::other("no pixels"))
    }
}

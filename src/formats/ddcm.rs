//! `.ddcm` files: images as the codebook indices that DDCM chose.
//!
//! With the model, the images can be decoded: the reverse process is run with the codebook entries
//! of the indices ([`Codebook`](crate::sample::Codebook) defines the entries). They are reproduced
//! as exactly as the network's arithmetic repeats itself: across devices, up to rounding.
//!
//! # Format, version 1
//!
//! *varint* is an unsigned LEB128 number: seven bits a byte, least significant first, the top bit set on
//! all bytes but the last. It MUST fit 64 bits and MUST be as short as possible. There is nothing
//! between the fields, and nothing after the checksum.
//!
//! | field | form | content |
//! |---|---|---|
//! | magic | 4 bytes | `DDCM` in ASCII |
//! | version | 1 byte | 1; a reader MUST refuse what it does not know |
//! | flags | 1 byte | bit 0: indices of x_T are stored; bit 1: those of the last step are; other bits MUST be 0 |
//! | model | 32 bytes | BLAKE3 of the weights and settings; decoding with other ones gives other images |
//! | settings | varint n, n bytes | what else changes decoding, in the words of the program; UTF-8 without control characters, n at most 1024 |
//! | T | varint | time steps of the model, 1 to 2^20 |
//! | steps | see below | the time steps t that are visited, S of them |
//! | log2 K | 1 byte | bits of an index, 1 to 16 |
//! | seed | varint | of the codebooks |
//! | C, H, W | 3 varints | shape of an image, each at least 1, at most 2^28 values together |
//! | N | varint | number of images, at least 1 |
//! | indices | bytes | see below |
//! | checksum | 8 bytes | the first 8 of BLAKE3 of everything before |
//!
//! **Steps** are in the order of sampling, each MUST be below the one before, and all below T. One byte
//! says the form. 0: four varints S, a, b, c, and t_i = floor((a - b i) / c) for i = 0..S; no numerator is
//! negative. 1: varints S, t_0 and S - 1 differences t_i - t_{i+1}. A writer SHOULD take the shorter one.
//!
//! **Indices**: codebook step 0 is x_T's, 1..=S are the reverse steps in the order of sampling. Where bit 0
//! of the flags is clear, x_T is entry 0; where bit 1 is clear, the last reverse step adds no noise. There
//! MUST be at least one index an image. They are numbers of log2 K bits, first by image, then by step, with
//! no gaps: number j takes bits j log2 K .. (j + 1) log2 K, where bit i is bit i % 8 of byte i / 8, counted
//! from the least significant, and a number's least significant bit comes first. Bits left over in the
//! last byte MUST be 0. All indices together MUST NOT take more than 2^28 bytes; what comes before them says
//! how many there are, and so how long the file is.
//!
//! Source of the method: Ohayon et al. 2025, section 3 <https://arxiv.org/abs/2502.01189>

mod bits;
mod error;
mod fields;
mod header;
mod time_steps;

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

pub use error::DdcmError;
pub use header::DdcmHeader;

use crate::fs::{open_regular, write_bytes};
use fields::Fields;

const MAGIC: &[u8; 4] = b"DDCM";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Most bytes of indices: 100,000 images of 1000 steps with K = 65536 take three quarters of that.
const MAX_INDICES_BYTES: u64 = 1 << 28;
/// Longest file: what comes before the indices is at most 2^20 steps of 3 bytes and a few fields.
const MAX_FILE_BYTES: u64 = MAX_INDICES_BYTES + (1 << 22);

/// Images as indices, with the settings to decode them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddcm {
    header: DdcmHeader,
    images: usize,
    /// Packed as in the file.
    indices: Vec<u8>,
}

/// Size of images, in bits per pixel (a place, whatever its channels).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BitsPerPixel {
    /// The indices alone, as in papers.
    pub indices: f64,
    /// All of the file.
    pub file: f64,
}

impl Ddcm {
    /// Packs the indices of some images, each in the order of
    /// [`codebook_steps`](DdcmHeader::codebook_steps).
    ///
    /// # Errors
    /// A header outside the format's limits, no image or too many, a number of indices other than the header's,
    /// an index not below K.
    pub fn new(header: DdcmHeader, images: &[Vec<u32>]) -> Result<Ddcm, DdcmError> {
        header.check()?;
        let wanted = header.indices_per_image();
        if let Some(other) = images.iter().find(|image| image.len() != wanted) {
            return Err(DdcmError::malformed(format!(
                "an image of {} indices, wanted {wanted} by its header",
                other.len()
            )));
        }
        let all = || images.iter().flatten().copied();
        if let Some(index) = all().find(|index| *index >= header.codebook_size) {
            return Err(DdcmError::malformed(format!(
                "index {index} into a codebook of {} entries",
                header.codebook_size
            )));
        }
        indices_bytes(&header, images.len() as u64)?;
        Ok(Ddcm {
            indices: bits::pack(all(), header.index_bits()),
            images: images.len(),
            header,
        })
    }

    /// Properties common to all images.
    pub fn header(&self) -> &DdcmHeader {
        &self.header
    }

    /// Number of images, at least 1.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The indices of one image, in the order of [`codebook_steps`](DdcmHeader::codebook_steps); all are
    /// below K.
    ///
    /// # Panics
    /// `image` is not below [`images`](Ddcm::images).
    pub fn indices(&self, image: usize) -> Vec<u32> {
        assert!(image < self.images, "image {image} of {}", self.images);
        let count = self.header.indices_per_image();
        let numbers = image * count..(image + 1) * count;
        bits::unpack(&self.indices, numbers, self.header.index_bits())
    }

    /// Size of the images in bits per pixel.
    pub fn bits_per_pixel(&self) -> BitsPerPixel {
        let [_, h, w] = self.header.chw;
        let pixels = self.images as f64 * h as f64 * w as f64;
        let per_image = self.header.indices_per_image() * self.header.index_bits() as usize;
        BitsPerPixel {
            indices: (per_image * self.images) as f64 / pixels,
            file: self.to_bytes().len() as f64 * 8.0 / pixels,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &[VERSION]].concat();
        self.header.push_to(&mut bytes);
        fields::push_varint(&mut bytes, self.images as u64);
        bytes.extend(&self.indices);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        bytes
    }
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// Disk full, folder not writable, …; an older file at `path` stays as it was.
pub fn write(path: &Path, ddcm: &Ddcm) -> Result<()> {
    write_bytes(path, &ddcm.to_bytes())
}

/// Reads a file, taking memory in proportion to its length.
///
/// # Errors
/// A missing file, or a [`DdcmError`], which the error can be downcast to; each names the file.
pub fn read(path: &Path) -> Result<Ddcm> {
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    // One byte more than allowed shows that a file is too long.
    open_regular(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .with_context(cannot)?;
    from_bytes(&bytes).with_context(cannot)
}

/// The checksum is not checked first: a newer version may have another, and a truncated file has none.
fn from_bytes(bytes: &[u8]) -> Result<Ddcm, DdcmError> {
    let shared = bytes.len().min(MAGIC.len());
    if bytes[..shared] != MAGIC[..shared] {
        return Err(DdcmError::not_ddcm(bytes));
    }
    if let Some(&version) = bytes.get(MAGIC.len()).filter(|version| **version > VERSION) {
        return Err(DdcmError::Newer { version });
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(DdcmError::malformed(format!(
            "longer than {MAX_FILE_BYTES} bytes"
        )));
    }
    let intact = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(before, found)| checksum(before) == *found);
    match parse(bytes) {
        Ok(_) | Err(DdcmError::Malformed { .. }) if !intact => Err(DdcmError::Altered),
        parsed => parsed,
    }
}

fn parse(bytes: &[u8]) -> Result<Ddcm, DdcmError> {
    let mut fields = Fields::new(bytes, MAGIC.len());
    let version = fields.u8()?;
    if version != VERSION {
        return Err(DdcmError::malformed(format!(
            "version {version}, want {VERSION}"
        )));
    }
    let header = DdcmHeader::parse(&mut fields)?;
    let images = fields.varint()?;
    let length = indices_bytes(&header, images)?;
    let end = fields.position() + length + CHECKSUM_BYTES;
    if end > bytes.len() {
        return Err(DdcmError::Truncated {
            found_bytes: bytes.len(),
            wanted: format!("{end}"),
        });
    }
    if end < bytes.len() {
        return Err(DdcmError::Trailing {
            bytes: bytes.len() - end,
        });
    }
    let indices = fields.take(length)?.to_vec();
    let used_bits = images as usize * header.indices_per_image() * header.index_bits() as usize;
    if !bits::rest_is_zero(&indices, used_bits) {
        return Err(DdcmError::malformed(
            "bits are set after the last index".into(),
        ));
    }
    Ok(Ddcm {
        header,
        images: images as usize,
        indices,
    })
}

/// Bytes of all indices: at least one image, and no more than a file may hold.
fn indices_bytes(header: &DdcmHeader, images: u64) -> Result<usize, DdcmError> {
    let per_image = header.indices_per_image() as u64 * u64::from(header.index_bits());
    let bytes = images
        .checked_mul(per_image)
        .map(|bits| bits.div_ceil(8))
        .filter(|bytes| (1..=MAX_INDICES_BYTES).contains(bytes));
    bytes.map(|bytes| bytes as usize).ok_or_else(|| {
        DdcmError::malformed(format!(
            "{images} images of {per_image} bits, want 1 or more, at most {MAX_INDICES_BYTES} bytes together"
        ))
    })
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

#[cfg(test)]
mod tests;

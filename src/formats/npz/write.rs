//! Writes arrays as `np.savez` does.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use ndarray::ArrayD;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Values;
use super::header::{ElementType, Header};
use crate::fs::write_atomic;

/// From this size on an entry has 64-bit lengths.
const LARGE_BYTES: usize = u32::MAX as usize;

/// Writes a `.npz` file of these arrays, whole or not at all; equal arrays are equal bytes.
///
/// # Errors
/// If the file cannot be written; the error names it.
///
/// # Panics
/// With two arrays of one name.
pub fn write(path: &Path, arrays: &[(&str, Values)]) -> Result<()> {
    write_atomic(path, |file| {
        let mut archive = ZipWriter::new(io::BufWriter::new(file.as_file_mut()));
        for (name, values) in arrays {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .large_file(values.data_bytes() >= LARGE_BYTES);
            archive.start_file(format!("{name}.npy"), options)?;
            values.write(&mut archive)?;
        }
        Ok(archive.finish()?.flush()?)
    })
}

impl Values {
    fn data_bytes(&self) -> usize {
        match self {
            Self::F64(values) => values.len() * 8,
            Self::F32(values) => values.len() * 4,
            Self::I64(values) => values.len() * 8,
            Self::U8(values) => values.len(),
            Self::Text(text) => text.len() * 4,
        }
    }

    fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        match self {
            Self::F64(values) => elements(writer, ElementType::F64, values, f64::to_le_bytes),
            Self::F32(values) => elements(writer, ElementType::F32, values, f32::to_le_bytes),
            Self::I64(values) => elements(writer, ElementType::I64, values, i64::to_le_bytes),
            Self::U8(values) => elements(writer, ElementType::U8, values, |byte| [byte]),
            Self::Text(text) => {
                let chars: Vec<u32> = text.chars().map(u32::from).collect();
                // NumPy has no text of no characters.
                let text_type = ElementType::Text(chars.len().max(1));
                writer.write_all(&Header::write(text_type, &[]))?;
                let padding = chars.is_empty().then_some(0);
                let mut codes = chars.into_iter().chain(padding);
                codes.try_for_each(|code| writer.write_all(&code.to_le_bytes()))
            }
        }
    }
}

fn elements<T: Copy, const B: usize>(
    writer: &mut impl Write,
    element: ElementType,
    values: &ArrayD<T>,
    encode: impl Fn(T) -> [u8; B],
) -> io::Result<()> {
    writer.write_all(&Header::write(element, values.shape()))?;
    // In C order, whatever the order in memory; gathered, since the archive takes a checksum of each write.
    let mut chunk = Vec::with_capacity(1 << 16);
    for value in values {
        chunk.extend_from_slice(&encode(*value));
        if chunk.len() >= 1 << 16 {
            writer.write_all(&chunk)?;
            chunk.clear();
        }
    }
    writer.write_all(&chunk)
}

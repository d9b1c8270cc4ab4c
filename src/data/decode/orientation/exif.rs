//! The orientation in Exif, a TIFF file without an image.

use image::metadata::Orientation;

/// What begins Exif in an APP1 segment.
pub(super) const PREFIX: &[u8] = b"Exif\0\0";

const ORIENTATION: u16 = 0x0112;

/// Reads the first directory: a count, then entries of tag, type, number of values, and the values or their place.
///
/// As BYTE, SHORT or LONG, whichever the writer chose.
pub(super) fn orientation(tiff: &[u8]) -> Option<Orientation> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| {
        let bytes = tiff.get(at..at.checked_add(length)?)?;
        let shift = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        Some(match little {
            true => bytes.iter().rev().fold(0, shift),
            false => bytes.iter().fold(0, shift),
        })
    };
    let directory = number(4, 4)? as usize;
    let entries = number(directory, 2)? as usize;
    for entry in 0..entries {
        let at = directory.checked_add(2 + 12 * entry)?;
        if number(at, 2)? != u32::from(ORIENTATION) {
            continue;
        }
        let length = match number(at + 2, 2)? {
            1 | 6 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            _ => continue,
        };
        // The values stand in the entry, from its left, if they fit.
        let value = number(at + 8, length)?;
        return Orientation::from_exif(u8::try_from(value).ok()?);
    }
    None
}

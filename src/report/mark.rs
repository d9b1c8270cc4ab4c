//! The mark in images that this program makes, by which it knows them among others.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};
use std::path::Path;

/// Length of a PNG file's signature and first chunk.
pub(super) const PNG_HEADER: usize = 33;

/// Type and data of the PNG chunk that names the program, in PNG's own words.
const PNG_SOFTWARE: &[u8] = b"tEXtSoftware\0ddpm";

/// A GIF comment, and the byte that ends the file.
const GIF_END: &[u8] = b"\x21\xfe\x04ddpm\0\x3b";

/// A whole chunk of a PNG file, of this type and data: length, type and data, checksum.
pub(super) fn chunk(type_and_data: &[u8]) -> Vec<u8> {
    let length = type_and_data.len() as u32 - 4;
    let checksum = crc32fast::hash(type_and_data).to_be_bytes();
    [&length.to_be_bytes()[..], type_and_data, &checksum].concat()
}

/// The chunk that marks a PNG file.
pub(super) fn png_mark() -> Vec<u8> {
    chunk(PNG_SOFTWARE)
}

/// Marks a whole PNG file.
pub(super) fn mark_png(png: &mut Vec<u8>) {
    png.splice(PNG_HEADER..PNG_HEADER, png_mark());
}

/// Marks a whole GIF file.
pub(super) fn mark_gif(gif: &mut Vec<u8>) {
    gif.pop();
    gif.extend(GIF_END);
}

/// True for a PNG or GIF file that this program wrote; false for any other, and for one that cannot be read.
pub(crate) fn is_marked(path: &Path) -> bool {
    // A pipe would be waited for.
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file && File::open(path).is_ok_and(|mut file| is_marked_in(&mut file))
}

/// [`is_marked`] for a file that is read from its start.
pub(crate) fn is_marked_in(file: &mut (impl Read + Seek)) -> bool {
    let mut read = || -> Result<bool> {
        let chunk = png_mark();
        let mut head = Vec::new();
        let wanted = (PNG_HEADER + chunk.len()) as u64;
        (&mut *file).take(wanted).read_to_end(&mut head)?;
        if head.starts_with(b"GIF8") {
            file.seek(SeekFrom::End(-(GIF_END.len() as i64)))?;
            let mut end = Vec::new();
            file.read_to_end(&mut end)?;
            return Ok(end == GIF_END);
        }
        Ok(head.starts_with(b"\x89PNG") && head.ends_with(&chunk))
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, array};

    use super::*;
    use crate::report::{write_animation, write_png};

    #[test]
    fn all_that_is_written_is_known_again_and_read_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let frames: Vec<Array3<u8>> = [10, 200].map(|g| array![[[g], [7]]]).to_vec();
        let path = |name: &str| dir.path().join(name);
        write_png(&path("a.png"), frames[0].view()).unwrap();
        for name in ["b.png", "c.gif"] {
            write_animation(&path(name), &frames, 40, 80).unwrap();
        }
        for name in ["a.png", "b.png", "c.gif"] {
            assert!(is_marked(&path(name)), "{name}");
            let image = image::open(path(name)).unwrap().to_rgb8();
            assert_eq!(image.as_raw(), &[10, 10, 10, 7, 7, 7], "{name}");
            // Written by another program.
            image.save(path(name)).unwrap();
            assert!(!is_marked(&path(name)), "{name}");
        }
        assert!(!is_marked(dir.path()) && !is_marked(&path("nowhere")));
        std::fs::write(path("short"), b"GIF89a").unwrap();
        assert!(!is_marked(&path("short")));
    }
}

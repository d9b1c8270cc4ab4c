//! Which way up an image is, wherever its file says so.
//!
//! Exif comes first, then XMP, as in Pillow's `ImageOps.exif_transpose`; what Pillow passes over is read too: a second
//! Exif segment that does not continue the first, raw profiles named APP1 or xmp, and any spacing in XMP. An
//! orientation that is not 1 to 8 counts as none.

use std::io::{BufRead, Seek};

use image::ImageDecoder;
use image::metadata::Orientation;

mod exif;
mod png;

/// Bytes of one piece of metadata that are read: the directory that holds the orientation is at the start of Exif.
const MAX_BYTES: usize = 1 << 20;

/// Metadata of a file that can hold an orientation.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Exif, each from its TIFF header on.
    exif: Vec<Vec<u8>>,
    xmp: Vec<Vec<u8>>,
}

impl Metadata {
    /// From the APP1 segments of a JPEG.
    pub(super) fn of_jpeg<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        segments.for_each(|segment| found.add(segment));
        // Exif longer than a segment goes on in the next one, which is no Exif of its own.
        if found.exif.len() > 1 {
            let whole = found.exif.concat();
            found.exif.insert(0, whole);
        }
        found
    }

    /// From the chunks of a PNG, before and after its pixels.
    pub(super) fn of_png(file: impl BufRead + Seek) -> Self {
        let mut found = Self::default();
        png::read(file, &mut found);
        found
    }

    /// From a file of another format; damaged metadata counts as none.
    pub(super) fn of_other(decoder: &mut impl ImageDecoder) -> Self {
        let mut found = Self::default();
        if let Ok(Some(exif)) = decoder.exif_metadata() {
            found.add_exif(&exif);
        }
        if let Ok(Some(xmp)) = decoder.xmp_metadata() {
            found.xmp.push(xmp);
        }
        found
    }

    /// Adds metadata that begins with its own kind, as in an APP1 segment.
    fn add(&mut self, segment: &[u8]) {
        const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
        if let Some(xmp) = segment.strip_prefix(XMP) {
            self.xmp.push(xmp.to_vec());
        } else if segment.starts_with(exif::PREFIX) {
            self.add_exif(segment);
        }
    }

    /// Adds Exif; some programs leave the segment's prefix before it in formats that have no segments.
    fn add_exif(&mut self, exif: &[u8]) {
        let exif = exif.strip_prefix(exif::PREFIX).unwrap_or(exif);
        self.exif.push(exif.to_vec());
    }

    /// The orientation that the metadata names, else none.
    pub(super) fn orientation(&self) -> Orientation {
        let exif = self.exif.iter().find_map(|exif| exif::orientation(exif));
        exif.or_else(|| self.xmp.iter().find_map(|xmp| in_xmp(xmp)))
            .unwrap_or(Orientation::NoTransforms)
    }
}

/// `tiff:Orientation="6"`, or `<tiff:Orientation>6</tiff:Orientation>`.
fn in_xmp(xmp: &[u8]) -> Option<Orientation> {
    let text = String::from_utf8_lossy(xmp);
    text.split("tiff:Orientation").skip(1).find_map(|after| {
        let value = after.trim_start().strip_prefix(['=', '>'])?;
        let value = value
            .trim_start()
            .trim_start_matches(['"', '\''])
            .trim_start();
        let digits = value
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(value.len());
        Orientation::from_exif(value[..digits].parse().ok()?)
    })
}

#[cfg(test)]
pub(super) mod tests;

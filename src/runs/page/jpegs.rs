//! Images as data that a page holds: small JPEGs, kept from one report to the next.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};

use crate::fs::open_regular;

/// Qualities that are tried until an image is small enough; more than the first is rarely needed but for noise.
const QUALITIES: [u8; 4] = [85, 70, 55, 40];

/// An image at its largest, in a file: 16,384 × 16,384 RGB, and what a decoder needs besides.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// Images by file, as they were when it was last read.
#[derive(Debug, Default)]
pub(super) struct Jpegs {
    kept: HashMap<PathBuf, Kept>,
}

#[derive(Debug)]
struct Kept {
    changed: Option<SystemTime>,
    bytes: u64,
    url: String,
    used: bool,
}

impl Jpegs {
    /// The image of a file as a `data:` URL of a JPEG of at most `side` pixels a side, and about `max_bytes`.
    ///
    /// # Errors
    /// No image, or one that cannot be read.
    pub(super) fn url(&mut self, path: &Path, side: u32, max_bytes: usize) -> Result<String> {
        let cannot = || format!("cannot show {}", path.display());
        let found = path.metadata().with_context(cannot)?;
        let (changed, bytes) = (found.modified().ok(), found.len());
        if let Some(kept) = self.kept.get_mut(path)
            && (kept.changed, kept.bytes) == (changed, bytes)
        {
            kept.used = true;
            return Ok(kept.url.clone());
        }
        let jpeg = jpeg(path, side, max_bytes).with_context(cannot)?;
        let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
        let kept = Kept {
            changed,
            bytes,
            url: url.clone(),
            used: true,
        };
        self.kept.insert(path.to_owned(), kept);
        Ok(url)
    }

    /// Drops what was not asked for since the last call.
    pub(super) fn forget_unused(&mut self) {
        self.kept.retain(|_, kept| std::mem::take(&mut kept.used));
    }
}

fn jpeg(path: &Path, side: u32, max_bytes: usize) -> Result<Vec<u8>> {
    let file = std::io::BufReader::new(open_regular(path)?);
    let mut reader = ImageReader::new(file).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let image = reader.decode()?;
    let image = match image.color().has_color() {
        true => DynamicImage::ImageRgb8(image.into_rgb8()),
        false => DynamicImage::ImageLuma8(image.into_luma8()),
    };
    let image = match image.width().max(image.height()) > side {
        true => image.resize(side, side, FilterType::Triangle),
        false => image,
    };
    let mut jpeg = Vec::new();
    for quality in QUALITIES {
        jpeg.clear();
        image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, quality))?;
        if jpeg.len() <= max_bytes {
            return Ok(jpeg);
        }
    }
    // Noise at full size: half of it is as good.
    let (width, height) = (image.width().div_ceil(2), image.height().div_ceil(2));
    let image = image.resize(width, height, FilterType::Triangle);
    jpeg.clear();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, 55))?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    fn noise(side: u32) -> RgbImage {
        let mut bits = 1u32;
        RgbImage::from_fn(side, side, |_, _| {
            bits ^= bits << 13;
            bits ^= bits >> 17;
            bits ^= bits << 5;
            Rgb(bits.to_le_bytes()[..3].try_into().unwrap())
        })
    }

    #[test]
    fn noise_becomes_small_and_what_has_not_changed_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        noise(900).save(&path).unwrap();
        let mut jpegs = Jpegs::default();
        let url = jpegs.url(&path, 384, 60_000).unwrap();
        let encoded = url.strip_prefix("data:image/jpeg;base64,").unwrap();
        let bytes = STANDARD.decode(encoded).unwrap();
        assert!(bytes.len() <= 60_000, "{}", bytes.len());
        let image = image::load_from_memory(&bytes).unwrap();
        assert!(image.width() <= 384 && image.height() <= 384);
        // Not read again.
        let times = path.metadata().unwrap().modified().unwrap();
        let length = path.metadata().unwrap().len();
        std::fs::write(&path, vec![0; length as usize]).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(std::fs::FileTimes::new().set_modified(times))
            .unwrap();
        assert_eq!(jpegs.url(&path, 384, 60_000).unwrap(), url);
        // Unused in one report, it is read again, and is no image any more.
        jpegs.forget_unused();
        jpegs.forget_unused();
        let error = format!("{:#}", jpegs.url(&path, 384, 60_000).unwrap_err());
        assert!(error.starts_with("cannot show"), "{error}");
    }
}

//! Images from the page: kept in memory only, few, and decoded within limits.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use image::ImageReader;
use ndarray::{Array2, Array3, Axis};
use tch::Tensor;

use crate::config::RunConfig;
use crate::data::{ImageSpec, decode_bytes};
use crate::images::to_tensor;

/// Longest file that is taken, bytes.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// Files that arrive and are looked at, at a time.
pub(super) const AT_A_TIME: usize = 16;
/// Most pixels of an image.
const MAX_PIXELS: u64 = 16_000_000;
/// Files that are kept: the one that was not used for longest goes first.
const KEPT: usize = 8;

/// The files.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    files: VecDeque<(u64, Arc<Vec<u8>>)>,
}

/// What is told of a new one.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: u64,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Uploads {
    /// Keeps a file, if it looks like an image.
    ///
    /// # Errors
    /// Another kind of file, or an image of too many pixels.
    pub(super) fn take(&self, bytes: Vec<u8>) -> Result<Taken> {
        let (width, height) = size(&bytes)?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = kept.next;
        kept.next += 1;
        kept.files.push_back((id, Arc::new(bytes)));
        while kept.files.len() > KEPT {
            kept.files.pop_front();
        }
        Ok(Taken { id, width, height })
    }

    /// A file by its number.
    ///
    /// # Errors
    /// It is not kept any more, or never was.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Vec<u8>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.files.iter().position(|(of, _)| *of == id);
        let found = place.and_then(|place| kept.files.remove(place));
        // What is in use stays.
        kept.files.extend(found.clone());
        found
            .map(|(_, bytes)| bytes)
            .context("that image is not kept any more: the last 8 are; drop it on the page again")
    }
}

/// Width and height, from the header alone.
fn size(bytes: &[u8]) -> Result<(u32, u32)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    ensure!(
        reader.format().is_some(),
        "this is not an image that can be read; want PNG, JPEG, WebP, BMP or GIF"
    );
    let size = reader.into_dimensions().map_err(crate::text::quoting);
    let (width, height) = size.context("this image cannot be read")?;
    ensure!(
        width > 0 && height > 0 && u64::from(width) * u64::from(height) <= MAX_PIXELS,
        "the image has {width}x{height} pixels; want at most {} million",
        MAX_PIXELS / 1_000_000
    );
    Ok((width, height))
}

/// An image as the network would have been trained on it: upright, cropped to the centre, resized; `[H, W, C]`.
///
/// # Errors
/// A damaged file.
pub(super) fn pixels(bytes: &Arc<Vec<u8>>, config: &RunConfig) -> Result<Array3<u8>> {
    fitted(bytes, config, config.model.chw()[0])
}

/// As [`pixels`], for the network: `[C, H, W]` f32 in [-1, 1] on the CPU.
///
/// # Errors
/// As `pixels`.
pub(super) fn tensor(bytes: &Arc<Vec<u8>>, config: &RunConfig) -> Result<Tensor> {
    let pixels = pixels(bytes, config)?;
    Ok(to_tensor(pixels.view().insert_axis(Axis(0))).get(0))
}

/// A mask: true where it is light.
///
/// # Errors
/// A damaged file; another size than the network's; nothing is light.
pub(super) fn mask(bytes: &Arc<Vec<u8>>, config: &RunConfig) -> Result<Array2<bool>> {
    let (width, height) = size(bytes)?;
    let [_, h, w] = config.model.chw();
    ensure!(
        (i64::from(height), i64::from(width)) == (h, w),
        "the mask has {width}x{height} pixels, and the network's images {w}x{h}; want the same"
    );
    let mask = fitted(bytes, config, 1)?;
    let mask = mask.index_axis_move(Axis(2), 0).mapv(|value| value >= 128);
    ensure!(
        mask.iter().any(|unknown| *unknown),
        "nothing is painted: paint over what is to be filled in"
    );
    Ok(mask)
}

fn fitted(bytes: &Arc<Vec<u8>>, config: &RunConfig, channels: i64) -> Result<Array3<u8>> {
    let [_, height, width] = config.model.chw();
    let spec = ImageSpec::of([channels, height, width], &config.data);
    let image = decode_bytes(bytes.to_vec(), &spec).context("cannot use this image")?;
    Ok(image.pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn the_last_few_images_are_kept() {
        let uploads = Uploads::default();
        let ids: Vec<u64> = (1..=10)
            .map(|side| uploads.take(png(side, 2)).unwrap().id)
            .collect();
        assert!(uploads.get(ids[1]).is_err());
        assert!(uploads.get(ids[2]).is_ok() && uploads.get(ids[9]).is_ok());
        assert!(uploads.get(99).is_err());
        // One that is used is not the oldest, however many come.
        for side in 1..=20 {
            uploads.take(png(side, 3)).unwrap();
            uploads.get(ids[9]).unwrap();
        }
        assert!(uploads.get(ids[2]).is_err());
    }

    #[test]
    fn other_files_and_huge_images_are_refused() {
        let uploads = Uploads::default();
        let refused = |bytes: Vec<u8>| uploads.take(bytes).unwrap_err().to_string();
        assert!(refused(vec![]).contains("not an image"));
        assert!(refused(b"<svg/>".to_vec()).contains("not an image"));
        let mut huge = png(2, 2);
        // The width in the header, and its checksum.
        huge[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        huge[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let sum = crc32fast::hash(&huge[12..29]).to_be_bytes();
        huge[29..33].copy_from_slice(&sum);
        assert!(refused(huge).contains("60000x60000"));
        let mut cut = png(64, 64);
        cut.truncate(60);
        let id = uploads.take(cut);
        // Whether a header is enough to be kept or not, what is missing is found.
        if let Ok(taken) = id {
            let bytes = uploads.get(taken.id).unwrap();
            assert!(pixels(&bytes, &Preset::Demo.config()).is_err());
        }
    }

    #[test]
    fn images_are_fitted_and_masks_are_not() {
        let config = Preset::Demo.config();
        let [c, h, w] = config.model.chw();
        let image = Arc::new(png(100, 30));
        assert_eq!(tensor(&image, &config).unwrap().size(), [c, h, w]);
        assert!(
            mask(&image, &config)
                .unwrap_err()
                .to_string()
                .contains("100x30")
        );
        let dark = Arc::new(png(w as u32, h as u32));
        assert!(
            mask(&dark, &config)
                .unwrap_err()
                .to_string()
                .contains("nothing is painted")
        );
    }
}

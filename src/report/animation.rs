//! Writes frames as an animated PNG, a GIF, or side by side.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::codecs::gif::{GifEncoder, Repeat};
use ndarray::{Array3, s};

use super::figure::beside;
use super::mark::{mark_gif, mark_png};
use super::png_text::add_settings;
use crate::fs::{Target, write_bytes};

/// Shortest frame, in milliseconds: browsers show shorter ones for 100 ms.
const LEAST_MILLIS: u32 = 20;
/// Longest frame of an APNG, in milliseconds.
const MOST_MILLIS: u32 = 65_535;
/// Largest side of a GIF, in pixels.
const MOST_SIDE: usize = 65_535;
/// Pixels sampled for the palette of a GIF's frame: more gain little, fewer show.
const PALETTE_PIXELS: usize = 1 << 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Apng,
    Gif,
}

/// The endings of names that [`write_animation`] takes.
pub const ANIMATION_ENDINGS: [&str; 3] = ["png", "apng", "gif"];

/// Writes frames in an endless loop, whole or not at all: an animated PNG if `path` ends in `.png` or `.apng`, or is
/// a device or pipe without one, a GIF if it ends in `.gif`.
///
/// Each frame lasts `frame_millis` milliseconds, the last one `last_millis`. Both are raised to 20, since browsers
/// show shorter frames for 100; a GIF rounds to tens. A GIF has at most 256 colours per frame: in a frame with more,
/// each becomes the nearest of 256 chosen ones. Other frames, and all of an APNG, are exact.
///
/// # Shapes
/// - `frames`: each `[H, W, C]`, C = 1 (grey) or 3 (RGB), all the same
///
/// # Errors
/// Another ending, no frames, frames of a wrong or of different shapes, more than 65,535 ms or pixels per side, a
/// file that cannot be written; an older file at `path` stays as it was.
pub fn write_animation(
    path: &Path,
    frames: &[Array3<u8>],
    frame_millis: u32,
    last_millis: u32,
) -> Result<()> {
    write_animation_with(path, frames, frame_millis, last_millis, None)
}

/// As [`write_animation`], with the settings that it was made with, as [`encode_png`](super::encode_png) has them, in an
/// animated PNG; a GIF has none.
///
/// # Errors
/// As `write_animation`.
pub fn write_animation_with(
    path: &Path,
    frames: &[Array3<u8>],
    frame_millis: u32,
    last_millis: u32,
    settings: Option<&str>,
) -> Result<()> {
    let format = format_of(path)?;
    let cannot = || format!("cannot write {}", path.display());
    let hwc = common_size(frames).with_context(cannot)?;
    let longest = frame_millis.max(last_millis);
    ensure!(
        longest <= MOST_MILLIS,
        "cannot write {}: a frame of {longest} ms, want at most {MOST_MILLIS}",
        path.display()
    );
    let millis = |number: usize| {
        let wanted = if number + 1 == frames.len() {
            last_millis
        } else {
            frame_millis
        };
        wanted.max(LEAST_MILLIS)
    };
    let bytes = match format {
        Format::Apng => apng(frames, hwc, &millis),
        Format::Gif => gif(frames, hwc, &millis),
    };
    let mut bytes = bytes.with_context(cannot)?;
    if let (Format::Apng, Some(settings)) = (format, settings) {
        add_settings(&mut bytes, settings);
    }
    write_bytes(path, &bytes)
}

/// Lays frames side by side.
///
/// # Shapes
/// - `frames`: at least one, each `[H, W, C]` with its own W; returns `[H, sum of W, C]`
///
/// # Panics
/// No frames, or different H or C.
pub fn strip(frames: &[Array3<u8>]) -> Array3<u8> {
    beside(frames, 0)
}

/// The steps, out of `steps`, that become frames, 0-based and rising: the first, the last, and others evenly between.
///
/// Returns `frames` of them, all steps if there are fewer, and two if `frames` is 0 or 1.
pub fn frame_steps(steps: usize, frames: usize) -> Vec<usize> {
    if steps < 2 {
        return (0..steps).collect();
    }
    let gaps = frames.clamp(2, steps) - 1;
    (0..=gaps)
        .map(|frame| (frame * (steps - 1) + gaps / 2) / gaps)
        .collect()
}

fn format_of(path: &Path) -> Result<Format> {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("png" | "apng") => Ok(Format::Apng),
        Some("gif") => Ok(Format::Gif),
        _ if matches!(Target::of(path), Ok(Target::Stream(_))) => Ok(Format::Apng),
        _ => bail!(
            "cannot write {}: an animation ends in .png or .apng (APNG) or .gif",
            path.display()
        ),
    }
}

/// `[H, W, C]` of all frames.
fn common_size(frames: &[Array3<u8>]) -> Result<[usize; 3]> {
    let first = frames.first().context("no frames, want at least one")?;
    for frame in frames {
        ensure!(
            frame.dim() == first.dim(),
            "a frame is {:?}, want the first one's shape, {:?}",
            frame.shape(),
            first.shape()
        );
    }
    match first.dim() {
        (h @ 1..=MOST_SIDE, w @ 1..=MOST_SIDE, c @ (1 | 3)) => Ok([h, w, c]),
        _ => bail!(
            "frames of shape {:?}, want [H, W, C] with C 1 or 3 and sides of 1 to {MOST_SIDE}",
            first.shape()
        ),
    }
}

fn apng(
    frames: &[Array3<u8>],
    [h, w, c]: [usize; 3],
    millis: &dyn Fn(usize) -> u32,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, w as u32, h as u32);
    encoder.set_color(if c == 1 {
        png::ColorType::Grayscale
    } else {
        png::ColorType::Rgb
    });
    encoder.set_depth(png::BitDepth::Eight);
    // 0 plays: for ever.
    encoder.set_animated(u32::try_from(frames.len())?, 0)?;
    let mut writer = encoder.write_header()?;
    for (number, frame) in frames.iter().enumerate() {
        writer.set_frame_delay(millis(number) as u16, 1000)?;
        let pixels = frame.as_standard_layout();
        writer.write_image_data(pixels.as_slice().context("a frame with gaps")?)?;
    }
    writer.finish()?;
    mark_png(&mut bytes);
    Ok(bytes)
}

fn gif(
    frames: &[Array3<u8>],
    [h, w, _]: [usize; 3],
    millis: &dyn Fn(usize) -> u32,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The encoder looks at one pixel out of `speed`.
    let speed = (h * w / PALETTE_PIXELS).clamp(1, 10);
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, speed as i32);
    encoder.set_repeat(Repeat::Infinite)?;
    for (number, frame) in frames.iter().enumerate() {
        let mut rgba = Array3::from_elem((h, w, 4), 255);
        // Grey is copied to all three colours.
        rgba.slice_mut(s![.., .., ..3]).assign(frame);
        let (rgba, _) = rgba.into_raw_vec_and_offset();
        let image = image::RgbaImage::from_raw(w as u32, h as u32, rgba);
        let image = image.context("a frame has other bytes than pixels")?;
        // The encoder truncates to tens.
        let millis = (millis(number) + 5) / 10 * 10;
        let delay = image::Delay::from_numer_denom_ms(millis, 1);
        encoder.encode_frame(image::Frame::from_parts(image, 0, 0, delay))?;
    }
    drop(encoder);
    mark_gif(&mut bytes);
    Ok(bytes)
}

#[cfg(test)]
mod tests;

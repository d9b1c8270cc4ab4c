//! The part of an image that is kept, as bytes without alpha.

use image::{DynamicImage, ImageBuffer, Pixel, RgbImage};
use ndarray::{Array3, ArrayView2, ArrayView3, CowArray, Ix3, s};

use crate::config::Background;
use crate::data::resize;
use crate::data::spec::ImageSpec;

/// The crop: the part of an image that is kept, in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Crop {
    /// The largest centred part of `height` x `width` with the aspect ratio of `to_height` x `to_width`.
    ///
    /// With an odd remainder, the extra pixel is cut off before the crop, as in Keras-DDPM.
    pub(super) fn centred(height: usize, width: usize, to_height: usize, to_width: usize) -> Self {
        let scaled = |side: usize, to: usize, from: usize| ((side * to + from / 2) / from).max(1);
        let fit_height = height.min(scaled(width, to_height, to_width));
        let fit_width = width.min(scaled(height, to_width, to_height));
        Self {
            top: (height - fit_height).div_ceil(2),
            left: (width - fit_width).div_ceil(2),
            height: fit_height,
            width: fit_width,
        }
    }
}

/// The cropped pixels as bytes without alpha: `[crop.height, crop.width, channels]`.
pub(super) fn flatten<'a>(
    image: &'a DynamicImage,
    crop: Crop,
    spec: &ImageSpec,
) -> CowArray<'a, u8, Ix3> {
    let gathered = match image {
        DynamicImage::ImageRgb8(p) if spec.channels == 3 => return rows(p, crop),
        DynamicImage::ImageLuma8(p) => gather(p, crop, spec),
        DynamicImage::ImageLumaA8(p) => gather(p, crop, spec),
        DynamicImage::ImageRgb8(p) => gather(p, crop, spec),
        DynamicImage::ImageRgba8(p) => gather(p, crop, spec),
        DynamicImage::ImageLuma16(p) => gather(p, crop, spec),
        DynamicImage::ImageLumaA16(p) => gather(p, crop, spec),
        DynamicImage::ImageRgb16(p) => gather(p, crop, spec),
        DynamicImage::ImageRgba16(p) => gather(p, crop, spec),
        // Float images: the formats above cannot contain them.
        other => gather(&other.to_rgba8(), crop, spec),
    };
    gathered.into()
}

/// Samples of the crop, `[crop.height, crop.width, samples per pixel]`: a view, not a copy.
fn cropped<P: Pixel>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    crop: Crop,
) -> ArrayView3<'_, P::Subpixel> {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let shape = (height, width, usize::from(P::CHANNEL_COUNT));
    ArrayView3::from_shape(shape, image.as_raw())
        .expect("an image holds all of its pixels")
        .slice_move(s![
            crop.top..crop.top + crop.height,
            crop.left..crop.left + crop.width,
            ..
        ])
}

/// Crop of an image that already has the target's channels: copies only if it is narrower.
fn rows(image: &RgbImage, crop: Crop) -> CowArray<'_, u8, Ix3> {
    let pixels = cropped(image, crop);
    if pixels.is_standard_layout() {
        return pixels.into();
    }
    let mut out = Vec::with_capacity(pixels.len());
    for row in pixels.outer_iter() {
        out.extend_from_slice(in_a_row(&row));
    }
    resize::image_of(out, crop.height, crop.width).into()
}

/// Samples of a row of a [`cropped`] image.
fn in_a_row<'a, S>(row: &'a ArrayView2<'_, S>) -> &'a [S] {
    row.as_slice().expect("the samples of a row are contiguous")
}

/// Conversion of a sample to one byte.
trait HighByte: Copy {
    fn high_byte(self) -> u8;
}

impl HighByte for u8 {
    fn high_byte(self) -> u8 {
        self
    }
}

impl HighByte for u16 {
    fn high_byte(self) -> u8 {
        self.to_be_bytes()[0]
    }
}

fn gather<P>(image: &ImageBuffer<P, Vec<P::Subpixel>>, crop: Crop, spec: &ImageSpec) -> Array3<u8>
where
    P: Pixel<Subpixel: HighByte>,
{
    let mut out = Vec::with_capacity(crop.height * crop.width * spec.channels);
    for row in cropped(image, crop).outer_iter() {
        for pixel in in_a_row(&row).chunks_exact(usize::from(P::CHANNEL_COUNT)) {
            let rgb = opaque(pixel, spec.background);
            match spec.channels {
                1 => out.push(luma(rgb)),
                _ => out.extend(rgb),
            }
        }
    }
    resize::image_of(out, crop.height, crop.width)
}

/// One pixel of 1 to 4 samples (grey, grey + alpha, RGB, RGBA) as opaque RGB.
fn opaque<S: HighByte>(pixel: &[S], background: Background) -> [u8; 3] {
    let at = |i: usize| pixel[i].high_byte();
    let (rgb, alpha) = match pixel.len() {
        1 => ([at(0); 3], 255),
        2 => ([at(0); 3], at(1)),
        3 => ([at(0), at(1), at(2)], 255),
        _ => ([at(0), at(1), at(2)], at(3)),
    };
    match background {
        Background::Color(behind) if alpha < 255 => {
            let blend = |over: u8, under: u8| {
                let alpha = u32::from(alpha);
                ((u32::from(over) * alpha + u32::from(under) * (255 - alpha) + 127) / 255) as u8
            };
            std::array::from_fn(|i| blend(rgb[i], behind[i]))
        }
        _ => rgb,
    }
}

/// The brightness of a colour, Rec. 709 weights, rounded down: greys map to themselves.
pub(in crate::data) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((2126 * u32::from(r) + 7152 * u32::from(g) + 722 * u32::from(b)) / 10_000) as u8
}

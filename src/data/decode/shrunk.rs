//! JPEG images decoded at a fraction of their size.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use ndarray::Array3;

use super::flat::{Crop, flatten};
use super::upright;
use crate::config::{ImageRules, Resize};
use crate::data::resize::{self, Span};
use crate::data::spec::ImageSpec;

/// A shrunk image: only means over squares of pixels were decoded.
pub(super) struct ShrunkImage {
    means: DynamicImage,
    /// The side of the squares, pixels.
    factor: usize,
    /// Height and width of the full image.
    pub(super) full: (usize, usize),
    /// Pixels by which the first mean extends beyond the full image, vertically and horizontally: it was
    /// the last one before the image was turned.
    overhang: (usize, usize),
}

impl ShrunkImage {
    /// Turns the means of an image of `height` x `width` pixels upright.
    pub(super) fn new(
        means: Array3<u8>,
        (height, width): (usize, usize),
        factor: usize,
        orientation: Orientation,
    ) -> Option<Self> {
        use Orientation::{FlipHorizontal, FlipVertical, Rotate90, Rotate90FlipH};
        use Orientation::{NoTransforms, Rotate180, Rotate270, Rotate270FlipH};
        let (down, across, channels) = means.dim();
        let (below, right) = (down * factor - height, across * factor - width);
        // The same memory, as the type that the image crate can turn.
        let (pixels, _) = means.into_raw_vec_and_offset();
        let (down, across) = (down as u32, across as u32);
        let mut means = match channels {
            1 => GrayImage::from_raw(across, down, pixels)?.into(),
            _ => DynamicImage::from(RgbImage::from_raw(across, down, pixels)?),
        };
        means.apply_orientation(orientation);
        let overhang = match orientation {
            NoTransforms | Rotate90FlipH => (0, 0),
            FlipHorizontal => (0, right),
            FlipVertical => (below, 0),
            Rotate180 => (below, right),
            // Turned clockwise, the bottom becomes the left side.
            Rotate90 => (0, below),
            Rotate270 => (right, 0),
            Rotate270FlipH => (right, below),
        };
        Some(Self {
            means,
            factor,
            full: upright((height, width), orientation),
            overhang,
        })
    }

    /// Crops as the full image would be cropped, possibly between two means, and resizes.
    pub(super) fn fit(&self, spec: &ImageSpec) -> Array3<u8> {
        let crop = Crop::centred(self.full.0, self.full.1, spec.height, spec.width);
        // The means under the crop, and the crop's span on them.
        let part = |from: usize, length: usize, results| {
            let first = from / self.factor;
            let span = Span {
                pixel: self.factor,
                from: from - first * self.factor,
                length,
                results,
            };
            (first, span)
        };
        let (top, rows) = part(self.overhang.0 + crop.top, crop.height, spec.height);
        let (left, columns) = part(self.overhang.1 + crop.left, crop.width, spec.width);
        let means = Crop {
            top,
            left,
            height: rows.pixels(),
            width: columns.pixels(),
        };
        let pixels = flatten(&self.means, means, spec);
        resize::area_of(pixels.view(), rows, columns)
    }
}

/// Factor by which an image is shrunk while it is decoded: 4, else 2, if the crop is then still twice the target on
/// both sides, so that cutting between two means, and means in place of exact pixels, matters little.
///
/// An eighth needs as long as a quarter, and by the first rules a half as long as the full image.
pub(super) fn shrink_factor(crop: Crop, spec: &ImageSpec) -> Option<usize> {
    let factors: &[usize] = match spec.rules {
        ImageRules::V1 => &[4],
        ImageRules::V2 => &[4, 2],
    };
    let fits = |factor: &usize| {
        crop.height >= 2 * factor * spec.height && crop.width >= 2 * factor * spec.width
    };
    let factor = factors.iter().copied().find(fits);
    factor.filter(|_| spec.resize == Resize::Fast)
}

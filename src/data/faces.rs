//! The built-in data set: drawn faces, in any number and size.
//!
//! A demonstration needs images that come with the program, that a tiny network learns in minutes on
//! a CPU, and that show success or failure at a glance. Flat colours and large shapes are easy to
//! learn, and anyone can tell a face from a blot. All faces look straight ahead from about the same
//! place, and no part is smaller than a pixel of a 32x32 image.
//!
//! `portrait` chooses a face's features, `shape` places its parts, and this file paints.

mod portrait;
mod shape;

use ndarray::{Array2, Array4, ArrayViewMut3, Axis, Zip, aview1};
use rayon::prelude::*;

use super::decode::luma;
use portrait::Portrait;
use shape::Colour;
use shape::{Layer, Pair};

/// Draws `count` faces, numbers 0 to `count - 1` of `seed`, on all threads of the rayon pool.
///
/// # Shapes
/// Returns `[count, channels, height, width]` u8, RGB for 3 channels or grey for 1.
///
/// # Panics
/// If a size is zero or `channels` is neither 1 nor 3.
pub(crate) fn dataset(
    seed: u64,
    count: u64,
    height: usize,
    width: usize,
    channels: usize,
) -> Array4<u8> {
    check(height, width, channels);
    let mut faces = Array4::zeros((count as usize, channels, height, width));
    (faces.axis_iter_mut(Axis(0)).collect::<Vec<_>>())
        .into_par_iter()
        .enumerate()
        .for_each(|(index, planes)| draw(seed, index as u64, planes.permuted_axes([1, 2, 0])));
    faces
}

/// Draws face number `index` of `seed`, the same bytes on every machine.
///
/// Only additions, products, quotients and square roots are used, which IEEE 754 fixes to the last bit;
/// no sine or cosine, which it does not. The head fills the shorter side; a longer side shows more
/// background.
///
/// # Shapes
/// - `image`: `[H, W, C]` u8, overwritten; C = 3 (RGB) or 1 (grey)
fn draw(seed: u64, index: u64, mut image: ArrayViewMut3<u8>) {
    let (height, width, _) = image.dim();
    let portrait = Portrait::draw(seed, index);
    let mut canvas = Canvas::new(&portrait, height, width);
    portrait.layers.iter().for_each(|layer| canvas.add(layer));
    Zip::from(image.lanes_mut(Axis(2)))
        .and(&canvas.pixels)
        .for_each(|mut pixel, colour| {
            let rgb = colour.map(|value| (value + 0.5) as u8);
            match pixel.len() {
                1 => pixel[0] = luma(rgb),
                _ => pixel.assign(&aview1(&rgb)),
            }
        });
}

fn check(height: usize, width: usize, channels: usize) {
    assert!(
        height > 0 && width > 0,
        "a face of {height}x{width} pixels has no pixels"
    );
    assert!(
        channels == 1 || channels == 3,
        "a face has 1 or 3 channels, not {channels}"
    );
}

/// An image being painted, and the position of the face in it.
struct Canvas {
    /// `[H, W]`.
    pixels: Array2<Colour>,
    /// The first pixel's centre in face coordinates.
    origin: Pair,
    /// A pixel's side in face coordinates.
    pixel: f32,
}

impl Canvas {
    fn new(portrait: &Portrait, height: usize, width: usize) -> Self {
        let pixel = 2.0 / (height.min(width) as f32 * portrait.scale);
        // From the image's centre, moved by the face's shift, back to the first pixel.
        let origin = [
            (1.0 - width as f32) / 2.0 * pixel - portrait.shift[0],
            (1.0 - height as f32) / 2.0 * pixel - portrait.shift[1],
        ];
        Self {
            pixels: Array2::from_elem((height, width), portrait.background),
            origin,
            pixel,
        }
    }

    /// Paints one layer over the image. An edge covers its pixels in part.
    fn add(&mut self, layer: &Layer) {
        let [columns, rows] = self.bounds(layer);
        for row in rows {
            for column in columns.clone() {
                let covered = self.covered(layer, row, column);
                if covered > 0.0 {
                    let pixel = &mut self.pixels[[row, column]];
                    *pixel = mix(*pixel, layer.colour, covered);
                }
            }
        }
    }

    /// The share of a pixel that a layer covers: its distance to the edge, in pixels, plus a half.
    fn covered(&self, layer: &Layer, row: usize, column: usize) -> f32 {
        let at = [
            self.origin[0] + column as f32 * self.pixel,
            self.origin[1] + row as f32 * self.pixel,
        ];
        (0.5 - layer.shape.distance(at) / self.pixel).clamp(0.0, 1.0)
    }

    /// The columns and rows that a layer can touch.
    fn bounds(&self, layer: &Layer) -> [std::ops::Range<usize>; 2] {
        let (centre, half) = layer.shape.bounds();
        let range = |axis: usize, end: usize| {
            let at = (centre[axis] - self.origin[axis]) / self.pixel;
            let reach = half[axis] / self.pixel + 1.0;
            // A cast to usize turns negative values into zero.
            (at - reach) as usize..((at + reach + 1.0) as usize).min(end)
        };
        [range(0, self.pixels.ncols()), range(1, self.pixels.nrows())]
    }
}

/// `share` of colour `b`, the rest of `a`.
fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    /// Face number `index` of `seed`.
    fn face(seed: u64, index: u64, shape: (usize, usize, usize)) -> Array3<u8> {
        let mut image = Array3::zeros(shape);
        draw(seed, index, image.view_mut());
        image
    }

    #[test]
    fn a_face_depends_on_seed_and_index_alone() {
        let face = |seed, index| face(seed, index, (32, 32, 3));
        assert_eq!(face(1, 2), face(1, 2));
        assert_ne!(face(1, 2), face(1, 3));
        assert_ne!(face(1, 2), face(2, 2));
        assert_ne!(face(1, 2), face(2, 1));
    }

    #[test]
    fn a_data_set_is_its_faces_in_order() {
        let faces = dataset(7, 5, 16, 12, 3);
        assert_eq!(faces.dim(), (5, 3, 16, 12));
        for (index, planes) in faces.outer_iter().enumerate() {
            let image = planes.permuted_axes([1, 2, 0]);
            assert_eq!(image, face(7, index as u64, (16, 12, 3)), "face {index}");
        }
    }

    #[test]
    fn a_hundred_faces_are_a_hundred_different_faces() {
        let faces: std::collections::HashSet<_> =
            (0..100).map(|index| face(0, index, (16, 16, 3))).collect();
        assert_eq!(faces.len(), 100);
    }

    #[test]
    fn grey_is_the_luma_of_the_colours() {
        let (grey, rgb) = (face(3, 4, (8, 9, 1)), face(3, 4, (8, 9, 3)));
        for (grey, rgb) in grey.iter().zip(rgb.lanes(Axis(2))) {
            assert_eq!(*grey, luma([rgb[0], rgb[1], rgb[2]]));
        }
    }

    #[test]
    fn every_size_can_be_drawn() {
        for (height, width) in [(1, 1), (2, 3), (8, 64), (64, 8), (7, 5)] {
            assert_eq!(dataset(0, 9, height, width, 3).len(), 27 * height * width);
        }
        assert!(dataset(0, 0, 8, 8, 3).is_empty());
    }

    /// The box of each shape must contain all of it: painting everywhere changes nothing.
    #[test]
    fn nothing_is_cut_off_by_its_bounds() {
        for index in 0..50 {
            let portrait = Portrait::draw(5, index);
            let canvas = Canvas::new(&portrait, 20, 28);
            for layer in &portrait.layers {
                let [columns, rows] = canvas.bounds(layer);
                for i in 0..20 * 28 {
                    let (row, column) = (i / 28, i % 28);
                    if !(columns.contains(&column) && rows.contains(&row)) {
                        assert_eq!(
                            canvas.covered(layer, row, column),
                            0.0,
                            "{index} {layer:?} {row} {column}"
                        );
                    }
                }
            }
        }
    }
}

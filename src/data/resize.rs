//! Two methods to resize u8 images.
//!
//! [`area`] is the better one: every source pixel counts, so shrinking does not alias.
//! [`cv2_bilinear`] is for training on exactly the pixels of OpenCV's default resize, aliasing
//! included. No library at hand reproduces these bytes: bilinear resizes elsewhere either antialias,
//! or differ by one in a fifth to a third of all bytes. Both functions sum integers (some as f64,
//! which holds them exactly) and return the same bytes on every machine.

use ndarray::{Array3, ArrayView3, CowArray, Ix3};

use crate::native::{Across, area_across, area_down, area_padded};

/// Resizes like OpenCV's `cv2.resize(..., INTER_LINEAR)` on u8 images, bit for bit.
///
/// Each result depends on at most 2x2 source pixels, so an image shrunk by more than two aliases.
/// OpenCV uses weights of 11 bits and drops 4 + 16 + 2 bits in three steps, and averages 2x2 pixels
/// when both sides halve exactly.
///
/// # Shapes
/// - `src`: `[H, W, C]` u8; returns `[dh, dw, C]` u8
///
/// # Panics
/// If a size is zero.
///
/// Source: compared with the results of OpenCV 4.6.0, 4.12.0 and 5.0.0 on x86-64.
pub fn cv2_bilinear(src: ArrayView3<u8>, dh: usize, dw: usize) -> Array3<u8> {
    check(src, dh, dw);
    let (sh, sw, c) = src.dim();
    let src = src.as_standard_layout();
    let src = bytes(&src);
    if sh == 2 * dh && sw == 2 * dw {
        return image_of(halve(src, sw, c), dh, dw);
    }
    let columns = taps(sw, dw, Edge::Clamp);
    let row = |y: usize| blend_row(&src[y * sw * c..][..sw * c], &columns, c);
    let mut out = Vec::with_capacity(dh * dw * c);
    for tap in taps(sh, dh, Edge::KeepFraction) {
        let (top, bottom) = (row(tap.low), row(tap.high));
        out.extend(top.iter().zip(&bottom).map(|(&t, &b)| {
            let t = (tap.weights[0] * (t >> 4)) >> 16;
            let b = (tap.weights[1] * (b >> 4)) >> 16;
            ((t + b + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    image_of(out, dh, dw)
}

/// Resizes by area: each result is the mean of the source pixels under it, partly covered ones weighted
/// by their share.
///
/// Exact in integers, rounded half up. A side that grows has nothing to average: an image that
/// grows on either side goes to [`cv2_bilinear`], which is smooth and never overshoots. An image
/// of the right size is copied.
///
/// This differs from the usual box filter sampled at pixel centres, which counts pixels wholly or not at
/// all, so that edges wobble at small ratios.
///
/// # Shapes
/// - `src`: `[H, W, C]` u8; returns `[dh, dw, C]` u8
///
/// # Panics
/// If a size is zero, C is neither 1 nor 3, H is 2^23 or more, H * W is 2^40 or more, or a side of
/// the result is 2^16 or more.
pub(crate) fn area(src: ArrayView3<u8>, dh: usize, dw: usize) -> Array3<u8> {
    check(src, dh, dw);
    let (sh, sw, _) = src.dim();
    if (sh, sw) == (dh, dw) {
        return src.to_owned();
    }
    if dh > sh || dw > sw {
        return cv2_bilinear(src, dh, dw);
    }
    area_of(src, Span::whole(sh, dh), Span::whole(sw, dw))
}

/// The resizing of one axis: a stretch of the source, divided into equal results.
///
/// A source pixel is `pixel` units long, so that an image that was shrunk before can be cut between its
/// pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Length of a source pixel.
    pub(crate) pixel: usize,
    /// Start of the stretch, units.
    pub(crate) from: usize,
    /// Length of the stretch, units.
    pub(crate) length: usize,
    /// Number of results.
    pub(crate) results: usize,
}

impl Span {
    /// All `src` pixels into `dst` results.
    fn whole(src: usize, dst: usize) -> Self {
        Self {
            pixel: 1,
            from: 0,
            length: src,
            results: dst,
        }
    }

    /// Number of source pixels required.
    pub(crate) fn pixels(&self) -> usize {
        (self.from + self.length).div_ceil(self.pixel)
    }

    /// The first source pixel under result `i`, and the shares of it and the following ones, in units of
    /// 1/`results`: they sum to `length`.
    fn under(&self, i: usize) -> (usize, Vec<u16>) {
        let pixel = self.pixel * self.results;
        let from = self.from * self.results + i * self.length;
        let to = from + self.length;
        let first = from / pixel;
        let overlap = |k| (to.min((k + 1) * pixel) - from.max(k * pixel)) as u16;
        (first, (first..to.div_ceil(pixel)).map(overlap).collect())
    }

    fn check(&self) {
        assert!(
            self.pixel * self.results < 1 << 16,
            "weights for {} pixels would overflow 16 bits",
            self.results
        );
    }
}

/// Like [`area`], for a part of the image, which may begin and end between pixels.
///
/// # Shapes
/// - `src`: `[rows.pixels(), columns.pixels(), C]` u8, the pixels under the spans; returns
///   `[rows.results, columns.results, C]` u8
///
/// # Panics
/// If `src` has another shape, C is neither 1 nor 3, `rows.length` is 2^23 or more, the product of both lengths is
/// 2^40 or more, or `pixel` times `results` is 2^16 or more.
pub(crate) fn area_of(src: ArrayView3<u8>, rows: Span, columns: Span) -> Array3<u8> {
    let (sh, sw, c) = src.dim();
    assert!(c == 1 || c == 3, "{c} channels");
    assert_eq!(
        (sh, sw),
        (rows.pixels(), columns.pixels()),
        "not {rows:?} {columns:?}"
    );
    rows.check();
    columns.check();
    let down = rows.length;
    assert!(down < 1 << 23, "{down} rows would overflow 31-bit sums");
    let src = src.as_standard_layout();
    let src = bytes(&src);
    let width = sw * c;
    let taps = Taps::of(&columns);
    let across = Across {
        channels: c,
        first: &taps.first,
        weights: &taps.weights,
        total: rows.length as u64 * columns.length as u64,
    };
    let mut out = vec![0; rows.results * columns.results * c];
    let mut sums = vec![0; width];
    let mut pixels = vec![0.0; area_padded(width, c, taps.each)];
    for (y, out) in out.chunks_exact_mut(columns.results * c).enumerate() {
        // Columns first: this pass reads every source byte.
        let (first, weights) = rows.under(y);
        let under = &src[first * width..][..weights.len() * width];
        area_down(under, &weights, &mut sums, &mut pixels);
        area_across(&pixels, across, out);
    }
    image_of(out, rows.results, columns.results)
}

/// The source pixels under all results of a [`Span`], the same number for each; surplus ones have weight 0.
struct Taps {
    /// First pixel of each result.
    first: Vec<u32>,
    /// Number of pixels of each result.
    each: usize,
    weights: Vec<f64>,
}

impl Taps {
    fn of(span: &Span) -> Self {
        let under: Vec<_> = (0..span.results).map(|i| span.under(i)).collect();
        let each = under.iter().map(|(_, weights)| weights.len()).max();
        let each = each.unwrap_or(1);
        let mut taps = vec![0.0; span.results * each];
        for (taps, (_, weights)) in taps.chunks_exact_mut(each).zip(&under) {
            for (tap, &weight) in taps.iter_mut().zip(weights) {
                *tap = f64::from(weight);
            }
        }
        Self {
            first: under.iter().map(|&(first, _)| first as u32).collect(),
            each,
            weights: taps,
        }
    }
}

fn check(src: ArrayView3<u8>, dh: usize, dw: usize) {
    let (sh, sw, c) = src.dim();
    assert!(
        sh * sw * c * dh * dw > 0,
        "cannot resize [{sh}, {sw}, {c}] to [{dh}, {dw}, {c}]: a size is zero"
    );
}

/// The bytes of an image row by row, as the loops here read them.
fn bytes<'a>(image: &'a CowArray<'_, u8, Ix3>) -> &'a [u8] {
    image.as_slice().expect("an image in standard layout")
}

/// `[height, width, C]` from bytes of `height * width` pixels.
pub(super) fn image_of(bytes: Vec<u8>, height: usize, width: usize) -> Array3<u8> {
    let channels = bytes.len() / (height * width);
    Array3::from_shape_vec((height, width, channels), bytes).expect("bytes for all of the pixels")
}

/// Treatment of a result beyond the outermost pixel centres.
///
/// OpenCV treats columns and rows differently. Both repeat the edge pixel, but a row keeps its two
/// weights, whose products are cut off separately: the sum can come out lower.
#[derive(Clone, Copy, PartialEq)]
enum Edge {
    Clamp,
    KeepFraction,
}

/// One result along one axis: two source positions and their weights, which sum to 2048.
struct Tap {
    low: usize,
    high: usize,
    weights: [i32; 2],
}

fn taps(src: usize, dst: usize, edge: Edge) -> Vec<Tap> {
    (0..dst)
        .map(|i| {
            let last = src as i64 - 1;
            let centre = ((i as f64 + 0.5) * src as f64 / dst as f64 - 0.5) as f32;
            let mut low = centre.floor() as i64;
            let mut fraction = centre - centre.floor();
            if edge == Edge::Clamp && !(0..last).contains(&low) {
                (low, fraction) = (low.clamp(0, last), 0.0);
            }
            let weight = |w: f32| (2048.0 * w).round_ties_even() as i32;
            Tap {
                low: low.clamp(0, last) as usize,
                high: (low + 1).clamp(0, last) as usize,
                weights: [weight(1.0 - fraction), weight(fraction)],
            }
        })
        .collect()
}

fn blend_row(row: &[u8], columns: &[Tap], c: usize) -> Vec<i32> {
    let mut out = Vec::with_capacity(columns.len() * c);
    for tap in columns {
        for channel in 0..c {
            let at = |x: usize| i32::from(row[x * c + channel]);
            out.push(tap.weights[0] * at(tap.low) + tap.weights[1] * at(tap.high));
        }
    }
    out
}

/// The rounded mean of each 2x2 block.
fn halve(src: &[u8], sw: usize, c: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(src.len() / 4);
    for rows in src.chunks_exact(2 * sw * c) {
        let (top, bottom) = rows.split_at(sw * c);
        for x in 0..sw / 2 {
            for channel in 0..c {
                let pair = |row: &[u8]| {
                    u16::from(row[2 * x * c + channel]) + u16::from(row[(2 * x + 1) * c + channel])
                };
                out.push(((pair(top) + pair(bottom) + 2) >> 2) as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Result of `resize` on the bytes of an `[H, W, C]` image.
    fn resized(
        resize: fn(ArrayView3<u8>, usize, usize) -> Array3<u8>,
        src: &[u8],
        shape: (usize, usize, usize),
        (dh, dw): (usize, usize),
    ) -> Vec<u8> {
        let out = resize(ArrayView3::from_shape(shape, src).unwrap(), dh, dw);
        assert_eq!(out.dim(), (dh, dw, shape.2));
        out.into_iter().collect()
    }

    #[test]
    fn halving_takes_the_rounded_mean_of_four() {
        let src = [10, 20, 0, 1, 30, 41, 0, 1];
        assert_eq!(resized(cv2_bilinear, &src, (2, 4, 1), (1, 2)), [25, 1]); // (101 + 2) >> 2 and (2 + 2) >> 2
        assert_eq!(resized(area, &src, (2, 4, 1), (1, 2)), [25, 1]);
    }

    #[test]
    fn cv2_shrinks_three_to_one_by_taking_the_middle() {
        // The centre of the one result is at 1.0, the middle pixel; the rest does not count.
        assert_eq!(
            resized(cv2_bilinear, &[9, 77, 200], (1, 3, 1), (1, 1)),
            [77]
        );
        assert_eq!(resized(area, &[9, 77, 200], (1, 3, 1), (1, 1)), [95]); // 286 / 3 = 95.33
    }

    #[test]
    fn cv2_enlarges_two_to_four_with_quarters() {
        // Centres at -0.25, 0.25, 0.75, 1.25: weights 1 | 3/4, 1/4 | 1/4, 3/4 | 1.
        assert_eq!(
            resized(cv2_bilinear, &[0, 100], (1, 2, 1), (1, 4)),
            [0, 25, 75, 100]
        );
        assert_eq!(
            resized(area, &[0, 100], (1, 2, 1), (1, 4)),
            [0, 25, 75, 100]
        );
    }

    #[test]
    fn area_counts_partly_covered_pixels_in_part() {
        // Three into two: each result is 2/3 of its own pixel and 1/3 of the middle one.
        assert_eq!(resized(area, &[30, 60, 240], (1, 3, 1), (1, 2)), [40, 180]);
        assert_eq!(resized(area, &[30, 60, 240], (3, 1, 1), (2, 1)), [40, 180]);
    }

    #[test]
    fn area_keeps_channels_apart_and_flat_colours_flat() {
        let src: Vec<u8> = [255, 0, 7].repeat(7 * 5);
        for (dh, dw) in [(3, 2), (1, 1), (6, 5), (20, 20)] {
            assert_eq!(
                resized(area, &src, (7, 5, 3), (dh, dw)),
                [255, 0, 7].repeat(dh * dw),
                "{dh}x{dw}"
            );
        }
    }

    #[test]
    fn both_copy_an_image_of_the_right_size() {
        let src: Vec<u8> = (0..=255).collect();
        assert_eq!(resized(area, &src, (8, 32, 1), (8, 32)), src);
        assert_eq!(resized(cv2_bilinear, &src, (8, 32, 1), (8, 32)), src);
    }

    /// The definition in fractions: each result is the rounded mean of the source under it.
    fn plain(src: &[u8], sw: usize, c: usize, rows: Span, columns: Span) -> Vec<u8> {
        let under = |span: Span, i: usize, k: usize| {
            let (from, to) = (i * span.length, (i + 1) * span.length);
            let begin = (k * span.pixel).saturating_sub(span.from) * span.results;
            let end = ((k + 1) * span.pixel).saturating_sub(span.from) * span.results;
            (to.min(end).saturating_sub(from.max(begin))) as u64
        };
        let total = (rows.length * columns.length) as u64;
        let mut out = Vec::new();
        for (y, x, channel) in (0..rows.results)
            .flat_map(|y| (0..columns.results).map(move |x| (y, x)))
            .flat_map(|(y, x)| (0..c).map(move |channel| (y, x, channel)))
        {
            let mut sum = 0;
            for (k, pixel) in src.chunks_exact(c).enumerate() {
                let weight = under(rows, y, k / sw) * under(columns, x, k % sw);
                sum += weight * u64::from(pixel[channel]);
            }
            out.push(((sum + total / 2) / total) as u8);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn area_is_what_its_definition_says(
            c in prop::sample::select(vec![1usize, 3]),
            axes in prop::array::uniform2((1usize..9, 0usize..9, 1usize..40, 1usize..12)),
            bytes in prop::collection::vec(any::<u8>(), 64),
        ) {
            let span = |(pixel, from, length, results)| Span { pixel, from, length, results };
            let [rows, columns] = axes.map(span);
            let length = rows.pixels() * columns.pixels() * c;
            let src: Vec<u8> = (0..length).map(|i| bytes[(i * 31 + i / 64) % 64]).collect();
            let image = ArrayView3::from_shape((rows.pixels(), columns.pixels(), c), &src).unwrap();
            let got = area_of(image, rows, columns);
            prop_assert_eq!(got.dim(), (rows.results, columns.results, c));
            let got: Vec<u8> = got.into_iter().collect();
            prop_assert_eq!(got, plain(&src, columns.pixels(), c, rows, columns));
        }
    }

    #[test]
    fn a_view_with_gaps_is_resized_as_its_copy() {
        let src = Array3::from_shape_fn((7, 9, 3), |(y, x, c)| (y * 31 + x * 17 + c * 5) as u8);
        let part = src.slice(ndarray::s![1..6, 2..8, ..]);
        for resize in [area, cv2_bilinear] {
            for (dh, dw) in [(5, 6), (2, 3), (9, 9)] {
                assert_eq!(
                    resize(part, dh, dw),
                    resize(part.to_owned().view(), dh, dw),
                    "{dh}x{dw}"
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "a size is zero")]
    fn an_image_without_pixels_is_a_bug() {
        area(Array3::zeros((2, 0, 1)).view(), 1, 1);
    }
}

//! Two ways to resize pictures of bytes.
//!
//! [`area`] is the good one: every source pixel counts, so shrinking does not alias.
//! [`cv2_bilinear`] is there to train on exactly the pixels that OpenCV's default resize gives,
//! aliasing included. No library at hand gives these bytes: bilinear resizes elsewhere either
//! antialias, or differ by one in a fifth to a third of all bytes. Both functions add up integers
//! and give the same bytes on every machine.

/// Resizes as OpenCV's `cv2.resize(..., INTER_LINEAR)` does on bytes, bit for bit.
///
/// Looks at no more than 2x2 source pixels for each result, so a picture shrunk by more than two
/// aliases. OpenCV works with weights of 11 bits and drops 4 + 16 + 2 bits on the way, and takes a
/// 2x2 mean when both sides halve exactly.
///
/// # Shapes
/// - `src`: `[sh, sw, c]` u8, row by row; returns `[dh, dw, c]` u8
///
/// # Panics
/// If `src` is not `sh * sw * c` bytes, or a size is zero.
///
/// Source: compared with what OpenCV 4.6.0, 4.12.0 and 5.0.0 give on x86-64.
pub fn cv2_bilinear(src: &[u8], sh: usize, sw: usize, c: usize, dh: usize, dw: usize) -> Vec<u8> {
    check(src, sh, sw, c, dh, dw);
    if sh == 2 * dh && sw == 2 * dw {
        return halve(src, sw, c);
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
    out
}

/// Resizes by area: each result is the mean of the source under it, with partly covered pixels
/// counted in part.
///
/// Exact in integers, rounded half up. A side that grows has nothing to average: a picture that
/// grows on either side goes to [`cv2_bilinear`], which is smooth and never overshoots. A picture
/// of the right size is copied.
///
/// A box filter sampled at pixel centres, as libraries have it, is not this: it counts pixels
/// wholly or not at all, and at small ratios edges wobble.
///
/// # Shapes
/// - `src`: `[sh, sw, c]` u8, row by row; returns `[dh, dw, c]` u8
///
/// # Panics
/// If `src` is not `sh * sw * c` bytes, a size is zero, `sh` is 2^24 or more, or a side of
/// the result is 2^16 or more.
pub(crate) fn area(src: &[u8], sh: usize, sw: usize, c: usize, dh: usize, dw: usize) -> Vec<u8> {
    check(src, sh, sw, c, dh, dw);
    if (sh, sw) == (dh, dw) {
        return src.to_vec();
    }
    if dh > sh || dw > sw {
        return cv2_bilinear(src, sh, sw, c, dh, dw);
    }
    assert!(sh < 1 << 24, "{sh} rows would overflow the 32-bit sums");
    assert!(
        dh.max(dw) < 1 << 16,
        "weights for {dh}x{dw} pixels would overflow 16 bits"
    );
    let columns: Vec<Vec<_>> = (0..dw).map(|x| overlaps(x, sw, dw).collect()).collect();
    let total = (sh * sw) as u64;
    let mut out = Vec::with_capacity(dh * dw * c);
    let mut sums = vec![0; sw * c];
    for y in 0..dh {
        // Down the rows first, as this is where every source byte is read.
        sums.fill(0);
        for (k, weight) in overlaps(y, sh, dh) {
            add_row(&mut sums, &src[k * sw * c..][..sw * c], weight);
        }
        for column in &columns {
            for channel in 0..c {
                let term = |&(k, weight): &(usize, u16)| {
                    u64::from(sums[k * c + channel]) * u64::from(weight)
                };
                let sum: u64 = column.iter().map(term).sum();
                out.push(((sum + total / 2) / total) as u8);
            }
        }
    }
    out
}

/// Neighbouring bytes and 16-bit factors: the compiler does eight at a time.
fn add_row(sums: &mut [u32], row: &[u8], weight: u16) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += u32::from(weight) * u32::from(value);
    }
}

fn check(src: &[u8], sh: usize, sw: usize, c: usize, dh: usize, dw: usize) {
    assert!(
        sh * sw * c * dh * dw > 0,
        "cannot resize [{sh}, {sw}, {c}] to [{dh}, {dw}, {c}]: a size is zero"
    );
    assert_eq!(
        src.len(),
        sh * sw * c,
        "a [{sh}, {sw}, {c}] picture has another number of bytes"
    );
}

/// The source pixels under result `i`, and how much of each, in units of 1/`dst` of a pixel: they
/// sum to `src`.
fn overlaps(i: usize, src: usize, dst: usize) -> impl Iterator<Item = (usize, u16)> {
    let (from, to) = (i * src, (i + 1) * src);
    (from / dst..to.div_ceil(dst)).map(move |k| {
        let overlap = to.min((k + 1) * dst) - from.max(k * dst);
        (k, overlap as u16)
    })
}

/// What happens to a result that falls beyond the outermost pixel centres.
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
    use super::*;

    #[test]
    fn halving_takes_the_rounded_mean_of_four() {
        let src = [10, 20, 0, 1, 30, 41, 0, 1];
        assert_eq!(cv2_bilinear(&src, 2, 4, 1, 1, 2), [25, 1]); // (101 + 2) >> 2 and (2 + 2) >> 2
        assert_eq!(area(&src, 2, 4, 1, 1, 2), [25, 1]);
    }

    #[test]
    fn cv2_shrinks_three_to_one_by_taking_the_middle() {
        // The centre of the one result is at 1.0, the middle pixel; the others do not count.
        assert_eq!(cv2_bilinear(&[9, 77, 200], 1, 3, 1, 1, 1), [77]);
        assert_eq!(area(&[9, 77, 200], 1, 3, 1, 1, 1), [95]); // 286 / 3 = 95.33
    }

    #[test]
    fn cv2_enlarges_two_to_four_with_quarters() {
        // Centres at -0.25, 0.25, 0.75, 1.25: weights 1 | 3/4, 1/4 | 1/4, 3/4 | 1.
        assert_eq!(cv2_bilinear(&[0, 100], 1, 2, 1, 1, 4), [0, 25, 75, 100]);
        assert_eq!(area(&[0, 100], 1, 2, 1, 1, 4), [0, 25, 75, 100]);
    }

    #[test]
    fn area_counts_partly_covered_pixels_in_part() {
        // Three into two: each result is 2/3 of its own pixel and 1/3 of the middle one.
        assert_eq!(area(&[30, 60, 240], 1, 3, 1, 1, 2), [40, 180]);
        assert_eq!(area(&[30, 60, 240], 3, 1, 1, 2, 1), [40, 180]);
    }

    #[test]
    fn area_keeps_channels_apart_and_flat_colours_flat() {
        let src: Vec<u8> = [255, 0, 7].repeat(7 * 5);
        for (dh, dw) in [(3, 2), (1, 1), (6, 5), (20, 20)] {
            assert_eq!(
                area(&src, 7, 5, 3, dh, dw),
                [255, 0, 7].repeat(dh * dw),
                "{dh}x{dw}"
            );
        }
    }

    #[test]
    fn both_copy_a_picture_of_the_right_size() {
        let src: Vec<u8> = (0..=255).collect();
        assert_eq!(area(&src, 8, 32, 1, 8, 32), src);
        assert_eq!(cv2_bilinear(&src, 8, 32, 1, 8, 32), src);
    }

    #[test]
    #[should_panic(expected = "another number of bytes")]
    fn a_buffer_of_the_wrong_length_is_a_bug() {
        area(&[0; 5], 2, 3, 1, 1, 1);
    }
}

//! Safe wrapper of `area.cpp`: the loops of resizing by area, compiled for several kinds of processor.

unsafe extern "C" {
    fn ddpm_area_down(
        rows: *const u8,
        weights: *const u16,
        count: i64,
        sums: *mut u32,
        pixels: *mut f64,
        width: i64,
    );
    fn ddpm_area_across(
        pixels: *const f64,
        channels: i64,
        first: *const u32,
        weights: *const f64,
        each: i64,
        total: f64,
        out: *mut u8,
        results: i64,
    );
}

/// Numbers that [`area_across`] reads at each pixel, whatever its channels.
const READ_AT_ONCE: usize = 4;

/// Length of `pixels` for rows of `width` numbers, of which [`area_across`] reads `each` pixels of `channels` at a
/// time: the padding beyond the row is read with weight 0.
pub fn area_padded(width: usize, channels: usize, each: usize) -> usize {
    width + each * channels + READ_AT_ONCE
}

/// Sums rows of bytes, each times its weight, into the front of `pixels`.
///
/// # Shapes
/// - `rows`: `[weights.len(), sums.len()]`, at least one row; `sums` is overwritten
///
/// # Panics
/// On other lengths. Sums of 2^31 or more are wrong.
pub fn area_down(rows: &[u8], weights: &[u16], sums: &mut [u32], pixels: &mut [f64]) {
    let width = sums.len();
    assert!(!weights.is_empty() && rows.len() == weights.len() * width && pixels.len() >= width);
    // SAFETY: all lengths were checked.
    unsafe {
        ddpm_area_down(
            rows.as_ptr(),
            weights.as_ptr(),
            weights.len() as i64,
            sums.as_mut_ptr(),
            pixels.as_mut_ptr(),
            width as i64,
        );
    }
}

/// Sources of the results of a row.
#[derive(Debug, Clone, Copy)]
pub struct Across<'a> {
    /// 1 or 3.
    pub channels: usize,
    /// First pixel of each result.
    pub first: &'a [u32],
    /// Weights of each result's pixels, the same number for each.
    pub weights: &'a [f64],
    /// Divisor of each sum, below 2^40.
    pub total: u64,
}

/// Writes one row of results: weighted sums, divided and rounded half up, exactly for results below 256.
///
/// # Shapes
/// - `pixels`: of [`area_padded`] length; `out`: `[first.len(), channels]`
///
/// # Panics
/// On other lengths, a pixel out of range, or a total of 2^40 or more.
pub fn area_across(pixels: &[f64], across: Across<'_>, out: &mut [u8]) {
    let (channels, results) = (across.channels, across.first.len());
    let each = across.weights.len() / results.max(1);
    let last = across.first.iter().max().map_or(0, |&first| first as usize);
    assert!(
        (channels == 1 || channels == 3)
            && across.total < 1 << 40
            && across.weights.len() == results * each
            && out.len() == results * channels
            && area_padded(last * channels, channels, each) <= pixels.len()
    );
    // SAFETY: all lengths were checked.
    unsafe {
        ddpm_area_across(
            pixels.as_ptr(),
            channels as i64,
            across.first.as_ptr(),
            across.weights.as_ptr(),
            each as i64,
            across.total as f64,
            out.as_mut_ptr(),
            results as i64,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One number, divided.
    fn mean(sum: u64, total: u64) -> u8 {
        let mut pixels = vec![0.0; area_padded(1, 1, 1)];
        pixels[0] = sum as f64;
        let across = Across {
            channels: 1,
            first: &[0],
            weights: &[1.0],
            total,
        };
        let mut out = [0];
        area_across(&pixels, across, &mut out);
        out[0]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn means_are_exact(total in 1u64..1 << 40, byte in 0u64..256, around in -2i64..3) {
            for total in [total, total >> 20, total >> 30].map(|total| total.max(1)) {
                // Near the sums where the result steps.
                let step = (byte * total + total / 2).saturating_add_signed(around);
                let sum = step.min(255 * total);
                let wanted = (sum + total / 2) / total;
                prop_assert_eq!(u64::from(mean(sum, total)), wanted, "{} / {}", sum, total);
            }
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_pixel_that_is_not_there_is_a_bug() {
        let across = Across {
            channels: 3,
            first: &[3],
            weights: &[1.0],
            total: 1,
        };
        area_across(&vec![0.0; area_padded(6, 3, 1)], across, &mut [0; 3]);
    }
}

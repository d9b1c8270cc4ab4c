//! Converts random words to standard normal numbers, with the same bits on every platform.
//!
//! With q = (word + 1/2) / 2^32 - 1/2, which an f64 holds exactly, the number is the normal quantile of
//! 1/2 + q after Wichura's PPND7, whose relative error is about 1e-7, the rounding of an f32:
//!
//! - |q| <= 0.425: with r = 0.180625 - q * q, it is q * A(r) / B(r)
//! - else: with p = 1/2 - |q| and r = sqrt(-ln p) - 1.6, it is C(r) / D(r) with the sign of q. (PPND7's
//!   third range begins at p < e^-25, below the least p here, 2^-33.)
//! - ln p, for p = m * 2^e with m in [0.75, 1.5): with s = (m - 1) / (m + 1), it is
//!   e * LN_2 + s * L(s * s)
//!
//! Capital letters are polynomials by Horner's rule, from the last coefficient down: `v = v * x + c`, a
//! product rounded, then a sum rounded. All of it is f64, evaluated from left to right; fused
//! multiply-add, which Rust never inserts by itself, would change bits.
//!
//! Source: Wichura 1988, algorithm AS 241, Applied Statistics 37(3) <https://doi.org/10.2307/2347330>

use std::f64::consts::LN_2;

/// Words that [`normal_quantiles`] converts at a time: they stay in the L1 cache.
pub(super) const RUN: usize = 256;

const A: [f64; 4] = [3.3871327179, 50.434271938, 159.29113202, 59.109374720];
const B: [f64; 4] = [1.0, 17.895169469, 78.757757664, 67.187563600];
const C: [f64; 4] = [1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103];
const D: [f64; 3] = [1.0, 0.73700164250, 0.12021132975];
/// Coefficients of 2 atanh(s) / s in s²; the omitted terms are below 1e-12 of ln p.
const L: [f64; 8] = [
    2.0,
    2.0 / 3.0,
    2.0 / 5.0,
    2.0 / 7.0,
    2.0 / 9.0,
    2.0 / 11.0,
    2.0 / 13.0,
    2.0 / 15.0,
];
/// Largest |q| of the first form.
const CENTRE: f64 = 0.425;

/// Fills `out`, at most as long as `words`, with the normal quantiles of the words.
///
/// The tails, 15% of the words, are gathered and computed after the rest: both loops then run without
/// branches, several lanes at a time.
pub(super) fn normal_quantiles(words: &[u32; RUN], out: &mut [f32]) {
    let mut q = [0.0; RUN];
    for (q, word) in q.iter_mut().zip(words) {
        *q = centred(*word);
    }
    for (out, q) in out.iter_mut().zip(&q) {
        *out = centre(*q) as f32;
    }
    let mut places = [0; RUN];
    let mut count = 0;
    for (place, q) in q.iter().enumerate().take(out.len()) {
        places[count] = place;
        count += usize::from(q.abs() > CENTRE);
    }
    let mut tails = [0.0; RUN];
    for (value, place) in tails.iter_mut().zip(&places[..count]) {
        *value = q[*place];
    }
    for value in &mut tails[..count] {
        *value = tail(*value);
    }
    for (value, place) in tails.iter().zip(&places[..count]) {
        out[*place] = *value as f32;
    }
}

/// (word + 1/2) / 2^32 - 1/2, exactly.
fn centred(word: u32) -> f64 {
    // Flipping the top bit subtracts 2^31, in a form that processors convert fast.
    let signed = (word ^ (1 << 31)).cast_signed();
    (f64::from(signed) + 0.5) * 2f64.powi(-32)
}

fn centre(q: f64) -> f64 {
    let r = 0.180625 - q * q;
    q * horner(&A, r) / horner(&B, r)
}

fn tail(q: f64) -> f64 {
    let r = (-ln(0.5 - q.abs())).sqrt() - 1.6;
    (horner(&C, r) / horner(&D, r)).copysign(q)
}

/// Logarithm of a positive, normal `p`.
fn ln(p: f64) -> f64 {
    const UPPER_BITS_OF_0_75: u32 = 0x3FE8_0000;
    let upper = (p.to_bits() >> 32) as u32;
    let exponent = upper.wrapping_sub(UPPER_BITS_OF_0_75).cast_signed() >> 20;
    let m = f64::from_bits(p.to_bits().wrapping_sub((exponent as u64) << 52));
    let s = (m - 1.0) / (m + 1.0);
    f64::from(exponent) * LN_2 + s * horner(&L, s * s)
}

fn horner<const N: usize>(coefs: &[f64; N], x: f64) -> f64 {
    coefs
        .iter()
        .rev()
        .skip(1)
        .fold(coefs[N - 1], |v, c| v * x + c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(p: f64) -> f32 {
        let mut words = [0; RUN];
        words[0] = (p * 2f64.powi(32)) as u32;
        let mut out = [0.0];
        normal_quantiles(&words, &mut out);
        out[0]
    }

    /// Quantiles by `torch.special.ndtri` in f64.
    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, z) in [
            (0.6, 0.253_347_103_1),
            (0.75, 0.674_489_750_2),
            (0.925, 1.439_531_470_9),
            (0.926, 1.446_632_067_2),
            (0.975, 1.959_963_984_5),
            (0.999, 3.090_232_306_2),
            (0.999_999, 4.753_424_308_8),
        ] {
            for (p, z) in [(p, z), (1.0 - p, -z)] {
                let error = (f64::from(normal(p)) / z - 1.0).abs();
                // 1.2e-7 of PPND7, 0.6e-7 of rounding to f32. Cutting p to 32 bits adds
                // 2^-32 / (density * z), most at 0.999999, where it is 1e-5.
                let cut = 2f64.powi(-32) * 2.51 * (z * z / 2.0).exp() / z.abs();
                assert!(error < 2e-7 + cut, "{p} {error}");
            }
        }
    }

    #[test]
    fn the_ends_are_finite_and_opposite() {
        assert_eq!(tail(centred(0)), -tail(centred(u32::MAX)));
        // The quantile of 2^-33.
        assert!((tail(centred(0)) + 6.337_957_755).abs() < 2e-6);
        // Zero lies between the two words in the middle.
        assert_eq!(centred(1 << 31), 2f64.powi(-33));
        assert_eq!(centred((1 << 31) - 1), -(2f64.powi(-33)));
    }

    /// std's logarithm differs between platforms in the last bit, far below the tolerance here.
    #[test]
    fn the_logarithm_is_one() {
        for k in 0..100_000 {
            let p = 2f64.powi(-33) + f64::from(k) * 0.075e-5;
            assert!((ln(p) / p.ln() - 1.0).abs() < 1e-12, "{p}");
        }
    }

    #[test]
    fn numbers_rise_with_their_words() {
        let mut last = f32::NEG_INFINITY;
        for start in (0..=u32::MAX).step_by(1 << 18) {
            let mut words = [0; RUN];
            for (at, word) in words.iter_mut().enumerate() {
                *word = start + (at as u32) * (1 << 10);
            }
            let mut out = [0.0; RUN];
            normal_quantiles(&words, &mut out);
            for z in out {
                // The error of 1e-7 may let neighbours trade places by that much.
                assert!(z > last - 2e-6, "{start}");
                last = z;
            }
        }
    }
}

//! Codebooks of DDCM: K fixed noise images to choose from at each reverse step.
//!
//! With noise from codebooks, the chosen indices determine the sampled image: so an image is compressed to
//! a few bits. A decoder must make exactly the same noise, so the recipe is part of the file format
//! (`formats::ddcm`) and given here in full; `scripts/reference/codebook.py` is a second implementation.
//!
//! # Recipe, version 1
//!
//! Entry `index` of step `step` of the codebooks with seed `seed`:
//!
//! 1. Run ChaCha20 in its original layout (block counter and nonce of 64 bits each). The key is `seed` as 8
//!    bytes, little-endian, followed by the 24 ASCII bytes `ddpm codebook, version 1`; the nonce is
//!    `step * 65536 + index`; the counter starts at 0.
//! 2. Read the key stream as little-endian u32 words. Word `i` makes value `i` of the image in `[C, H, W]`
//!    order.
//! 3. A word becomes the standard normal quantile of (word + 1/2) / 2^32 as `codebook/quantile.rs` says,
//!    in f64 with each operation rounded by itself, and is then rounded to f32.
//!
//! It uses only `+ - * /` and square roots of IEEE doubles, which every platform rounds alike; logarithms
//! and cosines of C libraries differ. K and the image's shape are not part of the recipe: the first entries
//! of a larger codebook, or the first values of a larger image, are the same.
//!
//! Source: Ohayon et al. 2025, section 3 <https://arxiv.org/abs/2502.01189>; ChaCha20: Bernstein 2008,
//! "ChaCha, a variant of Salsa20".

mod quantile;

use std::ops::Range;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use tch::Tensor;

use quantile::{RUN, normal_quantiles};

/// Second part of the key: draws for other purposes share no numbers with these.
const DOMAIN: &[u8; 24] = b"ddpm codebook, version 1";
/// Allowed sizes of a codebook.
const SIZES: std::ops::RangeInclusive<u32> = 2..=65536;
/// Maximum values of one image: an entry of 1 GiB.
const MAX_VALUES: i64 = 1 << 28;
/// Steps must be below this: the nonce has 48 bits for them.
const MAX_STEPS: u64 = 1 << 48;

/// K standard normal images for each step, generated on demand and never kept.
///
/// Step 0 is the draw of x_T; 1, 2, … are the reverse steps in sampling order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codebook {
    seed: u64,
    size: u32,
    chw: [i64; 3],
}

impl Codebook {
    /// Codebooks of `size` = K images of shape `chw`.
    ///
    /// # Errors
    /// If K is not a power of two from 2 to 65536, a side of the image is below 1, or it has more than 2^28 values.
    pub fn new(seed: u64, size: u32, chw: [i64; 3]) -> Result<Codebook> {
        check_size(size)?;
        let values = chw
            .iter()
            .try_fold(1i64, |n, &side| n.checked_mul(side.max(0)))
            .unwrap_or(i64::MAX);
        ensure!(
            values > 0 && values <= MAX_VALUES,
            "a codebook of images [C, H, W] = {chw:?}: want sides of 1 or more and at most {MAX_VALUES} values"
        );
        Ok(Codebook { seed, size, chw })
    }

    /// The number K of entries.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bits of an index, log2 K.
    pub fn index_bits(&self) -> u32 {
        self.size.ilog2()
    }

    /// One noise image.
    ///
    /// # Shapes
    /// Returns C * H * W values in `[C, H, W]` order.
    ///
    /// # Panics
    /// If `index` is not below K, or `step` not below 2^48.
    pub fn entry(&self, step: u64, index: u32) -> Vec<f32> {
        self.entries_in(step, index..index + 1)
    }

    /// All K images of a step, generated in parallel.
    ///
    /// They occupy 4 * K * C * H * W bytes, 13 GB for K = 65536 and 128 px: see
    /// [`entries_in`](Codebook::entries_in).
    ///
    /// # Shapes
    /// Returns K * C * H * W values in `[K, C, H, W]` order.
    ///
    /// # Panics
    /// If `step` is not below 2^48.
    pub fn entries(&self, step: u64) -> Vec<f32> {
        self.entries_in(step, 0..self.size)
    }

    /// The images of a step with the given indices, generated in parallel.
    ///
    /// # Shapes
    /// Returns indices.len() * C * H * W values in `[indices.len(), C, H, W]` order.
    ///
    /// # Panics
    /// If an index is not below K, or `step` not below 2^48.
    pub fn entries_in(&self, step: u64, indices: Range<u32>) -> Vec<f32> {
        assert!(
            indices.end <= self.size && step < MAX_STEPS,
            "entries {indices:?} of step {step}, but K is {}",
            self.size
        );
        let values = self.values();
        let mut all = vec![0.0; indices.len() * values];
        all.par_chunks_mut(values)
            .zip(indices.into_par_iter())
            .for_each(|(entry, index)| self.fill(step, index, entry));
        all
    }

    /// [`entry`](Codebook::entry) as a tensor.
    ///
    /// # Shapes
    /// Returns `[C, H, W]` f32 on CPU.
    ///
    /// # Panics
    /// As [`entry`](Codebook::entry).
    pub fn entry_tensor(&self, step: u64, index: u32) -> Tensor {
        Tensor::from_slice(&self.entry(step, index)).view(self.chw)
    }

    /// [`entries_in`](Codebook::entries_in) as a tensor.
    ///
    /// # Shapes
    /// Returns `[indices.len(), C, H, W]` f32 on CPU.
    ///
    /// # Panics
    /// As [`entries_in`](Codebook::entries_in).
    pub fn entries_tensor(&self, step: u64, indices: Range<u32>) -> Tensor {
        let [c, h, w] = self.chw;
        let count = indices.len() as i64;
        Tensor::from_slice(&self.entries_in(step, indices)).view([count, c, h, w])
    }

    fn values(&self) -> usize {
        self.chw.iter().product::<i64>() as usize
    }

    fn fill(&self, step: u64, index: u32, entry: &mut [f32]) {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..].copy_from_slice(DOMAIN);
        let mut stream = ChaCha20Rng::from_seed(key);
        stream.set_stream((step << 16) | u64::from(index));
        let mut bytes = [0; 4 * RUN];
        let mut words = [0; RUN];
        for run in entry.chunks_mut(RUN) {
            stream.fill_bytes(&mut bytes);
            for (word, four) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u32::from_le_bytes(*four);
            }
            normal_quantiles(&words, run);
        }
    }
}

/// Checks that K is a power of two, so that an index is a whole number of bits.
fn check_size(size: u32) -> Result<()> {
    let (least, most) = SIZES.into_inner();
    let above = size.clamp(least, most).next_power_of_two();
    let below = if above > size {
        (above / 2).max(least)
    } else {
        above
    };
    let nearest = if below == above {
        above.to_string()
    } else {
        format!("{below} or {above}")
    };
    ensure!(
        SIZES.contains(&size) && size.is_power_of_two(),
        "a codebook of {size} entries: want a power of two from {least} to {most}; the nearest is {nearest}"
    );
    Ok(())
}

#[cfg(test)]
mod tests;

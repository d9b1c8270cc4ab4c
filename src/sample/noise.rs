//! Where the noise of sampled pictures comes from.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::rng::picture_noise;

/// Standard normal noise, picture by picture and draw by draw: draw 0 is x_T.
#[derive(Debug)]
pub enum NoiseSource {
    /// A function of (seed, picture, draw) alone.
    Seed(u64),
    /// `[draws, N, C, H, W]` f32, for comparing with other programs.
    Given(Tensor),
}

impl NoiseSource {
    /// Draw `k` of the pictures `numbers`, `[numbers.len(), C, H, W]` on `device`.
    ///
    /// # Panics
    /// For a draw or pictures that given noise does not have.
    pub fn draw(&self, numbers: Range<u64>, k: u64, chw: [i64; 3], device: Device) -> Tensor {
        match self {
            NoiseSource::Seed(seed) => picture_noise(*seed, numbers, k, chw, device),
            NoiseSource::Given(noise) => {
                let count = (numbers.end - numbers.start) as i64;
                let draw = noise.get(k as i64);
                draw.narrow(0, numbers.start as i64, count)
                    .to_device(device)
            }
        }
    }
}

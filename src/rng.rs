//! Step-keyed randomness: every draw is a function of (seed, stream, index), never of a generator's
//! history.
//!
//! libtorch has one generator per device for the whole process, so [`seeded`] holds a lock while reseeding
//! and drawing: threads do not disturb each other.
//!
//! So a resumed run needs only the step number, a batch can be replayed alone, and on CPU the PyTorch
//! reference (`scripts/reference/rng.py`) draws the same bits. The key reseeds libtorch's generators
//! before each draw; libtorch's CPU generator uses its low 32 bits.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

/// Purpose of a draw; streams of one seed share no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Initial weights.
    Init = 1,
    /// Order of the images, one permutation per epoch.
    Order = 2,
    /// Random horizontal flips of a batch.
    Flip = 3,
    /// The time steps t of a batch.
    Timestep = 4,
    /// The noise eps of a batch.
    Noise = 5,
    /// Dropout masks.
    Dropout = 6,
    /// Noise of sampled images.
    Sample = 7,
    /// The built-in images.
    Data = 8,
    /// Codebook entries of sampled images.
    Entry = 9,
}

/// The mixing step of splitmix64: a bijection of u64 whose output bits all depend on all input bits.
///
/// Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
pub fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The generator seed for draw `index` of `stream`; non-negative as an i64.
pub fn key(seed: u64, stream: Stream, index: u64) -> u64 {
    key_raw(seed, stream as u64, index)
}

fn key_raw(seed: u64, stream: u64, index: u64) -> u64 {
    mix(mix(mix(seed) ^ stream) ^ index) >> 1
}

static GENERATOR: Mutex<()> = Mutex::new(());

/// Runs `draw` with libtorch's generators freshly seeded from `key`. `draw` must not call `seeded`.
pub fn seeded<T>(key: u64, draw: impl FnOnce() -> T) -> T {
    // Ignore poisoning: the next reseeding replaces whatever state a panicking draw left.
    let _guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(key as i64);
    draw()
}

/// Draws standard normal f32 values of shape `shape` on `device` for (seed, stream, index).
pub fn normal(seed: u64, stream: Stream, index: u64, shape: &[i64], device: Device) -> Tensor {
    seeded(key(seed, stream, index), || {
        Tensor::randn(shape, (Kind::Float, device))
    })
}

/// Noise for sampling images `images.start..images.end`, each of shape `[C, H, W]`.
///
/// Image `i` of draw `k` (0 for x_T, then 1, 2, … for the reverse steps) depends only on (seed, i, k), not
/// on the images drawn with it.
///
/// # Shapes
/// Returns `[images.len(), C, H, W]` f32.
pub fn image_noise(
    seed: u64,
    images: std::ops::Range<u64>,
    k: u64,
    chw: [i64; 3],
    device: Device,
) -> Tensor {
    let draws: Vec<Tensor> = images
        .map(|i| key_raw(key(seed, Stream::Sample, i), 0, k))
        .map(|key| seeded(key, || Tensor::randn(chw, (Kind::Float, device))))
        .collect();
    Tensor::stack(&draws, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // First outputs of the public-domain splitmix64.c for seed 0 and seed 1234567.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
    }

    #[test]
    fn draws_depend_on_seed_stream_and_index_alone() {
        let draw = |seed, stream, index| normal(seed, stream, index, &[8], Device::Cpu);
        let a = draw(1, Stream::Noise, 5);
        seeded(99, || ());
        assert_eq!(a, draw(1, Stream::Noise, 5));
        for other in [
            draw(2, Stream::Noise, 5),
            draw(1, Stream::Flip, 5),
            draw(1, Stream::Noise, 6),
        ] {
            assert_ne!(a, other);
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_company() {
        let many = image_noise(3, 0..4, 7, [3, 4, 4], Device::Cpu);
        let one = image_noise(3, 2..3, 7, [3, 4, 4], Device::Cpu);
        assert_eq!(many.get(2), one.get(0));
    }
}

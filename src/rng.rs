//! Step-keyed randomness: every draw is a function of (seed, stream, index), never of a generator's
//! history.
//!
//! libtorch has one generator per device for the whole process, so [`seeded`] holds a lock while reseeding
//! and drawing: threads do not disturb each other.
//!
//! So a resumed run needs only the step number, a batch can be replayed alone, and on CPU the PyTorch
//! reference (`scripts/reference/rng.py`) draws the same bits. The key reseeds libtorch's generators
//! before each draw.
//!
//! # Draws of a training step
//!
//! The order of the images, their flips and their time steps are drawn for the whole batch, on the CPU: they are a few
//! numbers, and whoever computes a share of the batch takes its part of them. Noise and dropout are drawn on the device.
//! With `train.draws` = image, each image of the batch has noise of its own ([`batch_noise`]), and each microbatch its
//! own dropout ([`part_key`]), so that a share of the batch can be drawn where it is computed, and alone. With
//! `train.draws` = batch, that of older runs, the noise is one draw over the batch, and dropout one stream through all
//! of its microbatches.
//!
//! # Limits
//!
//! - libtorch's CPU generator uses the low 32 bits of a key. So among N noise images, N^2 / 2^33 pairs are expected to be
//!   the same: in 10^8 of them (800,000 batches of 128) 1.2 million pairs, of which one or two lie within a batch. The
//!   noise of a pair is added to other images at other time steps. CUDA's generator uses all 63 bits.
//! - On CUDA, a draw of more values than the device has threads depends on their number. An RTX 3090 has 82 x 1536,
//!   which are RGB images of up to 204 x 204 pixels; several equal devices draw the same for any size.

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
    /// Images of a batch whose class the network is not told.
    LabelDropout = 10,
    /// Noise on low-resolution images, and how much of it.
    Condition = 11,
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

/// The generator seed for part `part` of draw `index` of `stream`: an image of a batch, or a microbatch.
pub fn part_key(seed: u64, stream: Stream, index: u64, part: u64) -> u64 {
    // No stream has this number.
    key_raw(key(seed, stream, index), 0, part)
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

/// Noise for sampling the images of these numbers, each of shape `[C, H, W]`.
///
/// Image `i` of draw `k` (0 for x_T, then 1, 2, … for the reverse steps) depends only on (seed, i, k), not
/// on the images drawn with it.
///
/// # Shapes
/// Returns `[images.len(), C, H, W]` f32.
pub fn image_noise(
    seed: u64,
    images: impl IntoIterator<Item = u64>,
    k: u64,
    chw: [i64; 3],
    device: Device,
) -> Tensor {
    let keys = images.into_iter();
    let keys = keys.map(|i| part_key(seed, Stream::Sample, i, k));
    images_drawn(keys, chw, device)
}

/// The noise eps of the images at `places` of the batch of step `step`, each of shape `[C, H, W]`.
///
/// That of an image depends only on (seed, step, its place in the batch), not on the images drawn with it.
///
/// # Shapes
/// Returns `[places.len(), C, H, W]` f32.
pub fn batch_noise(
    seed: u64,
    step: u64,
    places: impl IntoIterator<Item = u64>,
    chw: [i64; 3],
    device: Device,
) -> Tensor {
    noise_at(seed, places.into_iter().map(|i| (step, i)), chw, device)
}

/// As [`batch_noise`], for the low-resolution images that a network is given: another noise.
///
/// # Shapes
/// Returns `[places.len(), C, h, w]` f32.
pub fn condition_noise(
    seed: u64,
    step: u64,
    places: impl IntoIterator<Item = u64>,
    chw: [i64; 3],
    device: Device,
) -> Tensor {
    let keys = places
        .into_iter()
        .map(|place| part_key(seed, Stream::Condition, step, place));
    images_drawn(keys, chw, device)
}

/// As [`batch_noise`], for images of several steps: the noise of each (step, place).
///
/// # Shapes
/// Returns `[draws, C, H, W]` f32.
pub fn noise_at(
    seed: u64,
    draws: impl IntoIterator<Item = (u64, u64)>,
    chw: [i64; 3],
    device: Device,
) -> Tensor {
    let draws = draws.into_iter();
    images_drawn(
        draws.map(|(step, place)| part_key(seed, Stream::Noise, step, place)),
        chw,
        device,
    )
}

/// Standard normal images, one for each key, drawn where they lie in the result.
fn images_drawn(keys: impl Iterator<Item = u64>, [c, h, w]: [i64; 3], device: Device) -> Tensor {
    let keys: Vec<u64> = keys.collect();
    let images = Tensor::empty([keys.len() as i64, c, h, w], (Kind::Float, device));
    for (i, key) in keys.into_iter().enumerate() {
        let mut image = images.get(i as i64);
        seeded(key, || drop(image.normal_(0.0, 1.0)));
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libtorch draws fewer than 16 values in another way, and the last values of no multiple of 16 once more.
    const SIZES: [[i64; 3]; 3] = [[1, 2, 3], [3, 3, 3], [3, 8, 8]];

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
        for chw in SIZES {
            for draw in [image_noise, |seed, images, k, chw, device| {
                batch_noise(seed, k, images, chw, device)
            }] {
                let many = draw(3, 0..5, 7, chw, Device::Cpu);
                let share = draw(3, 2..4, 7, chw, Device::Cpu);
                assert_eq!(many.narrow(0, 2, 2), share);
                let all: Vec<f32> = Vec::try_from(many.flatten(0, -1)).unwrap();
                assert!(all.iter().all(|value| value.abs() < 6.0));
                assert_ne!(share.get(0), share.get(1));
            }
        }
    }

    #[test]
    fn an_image_is_drawn_as_if_it_were_alone() {
        for chw in SIZES {
            let alone = seeded(part_key(3, Stream::Noise, 7, 2), || {
                Tensor::randn(chw, (Kind::Float, Device::Cpu))
            });
            assert_eq!(batch_noise(3, 7, 0..4, chw, Device::Cpu).get(2), alone);
        }
    }

    #[test]
    fn parts_have_keys_of_their_own() {
        let mut keys: Vec<u64> = (0..100).map(|n| key(1, Stream::Noise, n)).collect();
        for index in 0..100 {
            keys.extend((0..100).map(|part| part_key(1, Stream::Noise, index, part)));
        }
        let drawn = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), drawn);
    }
}

//! Sources of the noise of sampled images.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Codebook;
use crate::native;
use crate::rng::{Stream, image_noise, key};

/// Standard normal noise by image and draw: draw 0 is x_T.
#[derive(Debug)]
pub enum NoiseSource {
    /// A function of (seed, image, draw) only.
    Seed(u64),
    /// The same for images whose numbers do not follow one another: the first is that of the first number, and so on.
    Numbered(u64, Vec<u64>),
    /// Given noise, `[draws, N, C, H, W]` f32, for comparison with other programs.
    Given(Tensor),
    /// Entries of codebooks.
    Codebook(Codebook, Choice),
}

/// Choice of an image's codebook entry at each draw.
#[derive(Debug)]
pub enum Choice {
    /// A function of (seed, image, draw) only.
    Seed(u64),
    /// Given indices, `[image][draw]`.
    Given(Vec<Vec<u32>>),
}

impl NoiseSource {
    /// Draw `k` of the images `numbers`, `[numbers.len(), C, H, W]` on `device`.
    ///
    /// # Panics
    /// If given noise has no such draw or images.
    pub fn draw(&self, numbers: Range<u64>, k: u64, chw: [i64; 3], device: Device) -> Tensor {
        match self {
            NoiseSource::Seed(seed) => image_noise(*seed, numbers, k, chw, device),
            NoiseSource::Numbered(seed, all) => {
                let own = &all[numbers.start as usize..numbers.end as usize];
                image_noise(*seed, own.iter().copied(), k, chw, device)
            }
            NoiseSource::Given(noise) => {
                let count = (numbers.end - numbers.start) as i64;
                let draw = noise.get(k as i64);
                in_passing(&draw.narrow(0, numbers.start as i64, count), device)
            }
            NoiseSource::Codebook(codebook, choice) => {
                let entry = |i| codebook.entry_tensor(k, choice.index(i, k, codebook.size()));
                in_passing(
                    &Tensor::stack(&numbers.map(entry).collect::<Vec<_>>(), 0),
                    device,
                )
            }
        }
    }
}

/// Sends numbers to a device; the host does not wait for the steps before.
fn in_passing(noise: &Tensor, device: Device) -> Tensor {
    native::send(&noise.to_kind(Kind::Float), device).expect("there is host memory for the noise")
}

impl Choice {
    /// `size` is a power of two.
    fn index(&self, image: u64, draw: u64, size: u32) -> u32 {
        match self {
            Choice::Seed(seed) => {
                let of_image = key(*seed, Stream::Entry, image);
                (key(of_image, Stream::Entry, draw) % u64::from(size)) as u32
            }
            Choice::Given(indices) => indices[image as usize][draw as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_choices_use_all_entries_and_do_not_depend_on_company() {
        let choice = Choice::Seed(3);
        let mut seen = [0u32; 8];
        for image in 0..100 {
            for draw in 0..100 {
                seen[choice.index(image, draw, 8) as usize] += 1;
            }
        }
        // 10,000 draws over 8: 1250 each, standard deviation 33.
        assert!(seen.iter().all(|n| n.abs_diff(1250) < 170), "{seen:?}");

        let chw = [1, 2, 2];
        let source = NoiseSource::Codebook(Codebook::new(1, 8, chw).unwrap(), choice);
        let many = source.draw(0..5, 7, chw, Device::Cpu);
        assert_eq!(many.get(3), source.draw(3..4, 7, chw, Device::Cpu).get(0));
    }
}

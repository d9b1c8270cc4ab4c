//! Sliced Wasserstein distances on Laplacian pyramids, for which no network is needed.
//!
//! Each image becomes a pyramid: its details at full size, at half, and so on, and what is left at the end. On each
//! level patches of 7 by 7 are cut from each image at random places, and the channels of a set's patches are scaled to
//! mean 0 and deviation 1. The distance of two sets of patches is the mean, over random directions, of the distance of
//! their projections on a line, which is that of their sorted values. So a level says how much the details of its size
//! differ: blur and noise show on the first, shapes on the last.
//!
//! Since each set is scaled by its own deviation, a colour or a contrast that all images share is not seen.
//!
//! Source: Karras et al. 2018, section 5 <https://arxiv.org/abs/1710.10196>; values are times 1000, as there. Unlike
//! there, sets of different numbers of images can be compared, images need be neither square nor of a power of two, and
//! patches per image are fewer where there are many images, so that memory is bounded.

mod patches;
mod pyramid;

use anyhow::{Result, ensure};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

pub use self::patches::Patches;
use crate::rng::{mix, seeded};

/// Side of a patch in pixels.
const PATCH: i64 = 7;
/// Smallest side of a level.
const MIN_SIDE: i64 = 16;
/// Directions that are projected on at a time, which bounds memory.
const DIRECTIONS_AT_ONCE: i64 = 32;

/// How distances are measured; two sets are comparable with equal options only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicedOptions {
    /// Patches that are cut from an image on each level; fewer if there would be more than `most_patches`.
    pub patches_per_image: u64,
    /// Most patches of a set on a level: each takes `49 * C * 4` bytes, so an RGB set of the default takes 39 MB a
    /// level, and twice that while they are thinned.
    pub most_patches: u64,
    /// Random directions.
    pub directions: u64,
    /// Seed of places and directions.
    pub seed: u64,
}

impl Default for SlicedOptions {
    fn default() -> Self {
        Self {
            patches_per_image: 128,
            most_patches: 1 << 16,
            directions: 512,
            seed: 0,
        }
    }
}

/// Distances of two sets, times 1000.
#[derive(Debug, Clone, PartialEq)]
pub struct Sliced {
    /// Of each level, the finest first.
    pub levels: Vec<Level>,
    /// Their mean.
    pub mean: f64,
}

/// The distance on one level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Height of the level's images in pixels.
    pub height: i64,
    /// Their width.
    pub width: i64,
    /// The distance, times 1000.
    pub distance: f64,
}

/// Measures the distance of two sets of images by their patches.
///
/// # Errors
/// Images of different sizes or channels, patches cut with different options, or a set without images.
pub fn sliced(a: &Patches, b: &Patches) -> Result<Sliced> {
    ensure!(
        a.chw == b.chw,
        "{} cannot be compared with {}: both sets need images of one size and colour; resize one of them",
        a.described(),
        b.described()
    );
    ensure!(
        a.options == b.options,
        "patches cut with {:?} cannot be compared with those of {:?}",
        a.options,
        b.options
    );
    let sides = pyramid::sides(a.chw);
    let levels: Vec<Level> = (0..sides.len())
        .map(|level| {
            let distance = 1000.0 * distance(&a.level(level)?, &b.level(level)?, &a.options, level);
            let [height, width] = sides[level];
            Ok(Level {
                height,
                width,
                distance,
            })
        })
        .collect::<Result<_>>()?;
    let mean = levels.iter().map(|level| level.distance).sum::<f64>() / levels.len() as f64;
    Ok(Sliced { levels, mean })
}

/// What equal sets are apart because they are finite: the distance of the images of even number from those of odd. It
/// shrinks with the number of images, and is of half of them, so a distance of whole sets should be held against
/// somewhat less.
///
/// # Errors
/// A set of fewer than two images.
pub fn baseline(set: &Patches) -> Result<Sliced> {
    let [even, odd] = set.halves()?;
    sliced(&even, &odd)
}

/// The mean distance of the projections of two sets of normalised patches, `[patches, numbers]` each.
fn distance(a: &Tensor, b: &Tensor, options: &SlicedOptions, level: usize) -> f64 {
    let numbers = a.size()[1];
    let directions = seeded(mix(options.seed ^ mix(level as u64)) >> 1, || {
        Tensor::randn(
            [numbers, options.directions as i64],
            (Kind::Float, Device::Cpu),
        )
    });
    let lengths = directions.norm_scalaropt_dim(2.0, [0_i64], true);
    let directions = directions / lengths;
    let between = Between::new(a.size()[0], b.size()[0]);
    let parts = directions.split(DIRECTIONS_AT_ONCE, 1);
    let sums = parts.iter().map(|part| {
        let sorted = |set: &Tensor| sorted_rows(&part.tr().matmul(&set.tr()));
        between.sum(&sorted(a), &sorted(b))
    });
    sums.sum::<f64>() / options.directions as f64
}

/// Sorts each row, on all cores: several times as fast as libtorch, which also moves indices.
fn sorted_rows(rows: &Tensor) -> Tensor {
    let size = rows.size();
    let flat = rows.contiguous().view([-1]);
    let mut values = Vec::<f32>::try_from(flat).expect("a vector of f32");
    values
        .par_chunks_mut(size[1] as usize)
        .for_each(|row| row.sort_unstable_by(f32::total_cmp));
    Tensor::from_slice(&values).view_(&size)
}

/// The distance of two sorted samples of n and m values: the area between their quantile functions, which are steps of
/// width 1/n and 1/m.
struct Between {
    /// For each piece between two steps, the value of each sample; `None` if both have as many.
    pieces: Option<[Tensor; 3]>,
}

impl Between {
    fn new(n: i64, m: i64) -> Self {
        if n == m {
            return Self { pieces: None };
        }
        let (mut of_a, mut of_b, mut widths) = (Vec::new(), Vec::new(), Vec::new());
        // In units of 1 / (n m), in which all steps are whole.
        let (mut i, mut j, mut at) = (0, 0, 0);
        while i < n && j < m {
            let next = ((i + 1) * m).min((j + 1) * n);
            of_a.push(i);
            of_b.push(j);
            widths.push((next - at) as f64 / (n * m) as f64);
            i += i64::from(next == (i + 1) * m);
            j += i64::from(next == (j + 1) * n);
            at = next;
        }
        Self {
            pieces: Some([
                Tensor::from_slice(&of_a),
                Tensor::from_slice(&of_b),
                Tensor::from_slice(&widths),
            ]),
        }
    }

    /// The sum of the distances of the rows of `a`, `[rows, n]`, from those of `b`, `[rows, m]`.
    fn sum(&self, a: &Tensor, b: &Tensor) -> f64 {
        let apart = match &self.pieces {
            None => (a - b).abs().mean_dim(1, false, Kind::Double),
            Some([of_a, of_b, widths]) => {
                let apart = a.index_select(1, of_a) - b.index_select(1, of_b);
                apart.abs().to_kind(Kind::Double).mv(widths)
            }
        };
        apart.sum(Kind::Double).double_value(&[])
    }
}

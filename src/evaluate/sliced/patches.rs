//! Patches of a set of images on each level of its pyramid.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::pyramid::{pyramid, sides};
use super::{MIN_SIDE, PATCH, SlicedOptions};
use crate::evaluate::ImageSet;
use crate::rng::mix;
use crate::text::plural;

/// Values of images whose pyramids are in memory at a time, a few times over.
const VALUES_AT_ONCE: i64 = 1 << 23;
/// Deviation in steps of a byte below which a channel has no detail but rounding.
const NO_DETAIL: f64 = 1e-3;

/// Patches of a set of images. Of each image they are cut at places that only the seed and its number decide.
///
/// While there are more of them than `most_patches`, each image keeps the first half of its own; when it has but one,
/// only every second image is kept. So what is left depends on the number of images, which need not be known before.
#[derive(Debug)]
pub struct Patches {
    pub(super) chw: [i64; 3],
    pub(super) options: SlicedOptions,
    origin: String,
    images: u64,
    /// Of each image that is kept.
    per_image: u64,
    /// Images are kept whose number is a multiple of this.
    stride: u64,
    /// For each level, `[kept images, per_image, C * 49]` in batches.
    levels: Vec<Vec<Tensor>>,
}

impl Patches {
    /// Cuts patches from all images of a set, in one pass.
    ///
    /// # Errors
    /// Images with a side below 16 pixels, options of 0, a set without images, and errors of the set.
    pub fn of(set: &dyn ImageSet, options: &SlicedOptions) -> Result<Self> {
        let chw = set.chw();
        let [_, height, width] = chw;
        ensure!(
            height.min(width) >= MIN_SIDE,
            "{} are of {width} x {height} pixels: sliced Wasserstein distances need sides of {MIN_SIDE} or more",
            set.origin()
        );
        let SlicedOptions {
            patches_per_image,
            most_patches,
            directions,
            ..
        } = *options;
        ensure!(
            patches_per_image > 0 && most_patches > 1 && directions > 0,
            "{patches_per_image} patches an image, {most_patches} at most and {directions} directions: \
             a distance needs some of each"
        );
        let mut patches = Self {
            chw,
            options: options.clone(),
            origin: set.origin(),
            images: 0,
            per_image: patches_per_image.min(most_patches),
            stride: 1,
            levels: sides(chw).iter().map(|_| Vec::new()).collect(),
        };
        let at_once = (VALUES_AT_ONCE / chw.iter().product::<i64>()).max(1);
        set.for_each(&mut |images| {
            for some in images.split(at_once, 0) {
                patches.add(&some)?;
            }
            Ok(())
        })?;
        ensure!(patches.images > 0, "{}: there are no images", set.origin());
        Ok(patches)
    }

    /// Images of the set.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Patches on each level.
    pub fn count(&self) -> u64 {
        self.kept() * self.per_image
    }

    fn kept(&self) -> u64 {
        self.images.div_ceil(self.stride)
    }

    pub(super) fn described(&self) -> String {
        let [channels, height, width] = self.chw;
        let channels = plural(channels as u64, "channel");
        format!("{} ({width} x {height}, {channels})", self.origin)
    }

    fn add(&mut self, images: &Tensor) -> Result<()> {
        let size = images.size();
        ensure!(
            size[1..] == self.chw,
            "{}: images of shape {:?} among those of {:?}",
            self.origin,
            &size[1..],
            self.chw
        );
        let first = self.images;
        self.images += size[0] as u64;
        while self.count() > self.options.most_patches {
            self.thin();
        }
        let numbers: Vec<u64> = (first..self.images)
            .filter(|number| number % self.stride == 0)
            .collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let rows: Vec<i64> = numbers
            .iter()
            .map(|number| (number - first) as i64)
            .collect();
        let images = images.index_select(0, &Tensor::from_slice(&rows));
        let pyramid = pyramid(&images, self.levels.len());
        for (level, images) in pyramid.iter().enumerate() {
            let cut = self.cut(images, &numbers, level as u64);
            self.levels[level].push(cut);
        }
        Ok(())
    }

    /// Halves the patches.
    fn thin(&mut self) {
        let fewer = |batches: &mut Vec<Tensor>, select: &dyn Fn(&Tensor) -> Tensor| {
            if !batches.is_empty() {
                *batches = vec![select(&Tensor::cat(batches, 0))];
            }
        };
        if self.per_image > 1 {
            self.per_image /= 2;
            let per_image = self.per_image as i64;
            for batches in &mut self.levels {
                fewer(batches, &|all| all.narrow(1, 0, per_image).contiguous());
            }
        } else {
            self.stride *= 2;
            for batches in &mut self.levels {
                fewer(batches, &|all| all.slice(0, None, None, 2).contiguous());
            }
        }
    }

    /// Cuts patches from images of one level, `[some, C, h, w]`.
    fn cut(&self, images: &Tensor, numbers: &[u64], level: u64) -> Tensor {
        let size = images.size();
        let [c, h, w] = [size[1], size[2], size[3]];
        let mut corners = Vec::with_capacity(numbers.len() * self.per_image as usize);
        for (row, &number) in numbers.iter().enumerate() {
            let key = mix(mix(mix(self.options.seed) ^ number) ^ level);
            for patch in 0..self.per_image {
                let [y, x] = place(mix(key ^ patch), [h - PATCH + 1, w - PATCH + 1]);
                corners.push((row as i64 * c * h + y) * w + x);
            }
        }
        // The places of a patch's pixels, from its corner.
        let range = |n: i64, step: i64| Tensor::arange(n, (Kind::Int64, images.device())) * step;
        let within = (range(c, h * w).view([c, 1, 1]) + range(PATCH, w).view([1, PATCH, 1]))
            .view([-1, 1])
            + range(PATCH, 1);
        let at = Tensor::from_slice(&corners).unsqueeze(1) + within.view([1, -1]);
        let pixels = images.contiguous().view([-1]).take(&at);
        pixels.view([
            numbers.len() as i64,
            self.per_image as i64,
            c * PATCH * PATCH,
        ])
    }

    /// The patches of a level, each channel of mean 0 and deviation 1, `[patches, C * 49]`.
    pub(super) fn level(&self, level: usize) -> Result<Tensor> {
        let all = Tensor::cat(&self.levels[level], 0);
        let [count, c] = [self.count() as i64, self.chw[0]];
        let channels = all.view([count, c, PATCH * PATCH]);
        let over = &[0_i64, 2][..];
        let mean = channels.mean_dim(over, true, Kind::Double);
        let centred = channels - mean.to_kind(Kind::Float);
        let std = centred.square().mean_dim(over, true, Kind::Double).sqrt();
        // A channel without any detail stays 0.
        let std = std.where_self(&std.gt(NO_DETAIL), &Tensor::ones_like(&std));
        let scaled = centred / std.to_kind(Kind::Float);
        Ok(scaled.reshape([count, -1]))
    }

    /// The patches of the kept images at even places, and of those at odd ones.
    pub(super) fn halves(&self) -> Result<[Self; 2]> {
        let kept = self.kept();
        ensure!(
            kept >= 2,
            "{}: {} cannot be halved",
            self.origin,
            plural(kept, "image")
        );
        Ok([0, 1].map(|first| Self {
            options: self.options.clone(),
            origin: self.origin.clone(),
            images: (kept - first).div_ceil(2),
            stride: 1,
            levels: (self.levels.iter())
                .map(|batches| vec![Tensor::cat(batches, 0).slice(0, first as i64, None, 2)])
                .collect(),
            ..*self
        }))
    }
}

/// A place below `sides` from 64 random bits, 32 for each axis.
fn place(bits: u64, sides: [i64; 2]) -> [i64; 2] {
    let scaled = |bits: u64, side: i64| ((bits * side as u64) >> 32) as i64;
    [
        scaled(bits >> 32, sides[0]),
        scaled(bits & 0xffff_ffff, sides[1]),
    ]
}

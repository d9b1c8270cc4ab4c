//! Images that a run holds out: training never draws them, so that evaluation has some that the network has not seen.
//!
//! What is held out is a set of hashes of decoded bytes, so images with the same pixels are on the same side.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use anyhow::Result;
use tch::{Device, Tensor};

use super::{Labels, Manifest};

/// The images held out of a data set, in its order, or in that of the folder that they are from.
#[derive(Debug)]
pub struct HeldOut {
    /// `[N, C, H, W]` u8: these images, and maybe others.
    pub(super) pixels: Tensor,
    /// Which of them.
    pub(super) indices: Vec<i64>,
    /// Name and hash of each.
    pub manifest: Manifest,
    /// The class of each, if anything says them, in the numbers of the images that are trained on if these have classes.
    pub labels: Option<Labels>,
    /// What there is to say of the folder that they are from, if they have one of their own.
    pub(super) notices: Vec<String>,
}

impl HeldOut {
    /// Number of images, at least 1.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Always false: at least one image is held out.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The images `numbers` of them, from 0.
    ///
    /// # Shapes
    /// Returns `[numbers.len(), C, H, W]` u8 on the CPU.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// Numbers beyond [`len`](HeldOut::len).
    pub fn pixels(&self, numbers: Range<usize>) -> Result<Tensor> {
        let indices = Tensor::from_slice(&self.indices[numbers]);
        let indices = indices.to_device(self.pixels.device());
        let chosen = self.pixels.f_index_select(0, &indices)?;
        Ok(chosen.f_to_device(Device::Cpu)?)
    }
}

/// Where an image lies among all that there could be, by its hash: evenly over all numbers, whatever the images.
fn place(hash: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] =
        blake3::derive_key("ddpm held-out images 1", &hash.to_be_bytes());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The hashes in the first `percent` of all places; that in the first place if there is none.
pub(super) fn share(hashes: &[u64], percent: f64) -> HashSet<u64> {
    let end = percent / 100.0 * 2f64.powi(64);
    let within = |hash: &&u64| (place(**hash) as f64) < end;
    let chosen: HashSet<u64> = hashes.iter().filter(within).copied().collect();
    match chosen.is_empty() {
        true => at_least(hashes, 1),
        false => chosen,
    }
}

/// The hashes in the first places, of so many images at least.
pub(super) fn at_least(hashes: &[u64], images: u64) -> HashSet<u64> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    hashes
        .iter()
        .for_each(|hash| *counts.entry(*hash).or_default() += 1);
    let mut order: Vec<u64> = counts.keys().copied().collect();
    order.sort_by_key(|hash| place(*hash));
    let mut found = 0;
    let mut missing = |hash: &u64| {
        let missing = found < images;
        found += counts[hash];
        missing
    };
    order.into_iter().take_while(|hash| missing(hash)).collect()
}

//! The kernel distance of two sets of features (KID).
//!
//! The squared maximum mean discrepancy under the kernel `((x . y) / d + 1)^3`, by its unbiased estimate, on subsets of
//! the images. Unlike FID it needs no covariance, so it is not too large for few images: its mean does not depend on
//! their number. Subsets and values are those of torch-fidelity.
//!
//! Source: Bińkowski et al. 2018, section 4 <https://arxiv.org/abs/1801.01401>

use anyhow::{Result, ensure};
use ndarray::Array1;
use tch::{Kind, Tensor};

use super::moments::checked_pair;
use super::numpy_random::RandomState;
use crate::text::plural;

/// How KID is measured; the default is torch-fidelity's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelOptions {
    /// Subsets that are drawn.
    pub subsets: usize,
    /// Images of each subset; no more than there are in the smaller set.
    pub subset_images: usize,
    /// Seed of the subsets.
    pub seed: u32,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            subsets: 100,
            subset_images: 1000,
            seed: 2020,
        }
    }
}

/// A kernel distance.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// Mean over the subsets; slightly below 0 for sets that are alike.
    pub mean: f64,
    /// Standard deviation over the subsets; 0 where each subset is the whole of both sets.
    pub std: f64,
    /// Images of each subset.
    pub subset_images: usize,
}

/// Measures the distance of two sets.
///
/// # Shapes
/// - `a`, `b`: `[n, d]` and `[m, d]`, f32 or f64
///
/// # Errors
/// Fewer than two images in a set, features of different lengths, or ones that are NaN or infinite.
pub fn kernel(a: &Tensor, b: &Tensor, options: &KernelOptions) -> Result<Kernel> {
    let sets = checked_pair(a, b)?;
    let counts = [0, 1].map(|i: usize| sets[i].size()[0] as usize);
    let size = options.subset_images.min(counts[0]).min(counts[1]);
    ensure!(
        size >= 2 && options.subsets > 0,
        "{} of {}: a kernel distance needs a subset of 2 images or more",
        plural(options.subsets as u64, "subset"),
        plural(size as u64, "image")
    );
    // Subsets that hold all images differ in their order alone.
    let subsets = match counts == [size, size] {
        true => 1,
        false => options.subsets,
    };
    let mut rng = RandomState::new(options.seed);
    let mut values = Array1::zeros(subsets);
    for value in &mut values {
        let [a, b] = [0, 1].map(|i: usize| {
            let chosen = rng.choice(counts[i], size);
            sets[i].index_select(0, &Tensor::from_slice(&chosen))
        });
        *value = discrepancy(&a, &b);
    }
    Ok(Kernel {
        mean: values.mean().expect("a subset or more"),
        std: values.std(0.0),
        subset_images: size,
    })
}

/// The unbiased estimate of the squared discrepancy of two sets of one size.
fn discrepancy(a: &Tensor, b: &Tensor) -> f64 {
    let m = a.size()[0] as f64;
    let sum = |x: &Tensor| x.sum(Kind::Double).double_value(&[]);
    // Of an image with itself nothing is learned.
    let within = |x: &Tensor| {
        let k = kernel_of(x, x);
        sum(&k) - sum(&k.diagonal(0, 0, 1))
    };
    let across = sum(&kernel_of(a, b));
    (within(a) + within(b)) / (m * (m - 1.0)) - 2.0 * across / (m * m)
}

/// The kernel of each of one set with each of the other.
fn kernel_of(x: &Tensor, y: &Tensor) -> Tensor {
    let product = x.matmul(&y.tr()) / x.size()[1] as f64 + 1.0;
    product.square() * product
}

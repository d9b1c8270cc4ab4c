//! Mean and covariance of features, as streaming f64 sums.
//!
//! [`Sums`] takes features in batches of any size, holds `d * d` numbers however many images there are, and can be
//! added to the sums of others. [`Moments`] are what follows from them, and what a file of statistics holds
//! ([`Statistics`]).

mod file;

use anyhow::{Result, bail, ensure};
use ndarray::{Array1, Array2};
use tch::{Device, Kind, Tensor};

pub use self::file::Statistics;
use crate::text::plural;

/// Features that are added up at once. One product of matrices for many images is fast, and a fixed number makes the
/// sums independent of the sizes of the batches, to the bit.
const BLOCK_ROWS: i64 = 512;

/// Mean and covariance of a set of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Images that they were measured on; `None` if the file does not say.
    pub count: Option<u64>,
    /// `[d]`.
    pub mean: Array1<f64>,
    /// `[d, d]`, of the unbiased estimate: divided by the number of images less 1.
    pub cov: Array2<f64>,
}

impl Moments {
    /// Numbers that a feature vector has.
    pub fn dims(&self) -> usize {
        self.mean.len()
    }
}

/// Sums over features x, from which their mean and covariance follow.
///
/// A shift is subtracted from each x, the mean of the first ones, so that no digits are lost where the mean is far from
/// 0 compared with the spread.
#[derive(Debug)]
pub struct Sums {
    /// Images that were added, those waiting included.
    count: u64,
    /// `[d]` f64.
    shift: Option<Tensor>,
    /// Sum of x - shift, `[d]` f64.
    sum: Tensor,
    /// Sum of (x - shift) (x - shift)^T, `[d, d]` f64.
    outer: Tensor,
    /// Features not yet in the sums, `[some, d]` each, together fewer than [`BLOCK_ROWS`].
    waiting: Vec<Tensor>,
}

impl Sums {
    /// Sums of nothing, for features of `dims` numbers.
    pub fn new(dims: i64) -> Self {
        let f64s = (Kind::Double, Device::Cpu);
        Self {
            count: 0,
            shift: None,
            sum: Tensor::zeros([dims], f64s),
            outer: Tensor::zeros([dims, dims], f64s),
            waiting: Vec::new(),
        }
    }

    /// Images that were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds the features of some images.
    ///
    /// # Shapes
    /// - `features`: `[some, d]` f32 or f64, on any device
    ///
    /// # Errors
    /// Another number of dimensions, or features that are NaN or infinite; the first such image is named by its number.
    pub fn add(&mut self, features: &Tensor) -> Result<()> {
        let features = checked(features, self.count)?;
        let dims = self.sum.size()[0];
        ensure!(
            features.size()[1] == dims,
            "features of {} numbers, wanted {dims}, as the first ones have",
            features.size()[1]
        );
        self.count += features.size()[0] as u64;
        self.waiting.push(features);
        let rows = self.waiting.iter().map(|some| some.size()[0]).sum::<i64>();
        if rows >= BLOCK_ROWS {
            let rows = Tensor::cat(&std::mem::take(&mut self.waiting), 0);
            for block in rows.split(BLOCK_ROWS, 0) {
                match block.size()[0] {
                    BLOCK_ROWS => self.add_block(&block),
                    _ => self.waiting.push(block.copy()),
                }
            }
        }
        Ok(())
    }

    fn add_block(&mut self, block: &Tensor) {
        let mean = || block.mean_dim(0, false, Kind::Double);
        let shifted = block - &*self.shift.get_or_insert_with(mean);
        self.sum += shifted.sum_dim_intlist(0, false, Kind::Double);
        let _ = self.outer.addmm_(&shifted.tr(), &shifted);
    }

    fn add_waiting(&mut self) {
        if !self.waiting.is_empty() {
            let rest = Tensor::cat(&std::mem::take(&mut self.waiting), 0);
            self.add_block(&rest);
        }
    }

    /// Adds the sums of other images, as those of another rank: as if the images had been added here.
    ///
    /// # Errors
    /// Sums of features of another number of dimensions.
    pub fn merge(&mut self, mut other: Self) -> Result<()> {
        let [dims, others] = [&self.sum, &other.sum].map(|sum| sum.size()[0]);
        ensure!(
            dims == others,
            "sums over features of {others} numbers cannot be added to those of {dims}"
        );
        self.add_waiting();
        other.add_waiting();
        let Some(shift) = &other.shift else {
            return Ok(());
        };
        // x - s = (x - s') + delta for each of the others' images.
        let delta = shift - &*self.shift.get_or_insert_with(|| shift.copy());
        let cross = other.sum.outer(&delta);
        let count = other.count as f64;
        self.outer += other.outer + &cross + cross.tr() + delta.outer(&delta) * count;
        self.sum += other.sum + delta * count;
        self.count += other.count;
        Ok(())
    }

    /// Mean and covariance of all that was added.
    ///
    /// # Errors
    /// Fewer than two images, of which there is no covariance.
    pub fn moments(mut self) -> Result<Moments> {
        if self.count < 2 {
            bail!(
                "{}: a covariance needs 2 or more",
                plural(self.count, "image")
            );
        }
        self.add_waiting();
        let count = self.count as f64;
        let mean = &self.sum / count;
        let cov = (self.outer - mean.outer(&mean) * count) / (count - 1.0);
        // A product of matrices may differ from its transpose in the last digits.
        let cov = (&cov + cov.tr()) / 2.0;
        let mean = mean + self.shift.expect("images were added");
        Ok(Moments {
            count: Some(self.count),
            mean: vector(&mean),
            cov: matrix(&cov),
        })
    }
}

/// Features as f64 on the CPU.
///
/// # Shapes
/// - `features`: `[n, d]`; `first`: the number of its first image, for messages
///
/// # Errors
/// Another shape, no features at all, or values that are NaN or infinite.
pub(super) fn checked(features: &Tensor, first: u64) -> Result<Tensor> {
    let size = features.size();
    ensure!(
        size.len() == 2 && size[1] > 0,
        "features of shape {size:?}, wanted [images, numbers]"
    );
    let features = features
        .detach()
        .to_device(Device::Cpu)
        .to_kind(Kind::Double);
    // A sum is finite only if all values are; if it is not, look again.
    if !features.sum(Kind::Double).double_value(&[]).is_finite() {
        let bad = features.isfinite().logical_not().any_dim(1, false);
        if bad.any().int64_value(&[]) != 0 {
            let found = bad.sum(Kind::Int64).int64_value(&[]) as u64;
            let number = bad.to_kind(Kind::Uint8).argmax(0, false).int64_value(&[]) as u64 + first;
            bail!(
                "the features of image {number} (counted from 0) are NaN or infinite, and those of {found} of {} in \
                 all; such an image, or the network that looks at it, is broken",
                plural(size[0] as u64, "image")
            );
        }
    }
    Ok(features)
}

/// Two sets of features as f64 on the CPU, of one length.
///
/// # Errors
/// Those of [`checked`], with the name of the set, and sets of different lengths.
pub(super) fn checked_pair(a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
    use anyhow::Context as _;
    let a = checked(a, 0).context("the first set")?;
    let b = checked(b, 0).context("the second set")?;
    let [dims, others] = [&a, &b].map(|set| set.size()[1]);
    ensure!(
        dims == others,
        "features of {dims} numbers cannot be compared with features of {others}: both sets need the same network"
    );
    Ok([a, b])
}

pub(super) fn vector(values: &Tensor) -> Array1<f64> {
    let values = values.to_kind(Kind::Double).contiguous();
    Array1::from_vec(Vec::try_from(values).expect("a vector of f64"))
}

pub(super) fn matrix(values: &Tensor) -> Array2<f64> {
    let shape = (values.size()[0] as usize, values.size()[1] as usize);
    let flat = vector(&values.contiguous().view([-1]));
    Array2::from_shape_vec(shape, flat.to_vec()).expect("as many values as the shape says")
}

pub(super) fn tensor(values: &Array2<f64>) -> Tensor {
    let values = values.as_standard_layout();
    Tensor::try_from(&values).expect("an array in C order")
}

//! The Fréchet distance of two sets of features (FID).
//!
//! Of two Gaussians with means m and covariances S it is `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`. The last
//! trace is the sum of the square roots of the eigenvalues of `R S1 R`, R the square root of S2: a symmetric matrix,
//! whose eigenvalues are real and quickly found, where the square root of `S1 S2` itself, which other programs compute,
//! may fail.
//!
//! Source: Heusel et al. 2017, eq. 6 <https://arxiv.org/abs/1706.08500>

use std::fmt;

use anyhow::{Result, ensure};
use ndarray::Array2;
use tch::{TchError, Tensor};

use super::moments::{Moments, matrix, tensor};
use crate::text::plural;

/// Images from which on distances are usually published and compared.
const USUAL_IMAGES: u64 = 10_000;
/// Negative eigenvalues that are rounding of 0, compared with the largest: single precision may have been in use.
const MAX_NEGATIVE: f64 = 1e-5;

/// A Fréchet distance, and how far it can be trusted.
#[derive(Debug, Clone, PartialEq)]
pub struct Frechet {
    /// The distance.
    pub distance: f64,
    /// What of the distance follows from the number of images alone, to first order in its inverse; `None` if a file
    /// does not say how many there were. An estimate from the measured moments, as of Gaussian features.
    pub bias: Option<f64>,
    /// What to know before comparing it with others; empty if there is nothing.
    pub remarks: Vec<Remark>,
}

/// Why a distance is less exact than it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// No more images than dimensions: the covariance lacks rank, and the bias is beyond estimating.
    RankDeficient {
        /// Images of the smaller set.
        images: u64,
        /// Numbers of a feature vector.
        dims: u64,
    },
    /// Fewer images than what distances are published with.
    FewImages {
        /// Images of the smaller set.
        images: u64,
    },
    /// Statistics without a number of images.
    UnknownCount,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RankDeficient { images, dims } => write!(
                f,
                "{} for features of {dims} numbers: the covariance lacks rank, and the distance is far too large; \
                 compare it only with distances of as many images",
                plural(*images, "image")
            ),
            Self::FewImages { images } => write!(
                f,
                "{}: distances are too large with fewer than {USUAL_IMAGES}; compare this one only with those of as \
                 many images",
                plural(*images, "image")
            ),
            Self::UnknownCount => f.write_str(
                "the statistics do not say of how many images they are, so the distance's bias is not known",
            ),
        }
    }
}

/// The square root of a covariance, `[d, d]`: needed for each distance from it, and the slowest part of one (cubic in
/// d).
///
/// # Errors
/// A matrix that is no covariance, or if libtorch finds no eigenvalues.
pub fn sqrt(cov: &Array2<f64>) -> Result<Array2<f64>> {
    let (values, vectors) = symmetric(&tensor(cov)).f_linalg_eigh("L")?;
    let [least, most] = [values.min(), values.max()].map(|value| value.double_value(&[]));
    ensure!(
        least >= -most * MAX_NEGATIVE,
        "a covariance has no negative eigenvalues, and this has {least:e} beside {most:e}"
    );
    let scaled = &vectors * values.clamp_min(0.0).sqrt();
    Ok(matrix(&symmetric(&scaled.f_matmul(&vectors.tr())?)))
}

/// The distance of two sets; `sqrt_reference` is the root of the reference's covariance ([`sqrt`]).
///
/// # Errors
/// Features of different lengths, or if libtorch finds no eigenvalues.
pub fn distance(
    set: &Moments,
    reference: &Moments,
    sqrt_reference: &Array2<f64>,
) -> Result<Frechet> {
    let [dims, others] = [set, reference].map(Moments::dims);
    ensure!(
        dims == others,
        "features of {dims} numbers cannot be compared with features of {others}: both sets need the same network"
    );
    for shape in [&set.cov, &reference.cov, sqrt_reference].map(Array2::dim) {
        ensure!(
            shape == (dims, dims),
            "a covariance of shape {shape:?} for features of {dims} numbers"
        );
    }
    let roots = roots(&set.cov, sqrt_reference)?;
    let shift = &set.mean - &reference.mean;
    let traces = set.cov.diag().sum() + reference.cov.diag().sum();
    Ok(Frechet {
        distance: shift.dot(&shift) + traces - 2.0 * roots.iter().sum::<f64>(),
        bias: bias(set, reference, &roots),
        remarks: remarks(set, reference),
    })
}

/// Square roots of the eigenvalues of `R S R`.
fn roots(cov: &Array2<f64>, sqrt: &Array2<f64>) -> Result<Vec<f64>> {
    let sqrt = tensor(sqrt);
    let eigenvalues = || -> Result<Tensor, TchError> {
        let product = sqrt.f_matmul(&tensor(cov))?.f_matmul(&sqrt)?;
        symmetric(&product).f_linalg_eigvalsh("L")
    };
    let roots = eigenvalues()?.clamp_min(0.0).sqrt();
    Ok(Vec::try_from(roots)?)
}

fn symmetric(matrix: &Tensor) -> Tensor {
    (matrix + matrix.tr()) / 2.0
}

/// How much a distance is too large on average because its moments come from finite sets of n and m images.
///
/// To first order in 1/n, for Gaussian features: the mean adds `tr S / n`. The covariance adds half the second
/// derivative of `-2 tr (R S R)^(1/2)` applied to the covariance of a Wishart matrix, which is
/// `1 / (2 (n - 1)) * (sum_ij s_i s_j / (s_i + s_j) + sum_i s_i / 2)` with s the square roots of the eigenvalues of
/// `R S R`; and the same for m. It is put together from the measured moments, so it is an estimate itself: within a
/// tenth from n = 10 d on, and too small where n is not much larger than d.
fn bias(set: &Moments, reference: &Moments, roots: &[f64]) -> Option<f64> {
    let largest = roots.iter().copied().fold(0.0, f64::max);
    let mut pairs = 0.0;
    for a in roots {
        for b in roots {
            // Of two that are 0 the limit is 0.
            if a + b > largest * f64::EPSILON {
                pairs += a * b / (a + b);
            }
        }
    }
    let pairs = (pairs + roots.iter().sum::<f64>() / 2.0) / 2.0;
    let of = |moments: &Moments| {
        let n = moments.count? as f64;
        Some(moments.cov.diag().sum() / n + pairs / (n - 1.0))
    };
    Some(of(set)? + of(reference)?)
}

fn remarks(set: &Moments, reference: &Moments) -> Vec<Remark> {
    let counts = [set.count, reference.count];
    let mut remarks = Vec::new();
    if counts.contains(&None) {
        remarks.push(Remark::UnknownCount);
    }
    let dims = set.dims() as u64;
    match counts.into_iter().flatten().min() {
        Some(images) if images <= dims => remarks.push(Remark::RankDeficient { images, dims }),
        Some(images) if images < USUAL_IMAGES => remarks.push(Remark::FewImages { images }),
        _ => {}
    }
    remarks
}

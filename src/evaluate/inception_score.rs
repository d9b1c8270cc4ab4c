//! The Inception score of a set of images.
//!
//! exp of the mean divergence of what a classifier says of one image from what it says of all: high if it is sure of
//! each image, and the images are of many classes. It compares with no other set, so it sees no copies and no missing
//! classes that the classifier does not know. Splits and values are those of torch-fidelity.
//!
//! Source: Salimans et al. 2016, section 4 <https://arxiv.org/abs/1606.03498>

use anyhow::{Result, ensure};
use ndarray::Array1;
use tch::{Kind, Tensor};

use super::moments::checked;
use super::numpy_random::RandomState;
use crate::text::plural;

/// Parts of the set that are scored on their own.
const SPLITS: usize = 10;
/// The seed of the order in which images are dealt to the parts, as in torch-fidelity.
pub const SCORE_SEED: u32 = 2020;

/// An Inception score: its mean and standard deviation over ten parts of the set.
#[derive(Debug, Clone, PartialEq)]
pub struct InceptionScore {
    /// From 1 to the number of classes.
    pub mean: f64,
    /// Over the parts.
    pub std: f64,
}

/// Scores a set of images.
///
/// # Shapes
/// - `logits`: `[n, classes]`, what the classifier's last layer says, of FID's network without its bias
///
/// # Errors
/// Fewer images than parts (10), or logits that are NaN or infinite.
pub fn inception_score(logits: &Tensor, seed: u32) -> Result<InceptionScore> {
    let logits = checked(logits, 0)?;
    let count = logits.size()[0] as usize;
    ensure!(
        count >= SPLITS,
        "{} cannot be split into the {SPLITS} parts of an Inception score",
        plural(count as u64, "image")
    );
    let order = RandomState::new(seed).permutation(count);
    let logits = logits.index_select(0, &Tensor::from_slice(&order));
    let scores: Array1<f64> = (0..SPLITS)
        .map(|part| {
            let start = part * count / SPLITS;
            let images = (part + 1) * count / SPLITS - start;
            score(&logits.narrow(0, start as i64, images as i64))
        })
        .collect();
    Ok(InceptionScore {
        mean: scores.mean().expect("ten parts"),
        std: scores.std(0.0),
    })
}

/// exp of the mean divergence of p(y | x) from p(y).
fn score(logits: &Tensor) -> f64 {
    let log_p = logits.log_softmax(1, Kind::Double);
    let p = log_p.exp();
    let log_mean = p.mean_dim(0, true, Kind::Double).log();
    // A class that no image has is 0 times minus infinity, which is none.
    let terms = (&p * (log_p - log_mean)).nan_to_num(0.0, None, None);
    let divergence = terms.sum(Kind::Double).double_value(&[]) / logits.size()[0] as f64;
    divergence.exp()
}

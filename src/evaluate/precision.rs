//! Precision and recall of generated images.
//!
//! A ball around each image of a set reaches to its third nearest neighbour in that set; the balls together are an
//! estimate of where the set's images lie. Precision is the share of generated images inside a ball of real ones,
//! recall the share of real images inside a ball of generated ones. A network that makes good images of few kinds has
//! high precision and low recall. Both depend on the number of images: compare equal numbers only.
//!
//! Source: Kynkäänniemi et al. 2019, section 2 <https://arxiv.org/abs/1904.06991>

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::moments::checked_pair;
use crate::text::plural;

/// The neighbour that a ball reaches to; the image itself is not counted.
const NEIGHBOUR: i64 = 3;
/// Memory for the distances that are looked at together.
const BLOCK_BYTES: i64 = 64 << 20;
/// Squared distances below this share of the squared lengths are rounding: the images are the same.
const SAME: f64 = 1e-13;

/// Precision and recall, from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionRecall {
    /// The share of generated images that are like real ones.
    pub precision: f64,
    /// The share of real images that are like generated ones.
    pub recall: f64,
}

/// Measures precision and recall. Takes `(n + m)^2 * d` multiplications, and memory for the features in f64 and a block
/// of distances.
///
/// # Shapes
/// - `generated`, `real`: `[n, d]` and `[m, d]`, f32 or f64
///
/// # Errors
/// Fewer than four images in a set, features of different lengths, or ones that are NaN or infinite.
pub fn precision_recall(generated: &Tensor, real: &Tensor) -> Result<PrecisionRecall> {
    let [generated, real] = checked_pair(generated, real)?;
    for (set, what) in [(&generated, "generated"), (&real, "real")] {
        let count = set.size()[0];
        ensure!(
            count > NEIGHBOUR,
            "{} {what}: precision and recall need {} or more, as they look at the {NEIGHBOUR} nearest of each",
            plural(count as u64, "image"),
            NEIGHBOUR + 1
        );
    }
    // Distances are differences of products, and most exact around the origin.
    let centre = real.mean_dim(0, true, Kind::Double);
    let [generated, real] = [generated, real].map(|set| set - &centre);
    Ok(PrecisionRecall {
        precision: inside(&generated, &real, &radii(&real)),
        recall: inside(&real, &generated, &radii(&generated)),
    })
}

/// Squared distance of each image to its third nearest neighbour in the set, `[n]`.
fn radii(set: &Tensor) -> Tensor {
    let nearest = |distances: &Tensor| distances.kthvalue(NEIGHBOUR + 1, 1, false).0;
    Tensor::cat(&by_blocks(set, set, nearest), 0)
}

/// The share of `images` inside a ball around one of `others`.
fn inside(images: &Tensor, others: &Tensor, radii: &Tensor) -> f64 {
    let any = |distances: &Tensor| distances.le_tensor(radii).any_dim(1, false);
    let inside = Tensor::cat(&by_blocks(images, others, any), 0);
    inside.sum(Kind::Double).double_value(&[]) / images.size()[0] as f64
}

/// What `look` sees in the squared distances from some of `images` to all of `others`, `[some, m]`, block by block.
fn by_blocks(images: &Tensor, others: &Tensor, look: impl Fn(&Tensor) -> Tensor) -> Vec<Tensor> {
    let squares = |x: &Tensor| x.square().sum_dim_intlist(1, false, Kind::Double);
    let of_others = squares(others).unsqueeze(0);
    let rows = (BLOCK_BYTES / 8 / others.size()[0]).max(1);
    let block = |images: &Tensor| {
        let lengths = squares(images).unsqueeze(1) + &of_others;
        let distances = &lengths - images.matmul(&others.tr()) * 2.0;
        let same = distances.less_equal_tensor(&(lengths * SAME));
        look(&distances.masked_fill(&same, 0.0))
    };
    images.split(rows, 0).iter().map(block).collect()
}

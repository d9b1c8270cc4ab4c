//! DDCM: the noise of every reverse step is one of K fixed noises, so the choices encode the image.

use tch::{Kind, Tensor};

use super::{Ddpm, OnStep, Process};

/// Returns the codebook of the k-th reverse step, k = 1, 2, …, in parts `[k_i, C, H, W]` whose k_i sum to K: all of
/// it at once may exceed memory.
pub type CodebookParts<'a> = dyn FnMut(u64) -> Box<dyn Iterator<Item = Tensor> + 'a> + 'a;

/// Encodes images as choices: at each reverse step the noise with the largest inner product with x_0 - x_0_hat.
///
/// Sampling with these choices (`ddpm` from the same start, whose k-th noise is entry `indices[:, k - 1]` of the
/// k-th codebook) reproduces the images returned here. A last step without noise has no choice.
///
/// # Shapes
/// - `x_0`: `[N, C, H, W]` in [-1, 1]; `x_start`: x_T of the same shape
/// - returns the choices, `[N, steps]` or `[N, steps - 1]` i64, and the images they decode to, not clipped
///
/// Source: Ohayon et al. 2025, section 4 <https://arxiv.org/abs/2502.01189>; Keras-DDPM, `ddcm.py`
pub fn ddcm_encode(
    process: &Process,
    options: Ddpm,
    x_0: &Tensor,
    x_start: Tensor,
    codebook: &mut CodebookParts,
    on_step: &mut OnStep,
) -> (Tensor, Tensor) {
    let mut indices = Vec::with_capacity(process.steps.len());
    let x = process.run(x_start, on_step, |estimate, i, k| {
        options.step(process.steps, estimate, i, || {
            let chosen = best(codebook(k), &(x_0 - estimate.x_0_hat()));
            indices.push(chosen.index);
            chosen.entry
        })
    });
    let indices = match indices.is_empty() {
        true => Tensor::zeros([x.size()[0], 0], (Kind::Int64, x.device())),
        false => Tensor::stack(&indices, 1),
    };
    (indices, x)
}

/// The best entry so far for each image.
struct BestEntry {
    /// Inner products, `[N]` f32.
    similarity: Tensor,
    /// Indices, `[N]` i64.
    index: Tensor,
    /// Entries, `[N, C, H, W]`.
    entry: Tensor,
}

/// The entry with the largest inner product with each image. Nothing is read from the device.
fn best(parts: impl Iterator<Item = Tensor>, images: &Tensor) -> BestEntry {
    let mut first = 0;
    let mut best: Option<BestEntry> = None;
    for entries in parts {
        let similarities = images
            .flatten(1, -1)
            .matmul(&entries.flatten(1, -1).transpose(0, 1));
        let (similarity, index) = similarities.max_dim(1, false);
        let found = BestEntry {
            entry: entries.index_select(0, &index),
            index: index + first,
            similarity,
        };
        first += entries.size()[0];
        best = Some(match best {
            None => found,
            Some(before) => before.or(found),
        });
    }
    best.unwrap_or_else(|| panic!("a codebook without entries"))
}

impl BestEntry {
    /// Replaces each entry by that of `other` if its inner product is larger.
    fn or(self, other: BestEntry) -> BestEntry {
        let better = other.similarity.gt_tensor(&self.similarity);
        BestEntry {
            entry: other
                .entry
                .where_self(&better.view([-1, 1, 1, 1]), &self.entry),
            index: other.index.where_self(&better, &self.index),
            similarity: other.similarity.maximum(&self.similarity),
        }
    }
}

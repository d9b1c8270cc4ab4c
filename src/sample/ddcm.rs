//! DDCM: the noise of every reverse step is one of K fixed noises, so the choices are the picture.

use tch::Tensor;

use super::{Ddpm, Noise, OnStep, Process, Step};

/// Finds the choices that lead to pictures: at each reverse step the noise that points most from x_0_hat to x_0.
///
/// Sampling with these choices (`ddpm` from the same start, whose k-th noise is entry `indices[:, k - 1]` of the
/// k-th codebook) gives what this returns beside them.
///
/// # Shapes
/// - `x_0`: `[N, C, H, W]` in [-1, 1]; `x_start`: as `x_0`, x_T
/// - `codebook(k)`: `[K, C, H, W]`, that of the k-th reverse step, k = 1, 2, …
/// - returns the choices, `[N, steps]` i64, and the pictures that they make, not clipped
///
/// Source: Ohayon et al. 2025, section 4 <https://arxiv.org/abs/2502.01189>; Keras-DDPM, `ddcm.py`
pub fn ddcm_encode(
    process: &Process,
    options: Ddpm,
    x_0: &Tensor,
    x_start: Tensor,
    codebook: &mut Noise,
    on_step: &mut OnStep,
) -> (Tensor, Tensor) {
    let _guard = tch::no_grad_guard();
    let (mut x, steps) = (x_start, process.levels.len());
    let mut indices = Vec::with_capacity(steps);
    for (done, i) in (1..).zip((0..steps).rev()) {
        let estimate = process.estimate(&x, i);
        let entries = codebook(done as u64);
        let missing = x_0 - estimate.x_0_hat();
        let chosen = best(&entries, &missing);
        let z = entries.index_select(0, &chosen);
        x = options.step(process.levels, &estimate, i, || z);
        on_step(Step {
            done,
            t: process.levels.times[i],
            x: &x,
            estimate: &estimate,
        });
        indices.push(chosen);
    }
    (Tensor::stack(&indices, 1), x)
}

/// The entry with the largest inner product with each picture, `[N]` i64; the first of equals.
fn best(entries: &Tensor, pictures: &Tensor) -> Tensor {
    let similarity = pictures
        .flatten(1, -1)
        .matmul(&entries.flatten(1, -1).transpose(0, 1));
    similarity.argmax(1, false)
}

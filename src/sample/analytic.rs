//! Analytic-DPM: the optimal reverse variance, from the mean square of eps_hat on the data.

use anyhow::{Result, ensure};
use ndarray::Array1;
use tch::{Kind, Tensor};

use super::{Ddim, Process, Respaced};

/// Builds the DDIM sampler with optimal variances.
///
/// `mean_sq_eps`, `[T]`, is `E[eps_hat²]` per value at each of the T time steps: 1 where x_t determines eps, less where
/// it does not. The rest, 1 - `E[eps_hat²]`, is the variance of eps given x_t, which the steps then add.
///
/// # Errors
/// `eta` outside [0, 1], or measurements for a different T.
///
/// Source: Bao et al. 2022, theorem 1 and corollary 1 <https://arxiv.org/abs/2201.06503>; Keras-DDPM, `adpm.py`
pub fn analytic(
    steps: &Respaced,
    mean_sq_eps: &Array1<f64>,
    eta: f64,
    last_noise: bool,
) -> Result<Ddim> {
    let last = steps.times.last().map_or(0, |t| *t as usize);
    ensure!(
        last < mean_sq_eps.len(),
        "measured at {} time steps, but the sampler visits t = {last}",
        mean_sq_eps.len()
    );
    let unexplained = |t: &i64| (1.0 - mean_sq_eps[*t as usize]).clamp(0.0, 1.0);
    Ok(Ddim {
        eps_variances: steps.times.iter().map(unexplained).collect(),
        last_noise,
        ..Ddim::new(eta)?
    })
}

/// Measures `E[eps_hat²]` per value at each visited step, on images noised anew for each.
///
/// # Shapes
/// - `images` returns the k-th batch `[N, C, H, W]` of data in [-1, 1], and `noise` standard normal eps of that
///   shape; each visited step uses `batches` of them
/// - returns `[steps visited]`, the least noisy first
///
/// # Errors
/// Errors of `images`; outputs of the network that are not finite.
///
/// Source: Bao et al. 2022, eq. 8; their Gamma_n is this over 1 - alpha_bar
pub fn measure(
    process: &Process,
    batches: u64,
    images: &mut dyn FnMut(u64) -> Result<Tensor>,
    noise: &mut dyn FnMut(u64) -> Tensor,
    on_batch: &mut dyn FnMut(),
) -> Result<Array1<f64>> {
    let _guard = tch::no_grad_guard();
    let steps = process.steps;
    let mut sums = Vec::with_capacity(steps.len());
    for i in 0..steps.len() {
        let (signal, noise_share) = steps.signal_and_noise(i);
        let first = i as u64 * batches;
        let mut mean_sq = |k| {
            let x_t = images(k)? * signal + noise(k) * noise_share;
            on_batch();
            let eps_hat = process.estimate(&x_t, i).eps_hat();
            Ok(eps_hat.square().mean(Kind::Double))
        };
        let means = (first..first + batches).map(&mut mean_sq);
        sums.push(means.sum::<Result<Tensor>>()?);
    }
    process.check_finite()?;
    // Read once at the end, so that the device never waits for the host.
    let mean = |sum: &Tensor| sum.double_value(&[]) / batches as f64;
    Ok(sums.iter().map(mean).collect())
}

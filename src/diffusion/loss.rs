//! The training objective.

use tch::{Reduction, Tensor};

use crate::config::LossKind;

/// The share of one microbatch in the loss of a batch of `batch` pictures.
///
/// - `LossKind::Sum`: per picture the sum over channels and pixels of (eps - eps_hat)², mean over
///   the batch. The scale matters to Adam's epsilon and to half precision, not to LAMB's direction.
/// - `LossKind::Mse`: that, divided by the number of elements of a picture.
///
/// Shares of equal microbatches add up to the loss of the whole batch, and so do their gradients.
///
/// # Shapes
/// - `eps_hat`, `eps`: `[N, C, H, W]`, N ≤ batch; returns a scalar
///
/// Source: Ho et al. 2020, eq. 14 <https://arxiv.org/abs/2006.11239>
pub fn microbatch_loss(kind: LossKind, eps_hat: &Tensor, eps: &Tensor, batch: i64) -> Tensor {
    let sum = eps_hat.mse_loss(eps, Reduction::Sum);
    let per_picture = match kind {
        LossKind::Sum => 1.0,
        LossKind::Mse => (eps.numel() as i64 / eps.size()[0]) as f64,
    };
    sum / (batch as f64 * per_picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn sum_over_pixels_mean_over_batch() {
        let eps = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        let eps_hat = Tensor::full([2, 3, 4, 4], 0.5, (Kind::Float, Device::Cpu));
        let value = |kind| f64::try_from(microbatch_loss(kind, &eps_hat, &eps, 2)).unwrap();
        assert_eq!(value(LossKind::Sum), 0.25 * 48.0);
        assert_eq!(value(LossKind::Mse), 0.25);
    }
}

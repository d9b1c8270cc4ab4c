//! Samplers: each a loop over x_t that sees the network as `Fn(x_t, t) -> eps_hat`.

mod ddpm;
mod pictures;

pub use ddpm::{Ddpm, ddpm, ddpm_step};
pub use pictures::{Pictures, sample_pictures};

use tch::Tensor;

/// A network that predicts the noise: `(x_t [N, C, H, W], t [N] i64) -> eps_hat [N, C, H, W]`.
pub type Denoiser<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

//! Samplers: each a loop over x_t that sees the network as a function of (x_t, t).

mod codebook;
mod ddpm;
mod pictures;

pub use codebook::Codebook;
pub use ddpm::{Ddpm, ddpm, ddpm_step};
pub use pictures::{Pictures, sample_pictures};

use tch::Tensor;

/// A network: `(x_t [N, C, H, W], t [N] i64) -> out`, which is the prediction `[N, C, H, W]`, or that and the
/// place of its variance, `[N, 2C, H, W]`.
pub type Denoiser<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

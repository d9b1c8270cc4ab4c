//! Optimizers over one flat parameter tensor.
//!
//! [`Arena`] makes all parameters views of one tensor and all gradients views of another, so Adam,
//! the weight average, the gradient norm and clipping are one libtorch call each.

mod arena;
mod ema;
mod lr;
mod norms;
mod optimizer;

pub use arena::{Arena, Layout};
pub use ema::{Ema, bias_correction};
pub use lr::lr_multiplier;
pub use norms::{norm, norms_of};
pub use optimizer::{Optimizer, StepInputs};

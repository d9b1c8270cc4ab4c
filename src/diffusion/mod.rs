//! The diffusion process: schedule (f64 tables over t), forward (q_sample), loss, learned variances, and the
//! low-resolution images of super-resolution.
//!
//! Only outputs of the network enter, so everything here can be tested against closed forms.

mod forward;
mod loss;
mod low_resolution;
mod schedule;
mod variance;

pub use forward::{Forward, NoisedBatch};
pub use loss::{Objective, microbatch_loss};
pub use low_resolution::{LowResolution, beside, with_noise};
pub use schedule::Schedule;
pub use variance::{
    Posterior, learned_log_variance, log_likelihood_of_8_bits, log_variance_at, normal_kl,
};

//! The diffusion process: schedule (f64 tables over t), forward (q_sample), loss, and learned variances.
//!
//! Only outputs of the network enter, so everything here can be tested against closed forms.

mod forward;
mod loss;
mod schedule;
mod variance;

pub use forward::{Forward, NoisedBatch};
pub use loss::{Objective, microbatch_loss};
pub use schedule::Schedule;
pub use variance::{
    Posterior, learned_log_variance, log_likelihood_of_8_bits, log_variance_at, normal_kl,
};

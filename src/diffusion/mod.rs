//! The diffusion process: schedule (f64 tables over t), forward (q_sample), loss, and
//! variances that the network places.
//!
//! The network is seen only by its outputs, so everything here can be tested against
//! closed forms.

mod forward;
mod loss;
mod schedule;
mod variance;

pub use forward::{Forward, Noised};
pub use loss::{Objective, microbatch_loss};
pub use schedule::Schedule;
pub use variance::log_variance_at;

//! The diffusion process: schedule (f64 tables over t), forward (q_sample) and loss.
//!
//! The network is seen only as `Fn(x_t, t) -> eps_hat`, so everything here can be tested against
//! closed forms.

mod forward;
mod loss;
mod schedule;

pub use forward::Forward;
pub use loss::microbatch_loss;
pub use schedule::Schedule;

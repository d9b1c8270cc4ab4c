//! Compares samplers with closed forms, in f64: for Gaussian data, the optimal network, the probability-flow ODE and
//! the moments of every sampler are known exactly.
//!
//! - `gaussian`: the data and their network; a sampler's response to each of its noises
//! - `theory`: the samplers again, as scalar formulas of their papers
//! - `moments`: every step of every sampler against these formulas, and 20,000 samples against their moments
//! - `convergence`: orders of convergence
//! - `ddcm`: noise from codebooks
//! - `guidance`: every sampler of a guided network, again as formulas
//! - `analytic`: Analytic-DPM's variances and their measurement
//! - `loss_over_t`: the squared errors of a batch, added up by the part of the time steps that each image is at

#[path = "closed_form/analytic.rs"]
mod analytic;
#[path = "closed_form/convergence.rs"]
mod convergence;
#[path = "closed_form/ddcm.rs"]
mod ddcm;
#[path = "closed_form/gaussian.rs"]
mod gaussian;
#[path = "closed_form/guidance.rs"]
mod guidance;
#[path = "closed_form/loss_over_t.rs"]
mod loss_over_t;
#[path = "closed_form/moments.rs"]
mod moments;
#[path = "closed_form/theory.rs"]
mod theory;

use ddpm::config::{DiffusionConfig, LossKind, Prediction, ScheduleKind};

/// A linear schedule, whose last alpha_bar is e^-10.
fn linear(timesteps: i64, prediction: Prediction) -> DiffusionConfig {
    DiffusionConfig {
        timesteps,
        schedule: ScheduleKind::Linear,
        betas: vec![],
        prediction,
        loss: LossKind::Sum,
    }
}

//! Our schedule and sampler as `scheduler_config.json` of a `DDPMScheduler`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::VERSION;
use super::betas::betas_of;
use crate::config::{DiffusionConfig, Prediction, SampleConfig, ScheduleKind, Sigma};

/// The contents of `scheduler_config.json`. A schedule that diffusers has no name for becomes
/// `trained_betas`.
///
/// # Errors
/// No betas, or a number of betas other than `timesteps`.
pub(crate) fn to_scheduler_config(
    diffusion: &DiffusionConfig,
    sample: &SampleConfig,
) -> Result<Value> {
    ensure!(
        diffusion.timesteps >= 1,
        "diffusion.timesteps = {}: want at least 1",
        diffusion.timesteps
    );
    let betas = betas_of(diffusion);
    ensure!(
        betas.len() as i64 == diffusion.timesteps,
        "diffusion.betas has {} numbers, want {} as diffusion.timesteps",
        betas.len(),
        diffusion.timesteps
    );
    let (first, last) = (betas[0], betas[betas.len() - 1]);
    let (name, start, end, list) = match diffusion.schedule {
        ScheduleKind::Linear | ScheduleKind::KerasDdpm => ("linear", first, last, None),
        ScheduleKind::Cosine => ("squaredcos_cap_v2", 1e-4, 0.02, None),
        ScheduleKind::Sigmoid | ScheduleKind::Explicit => ("linear", 1e-4, 0.02, Some(betas)),
    };
    Ok(json!({
        "_class_name": "DDPMScheduler",
        "_diffusers_version": VERSION,
        "beta_end": end,
        "beta_schedule": name,
        "beta_start": start,
        "clip_sample": sample.clip_x0,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": diffusion.timesteps,
        "prediction_type": match diffusion.prediction {
            Prediction::Eps => "epsilon",
            Prediction::X0 => "sample",
            Prediction::V => "v_prediction",
        },
        "rescale_betas_zero_snr": false,
        "sample_max_value": 1.0,
        "steps_offset": 0,
        "thresholding": false,
        "timestep_spacing": "leading",
        "trained_betas": list,
        "variance_type": match sample.sigma {
            Sigma::Posterior => "fixed_small",
            Sigma::Beta => "fixed_large",
            Sigma::Learned => "learned_range",
        },
    }))
}

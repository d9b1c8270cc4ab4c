//! `scheduler_config.json`, read as schedule and sampler; and the hints that replace it.
//!
//! diffusers has many scheduler classes. Those with a `beta_schedule` differ in how they sample, not
//! in the noise that the network was trained on, so the schedule of any of them is used.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::betas::{named_here, named_in_diffusers};
use super::knobs::Knobs;
use crate::config::{DiffusionConfig, LossKind, Prediction, SampleConfig, ScheduleKind, Sigma};
use crate::interop::settings::spelled;
use crate::interop::{Hints, Report};

/// The file, in messages and in the report.
const FILE: &str = "scheduler_config.json";

/// Classes whose defaults stand in for missing knobs: old files lack some. Other classes have other
/// defaults.
const DDPM_LIKE: [&str; 4] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
];

/// Schedule and sampler that a `scheduler_config.json` describes, for a network with
/// `learned_variance` or not.
///
/// # Errors
/// A file of a class without betas, a knob not supported here, or a hint about the network that contradicts the file:
/// sigma and clip_x0 are the sampler's, and hints for them win.
pub(super) fn parse(
    text: &str,
    learned_variance: bool,
    hints: &Hints,
    report: &mut Report,
) -> Result<(DiffusionConfig, SampleConfig)> {
    let knobs = Knobs::parse(FILE, text)?;
    let class = knobs.word("_class_name", "DDPMScheduler")?.to_owned();
    refuse_other_processes(&knobs, &class)?;
    let diffusion = diffusion(&knobs)?;
    let sample = SampleConfig {
        sigma: sigma(&knobs, &class, learned_variance, hints, report)?,
        clip_x0: clip(&knobs, &class, hints, report)?,
        last_noise: false,
        images: 16,
        every_steps: 0,
    };
    agree("schedule", &hints.schedule, &diffusion.schedule)?;
    agree("timesteps", &hints.timesteps, &diffusion.timesteps)?;
    agree("prediction", &hints.prediction, &diffusion.prediction)?;
    note(&knobs, &class, &diffusion, &sample, report);
    Ok((diffusion, sample))
}

/// Schedule and sampler without a `scheduler_config.json`.
pub(super) fn from_hints(
    learned_variance: bool,
    hints: &Hints,
    report: &mut Report,
) -> (DiffusionConfig, SampleConfig) {
    let schedule = report.need(
        &hints.schedule,
        "--schedule NAME",
        "noise schedule; diffusers' training scripts use linear, or cosine (squaredcos_cap_v2 there)",
        ScheduleKind::Linear,
    );
    let timesteps = report.need(
        &hints.timesteps,
        "--timesteps T",
        "number of time steps; usually 1000",
        1000,
    );
    let prediction = report.need(
        &hints.prediction,
        "--prediction WHAT",
        "the quantity the network predicts; usually eps",
        Prediction::Eps,
    );
    let sigma = if learned_variance && hints.sigma.is_none() {
        report.fact("sigma", "learned", "out_channels in config.json");
        Sigma::Learned
    } else {
        report.need(
            &hints.sigma,
            "--sigma KIND",
            "noise of the reverse steps; diffusers' default is posterior (fixed_small there)",
            Sigma::Posterior,
        )
    };
    let diffusion = DiffusionConfig {
        timesteps,
        schedule,
        betas: vec![],
        prediction,
        loss: loss(report),
    };
    let sample = SampleConfig {
        sigma,
        clip_x0: clip_or_default(hints, report),
        last_noise: false,
        images: 16,
        every_steps: 0,
    };
    (diffusion, sample)
}

fn loss(report: &mut Report) -> LossKind {
    report.assume("trained on the mean squared error, as diffusers' training scripts do");
    LossKind::Mse
}

fn refuse_other_processes(knobs: &Knobs, class: &str) -> Result<()> {
    ensure!(
        DDPM_LIKE.contains(&class)
            || knobs.is_set("beta_schedule")
            || knobs.is_set("trained_betas"),
        "{FILE} is of {class}, which has no beta_schedule: its networks are trained on another noise \
         process; want DDPMScheduler, DDIMScheduler or another class with betas"
    );
    for (knob, wanted) in [
        (
            "thresholding",
            "want false; dynamic thresholding is not built in",
        ),
        (
            "rescale_betas_zero_snr",
            "want false; alpha_bar must stay above 0 to predict eps",
        ),
        (
            "use_flow_sigmas",
            "want false; flow matching is another noise process",
        ),
    ] {
        ensure!(!knobs.flag(knob, false)?, knobs.refused(knob, wanted));
    }
    // The other classes' defaults differ, and saved files contain them.
    let by_range = matches!(
        knobs.word("beta_schedule", "").unwrap_or(""),
        "linear" | "scaled_linear" | "sigmoid"
    );
    let needed: &[&str] = match by_range && !knobs.is_set("trained_betas") {
        _ if DDPM_LIKE.contains(&class) => &[],
        true => &["num_train_timesteps", "beta_start", "beta_end"],
        false => &["num_train_timesteps"],
    };
    for knob in needed {
        ensure!(
            knobs.is_set(knob),
            knobs.refused(
                knob,
                format!("want a number; the default of {class} is not known here")
            )
        );
    }
    ensure!(
        !knobs.is_set("snr_shift_scale") || knobs.float("snr_shift_scale", 1.0)? == 1.0,
        knobs.refused(
            "snr_shift_scale",
            "want 1: a shifted schedule is not built in"
        )
    );
    Ok(())
}

fn diffusion(knobs: &Knobs) -> Result<DiffusionConfig> {
    let betas = betas(knobs)?;
    let schedule = named_here(&betas).unwrap_or(ScheduleKind::Explicit);
    Ok(DiffusionConfig {
        timesteps: betas.len() as i64,
        schedule,
        betas: if schedule == ScheduleKind::Explicit {
            betas
        } else {
            vec![]
        },
        prediction: prediction(knobs)?,
        loss: LossKind::Mse,
    })
}

fn betas(knobs: &Knobs) -> Result<Vec<f64>> {
    let steps = timesteps(knobs)?;
    let betas = if knobs.is_set("trained_betas") {
        trained_betas(knobs, steps)?
    } else {
        let name = knobs.word("beta_schedule", "linear")?;
        let start = end_of_range(knobs, "beta_start", 1e-4)?;
        let end = end_of_range(knobs, "beta_end", 0.02)?;
        named_in_diffusers(name, steps, start, end).ok_or_else(|| {
            knobs.refused(
                "beta_schedule",
                "want linear, scaled_linear, squaredcos_cap_v2, sigmoid or laplace",
            )
        })?
    };
    for (t, beta) in betas.iter().enumerate() {
        ensure!(
            *beta > 0.0 && *beta < 1.0,
            "{FILE}: the beta at t = {t} is {beta}, want more than 0 and less than 1"
        );
    }
    Ok(betas)
}

fn timesteps(knobs: &Knobs) -> Result<usize> {
    // Files of the first versions call it "timesteps".
    let knob = if knobs.is_set("num_train_timesteps") || !knobs.is_set("timesteps") {
        "num_train_timesteps"
    } else {
        "timesteps"
    };
    Ok(knobs.int(knob, 1000, 2..=100_000)? as usize)
}

fn trained_betas(knobs: &Knobs, steps: usize) -> Result<Vec<f64>> {
    let wrong = || knobs.refused("trained_betas", format!("want a list of {steps} numbers"));
    let values = knobs
        .get("trained_betas")
        .and_then(Value::as_array)
        .ok_or_else(wrong)?;
    ensure!(values.len() == steps, wrong());
    values
        .iter()
        .map(|v| v.as_f64().ok_or_else(wrong))
        .collect()
}

fn end_of_range(knobs: &Knobs, knob: &str, default: f64) -> Result<f64> {
    let beta = knobs.positive(knob, default)?;
    ensure!(beta < 1.0, knobs.refused(knob, "want less than 1"));
    Ok(beta)
}

fn prediction(knobs: &Knobs) -> Result<Prediction> {
    // The form before version 0.9.
    if !knobs.flag("predict_epsilon", true)? && !knobs.is_set("prediction_type") {
        return Ok(Prediction::X0);
    }
    match knobs.word("prediction_type", "epsilon")? {
        "epsilon" => Ok(Prediction::Eps),
        "sample" => Ok(Prediction::X0),
        "v_prediction" => Ok(Prediction::V),
        _ => Err(knobs.refused("prediction_type", "want epsilon, sample or v_prediction")),
    }
}

fn sigma(
    knobs: &Knobs,
    class: &str,
    learned: bool,
    hints: &Hints,
    report: &mut Report,
) -> Result<Sigma> {
    let ddpm = class.starts_with("DDPM");
    if !ddpm && !knobs.is_set("variance_type") {
        return Ok(sigma_unsaid(class, learned, hints, report));
    }
    let kind = match knobs.word("variance_type", "fixed_small")? {
        "fixed_small" | "fixed_small_log" => Sigma::Posterior,
        "fixed_large" => Sigma::Beta,
        "fixed_large_log" => {
            report.assume(
                "variance_type fixed_large_log is read as fixed_large: diffusers' own DDPMScheduler \
                 takes a root of a logarithm there and gives NaN",
            );
            Sigma::Beta
        }
        "learned_range" => Sigma::Learned,
        _ => {
            return Err(knobs.refused(
                "variance_type",
                "want fixed_small, fixed_large or learned_range; a variance that the network predicts \
                 directly is not built in",
            ));
        }
    };
    ensure!(
        kind != Sigma::Learned || learned,
        knobs.refused(
            "variance_type",
            "needs a network with twice as many out_channels as in_channels"
        )
    );
    if learned && kind != Sigma::Learned {
        report.assume(format!(
            "the network predicts variances and {} ignores them; sample with sigma = learned to use them",
            knobs.shown("variance_type")
        ));
    }
    Ok(kind)
}

/// The noise of classes without DDPM's variance types.
fn sigma_unsaid(class: &str, learned: bool, hints: &Hints, report: &mut Report) -> Sigma {
    if learned {
        report.fact("sigma", "learned", "out_channels in config.json");
        return Sigma::Learned;
    }
    hints.sigma.unwrap_or_else(|| {
        report.assume(format!(
            "{class} has no variance_type: sigma is posterior, which is what DDIM with eta 1 adds"
        ));
        Sigma::Posterior
    })
}

fn clip(knobs: &Knobs, class: &str, hints: &Hints, report: &mut Report) -> Result<bool> {
    if !DDPM_LIKE.contains(&class) && !knobs.is_set("clip_sample") {
        return Ok(clip_or_default(hints, report));
    }
    let clip = knobs.flag("clip_sample", true)?;
    ensure!(
        !clip || knobs.float("clip_sample_range", 1.0)? == 1.0,
        knobs.refused(
            "clip_sample_range",
            "want 1: x_0 is clipped to [-1, 1] or not at all"
        )
    );
    Ok(clip)
}

fn clip_or_default(hints: &Hints, report: &mut Report) -> bool {
    hints.clip_x0.unwrap_or_else(|| {
        report.assume("x_0 is clipped to [-1, 1] at each step, as DDPMScheduler does by default");
        true
    })
}

/// A hint may repeat the file but not contradict it.
fn agree<T: PartialEq + Serialize>(setting: &str, hint: &Option<T>, read: &T) -> Result<()> {
    match hint {
        Some(hint) if hint != read => {
            anyhow::bail!(
                "`hints.{setting}` = {}: {FILE} has {}; leave `hints.{setting}` out",
                spelled(hint),
                spelled(read)
            )
        }
        _ => Ok(()),
    }
}

/// Reports the settings read, and those without effect here.
fn note(
    knobs: &Knobs,
    class: &str,
    diffusion: &DiffusionConfig,
    sample: &SampleConfig,
    report: &mut Report,
) {
    report.fact("scheduler", class, FILE);
    report.fact("timesteps", diffusion.timesteps, FILE);
    report.fact("schedule", schedule_in_words(knobs, diffusion), FILE);
    report.fact("prediction", spelled(&diffusion.prediction), FILE);
    report.fact("sigma", spelled(&sample.sigma), FILE);
    report.fact("clip_x0", sample.clip_x0, FILE);
    loss(report);
    if !class.starts_with("DDPM") {
        report.assume(format!(
            "{class} has its own sampler; here the same schedule is sampled step by step, as DDPM does"
        ));
    }
    let offset = knobs.get("steps_offset").and_then(Value::as_f64);
    if offset.is_some_and(|x| x != 0.0) {
        report.assume(format!(
            "{} has no effect here: all {} steps are run, from t = {} to t = 0",
            knobs.shown("steps_offset"),
            diffusion.timesteps,
            diffusion.timesteps - 1
        ));
    }
    let spacing = knobs.get("timestep_spacing").and_then(Value::as_str);
    if spacing.is_some_and(|s| s != "leading") {
        report.assume(format!(
            "{} has no effect here: all {} steps are run, and then all spacings are the same",
            knobs.shown("timestep_spacing"),
            diffusion.timesteps
        ));
    }
}

fn schedule_in_words(knobs: &Knobs, diffusion: &DiffusionConfig) -> String {
    if diffusion.schedule != ScheduleKind::Explicit {
        return spelled(&diffusion.schedule);
    }
    let origin = if knobs.is_set("trained_betas") {
        "trained_betas".to_owned()
    } else {
        knobs.shown("beta_schedule")
    };
    let (first, last) = (diffusion.betas.first(), diffusion.betas.last());
    format!(
        "a list of betas from {:.4e} to {:.4e} ({origin})",
        first.unwrap_or(&0.0),
        last.unwrap_or(&0.0)
    )
}

#[cfg(test)]
mod tests;

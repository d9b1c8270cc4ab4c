//! The package's `GaussianDiffusion`: schedule and objective from its buffers, and the buffers from ours.

use anyhow::{Result, bail, ensure};

use crate::config::{DiffusionConfig, LossKind, Prediction, ScheduleKind};
use crate::diffusion::Schedule;
use crate::interop::settings::spelled;
use crate::interop::{Hints, Report};

/// Values in the file beside the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::interop) struct Buffers {
    /// `betas`.
    pub(in crate::interop) betas: Option<Vec<f32>>,
    /// `loss_weight`.
    pub(in crate::interop) loss_weight: Option<Vec<f32>>,
    /// `version` of the package, at the top level.
    pub(in crate::interop) version: Option<String>,
}

/// Most time steps.
const MAX_STEPS: usize = 100_000;
/// Relative difference within which betas are those of a named schedule: f32 rounds by 6e-8.
const SAME_BETA: f64 = 1e-6;
/// Betas below this are compared as if they were this large.
const SMALL_BETA: f64 = 1e-4;
/// Relative difference within which loss weights follow a formula; betas rounded to f32 move them by
/// up to 1e-4.
const SAME_WEIGHT: f64 = 1e-3;

/// Schedule and objective.
///
/// # Errors
/// Betas outside [0, 1), or a hint that contradicts the file.
pub(super) fn infer(
    buffers: &Buffers,
    learned_variance: bool,
    hints: &Hints,
    report: &mut Report,
) -> Result<DiffusionConfig> {
    let mut config = schedule(buffers, hints, report)?;
    let found = if learned_variance {
        // LearnedGaussianDiffusion always trains and samples eps, yet `loss_weight` still follows its
        // objective, pred_v by default.
        Some((
            Prediction::Eps,
            "learned variance: that class ignores `objective`",
        ))
    } else {
        objective(buffers, &config, report).map(|found| (found, "loss_weight"))
    };
    config.prediction = match (found, hints.prediction) {
        (Some((found, from)), Some(hint)) if found != hint => {
            bail!(
                "prediction = {}: the file has {} ({from}); leave prediction out",
                spelled(&hint),
                spelled(&found)
            )
        }
        (Some((found, from)), _) => {
            report.fact("prediction", spelled(&found), from);
            found
        }
        (None, hint) => report.need(
            &hint,
            "--prediction eps|x0|v",
            "the quantity the network predicts, `objective` of GaussianDiffusion: pred_noise, pred_x0, or \
             pred_v, the default since 1.6.3",
            Prediction::Eps,
        ),
    };
    Ok(config)
}

/// The schedule; the prediction is still open.
fn schedule(buffers: &Buffers, hints: &Hints, report: &mut Report) -> Result<DiffusionConfig> {
    let mut config = DiffusionConfig {
        timesteps: 1000,
        schedule: ScheduleKind::Sigmoid,
        betas: Vec::new(),
        prediction: Prediction::Eps,
        loss: LossKind::Mse,
    };
    let Some(betas) = &buffers.betas else {
        config.schedule = report.need(
            &hints.schedule,
            "--schedule NAME",
            "noise schedule, `beta_schedule` of GaussianDiffusion; sigmoid is the default since 1.0.1",
            config.schedule,
        );
        config.timesteps = report.need(
            &hints.timesteps,
            "--timesteps N",
            "time steps, `timesteps` of GaussianDiffusion; 1000 is the default",
            config.timesteps,
        );
        return Ok(config);
    };
    let steps = betas.len();
    ensure!(
        (2..=MAX_STEPS).contains(&steps),
        "betas has {steps} values, want 2 to {MAX_STEPS}"
    );
    if let Some(t) = betas.iter().position(|b| !(0.0..1.0).contains(b)) {
        bail!(
            "betas[{t}] is {}, want at least 0 and less than 1",
            betas[t]
        );
    }
    config.timesteps = steps as i64;
    name_schedule(&mut config, betas);
    report.fact("time steps", steps, "length of betas");
    report.fact("schedule", spelled(&config.schedule), "betas");
    if let Some(hint) = hints.timesteps {
        ensure!(
            hint == config.timesteps,
            "timesteps = {hint}: betas has {steps} values; leave timesteps out"
        );
    }
    if let Some(hint) = hints.schedule {
        ensure!(
            hint == config.schedule,
            "schedule = {}: betas are {}; leave schedule out",
            spelled(&hint),
            spelled(&config.schedule)
        );
    }
    Ok(config)
}

/// Finds the named schedule with these betas, else keeps the betas.
fn name_schedule(config: &mut DiffusionConfig, betas: &[f32]) {
    let same = |ours: Vec<f64>| {
        ours.iter().zip(betas).all(|(&ours, &theirs)| {
            (ours - f64::from(theirs)).abs() <= SAME_BETA * ours.max(SMALL_BETA)
        })
    };
    for kind in [
        ScheduleKind::Sigmoid,
        ScheduleKind::Cosine,
        ScheduleKind::Linear,
    ] {
        config.schedule = kind;
        if same(their_betas(config)) || same(Schedule::new(config).betas.to_vec()) {
            return;
        }
    }
    config.schedule = ScheduleKind::Explicit;
    config.betas = betas.iter().map(|&b| f64::from(b)).collect();
}

/// The package's betas for our schedule.
///
/// They are ours, except that in the sigmoid schedule the package rounds two constants to f32, which moves
/// alphas_cumprod by 1e-8 and the last betas by up to 1e-4 of themselves.
fn their_betas(config: &DiffusionConfig) -> Vec<f64> {
    if config.schedule != ScheduleKind::Sigmoid {
        return Schedule::new(config).betas.to_vec();
    }
    let steps = config.timesteps as usize;
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (first, last) = (logistic(-3.0) as f32, logistic(3.0) as f32);
    let span = f64::from(last - first);
    let alpha_bar = |i: usize| {
        let x = i as f64 / steps as f64 * 6.0 - 3.0;
        (f64::from(last) - logistic(x)) / span
    };
    let start = alpha_bar(0);
    let alphas_cumprod: Vec<f64> = (0..=steps).map(|i| alpha_bar(i) / start).collect();
    alphas_cumprod
        .windows(2)
        .map(|w| (1.0 - w[1] / w[0]).clamp(0.0, 0.999))
        .collect()
}

/// ᾱ_t / (1 - ᾱ_t).
fn snr(schedule: &Schedule) -> Vec<f64> {
    schedule
        .alphas_cumprod
        .iter()
        .map(|a| a / (1.0 - a))
        .collect()
}

/// Divisor of the snr in the loss weight.
fn divisor(prediction: Prediction, snr: f64) -> f64 {
    match prediction {
        Prediction::Eps => snr,
        Prediction::X0 => 1.0,
        Prediction::V => snr + 1.0,
    }
}

/// The quantity the network predicts, if the loss weights show it clearly.
///
/// They are min(snr, gamma) / [`divisor`], where gamma is infinite unless `min_snr_loss_weight` was
/// set. snr falls with t, so the first weight shows the limit.
fn objective(
    buffers: &Buffers,
    config: &DiffusionConfig,
    report: &mut Report,
) -> Option<Prediction> {
    let (Some(betas), Some(weights)) = (&buffers.betas, &buffers.loss_weight) else {
        return None;
    };
    if weights.len() != betas.len() {
        return None;
    }
    let snr = snr(&Schedule::from_betas(their_betas(config).into()));
    let limits = [Prediction::Eps, Prediction::X0, Prediction::V].map(|prediction| {
        let numerator = |t: usize| f64::from(weights[t]) * divisor(prediction, snr[t]);
        let limit = numerator(0);
        let fits = (0..snr.len()).all(|t| {
            let want = snr[t].min(limit);
            (numerator(t) - want).abs() <= SAME_WEIGHT * want
        });
        fits.then_some((prediction, limit))
    });
    let mut fitting = limits.into_iter().flatten();
    let (prediction, limit) = fitting.next()?;
    if fitting.next().is_some() {
        return None;
    }
    if limit < snr[0] * (1.0 - SAME_WEIGHT) {
        report.fact("min-SNR gamma", format!("{limit:.3}"), "loss_weight");
    }
    if weights.iter().any(|w| (w - 1.0).abs() > SAME_WEIGHT as f32) {
        report.assume(
            "training continues with the same weight for every t: the package multiplied the loss by \
             loss_weight",
        );
    }
    Some(prediction)
}

/// The 13 buffers of a `GaussianDiffusion`, in its order, each `[T]`: computed in f64, kept as f32.
///
/// `loss_weight` is that of the objective, without a limit on the snr.
pub(in crate::interop) fn buffers(config: &DiffusionConfig) -> Vec<(&'static str, Vec<f32>)> {
    let s = Schedule::from_betas(their_betas(config).into());
    let table = |of: &dyn Fn(usize) -> f64| (0..s.len()).map(|t| of(t) as f32).collect();
    let (bar, prev) = (
        |t: usize| s.alphas_cumprod[t],
        |t: usize| s.alpha_bar_prev(t),
    );
    let variance = |t: usize| s.betas[t] * (1.0 - prev(t)) / (1.0 - bar(t));
    let snr = snr(&s);
    vec![
        ("betas", table(&|t| s.betas[t])),
        ("alphas_cumprod", table(&bar)),
        ("alphas_cumprod_prev", table(&prev)),
        ("sqrt_alphas_cumprod", table(&|t| bar(t).sqrt())),
        (
            "sqrt_one_minus_alphas_cumprod",
            table(&|t| (1.0 - bar(t)).sqrt()),
        ),
        (
            "log_one_minus_alphas_cumprod",
            table(&|t| (1.0 - bar(t)).ln()),
        ),
        (
            "sqrt_recip_alphas_cumprod",
            table(&|t| (1.0 / bar(t)).sqrt()),
        ),
        (
            "sqrt_recipm1_alphas_cumprod",
            table(&|t| (1.0 / bar(t) - 1.0).sqrt()),
        ),
        ("posterior_variance", table(&variance)),
        (
            "posterior_log_variance_clipped",
            table(&|t| variance(t).max(1e-20).ln()),
        ),
        (
            "posterior_mean_coef1",
            table(&|t| s.betas[t] * prev(t).sqrt() / (1.0 - bar(t))),
        ),
        (
            "posterior_mean_coef2",
            table(&|t| (1.0 - prev(t)) * s.alphas[t].sqrt() / (1.0 - bar(t))),
        ),
        (
            "loss_weight",
            table(&|t| snr[t] / divisor(config.prediction, snr[t])),
        ),
    ]
}

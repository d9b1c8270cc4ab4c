//! Samplers against numbers of the original Keras-DDPM, dumped from its own code (weights/README.md).
//!
//! Tolerance: chains of 20 steps of the original in f32 differ from it in f64 by up to 7e-7, its network's forward by
//! 4.6e-6; all values are compared before the final clip.

mod common;

use common::{Golden, max_abs, rel_l2};
use ddpm::config::{DiffusionConfig, LossKind, Prediction, ScheduleKind, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::model::Model;
use ddpm::sample::{Ddpm, Process, Respaced, Steps, ddpm};
use tch::{Kind, Tensor};

/// Keras-DDPM's schedule and prediction.
fn keras(timesteps: i64) -> DiffusionConfig {
    DiffusionConfig {
        timesteps,
        schedule: ScheduleKind::KerasDdpm,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Sum,
    }
}

fn levels(timesteps: i64, steps: &Steps) -> Respaced {
    Respaced::new(&Schedule::new(&keras(timesteps)), steps).unwrap()
}

/// Runs `sample` with the process of a network over `levels`.
fn with_process<T>(net: &Model, levels: &Respaced, sample: impl FnOnce(&Process) -> T) -> T {
    let denoiser = |x: &Tensor, t: &Tensor| tch::no_grad(|| net.forward(x, t, None, false));
    sample(&Process::new(&denoiser, levels, &keras(20), false))
}

#[test]
fn ddpm_chains_of_20_steps() {
    let golden = Golden::open("keras_ddpm_sample_T20");
    let net = Golden::open("keras_A").network();
    for (sigma, name) in [(Sigma::Beta, "beta"), (Sigma::Posterior, "ratio")] {
        let options = Ddpm {
            sigma,
            last_noise: true,
        };
        let out = with_process(&net, &levels(20, &Steps::All), |process| {
            let start = golden.get("z_T").copy();
            let mut noise = |k| golden.get("noise").get(k as i64 - 1);
            ddpm(process, options, start, &mut noise, &mut |_| ())
        });
        let want = golden.get(&format!("preclip_{name}"));
        let error = max_abs(&out, want);
        assert!(error <= 1e-5, "{name}: {error}");
        let clipped = max_abs(&out.clamp(-1.0, 1.0), golden.get(&format!("result_{name}")));
        assert!(clipped <= 1e-5, "{name}, clipped: {clipped}");
    }
}

#[test]
fn single_steps_of_a_1000_step_chain() {
    let golden = Golden::open("keras_ddpm_sample_T1000_segments");
    let net = Golden::open("keras_A").network();
    let options = Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    };
    let levels = levels(1000, &Steps::All);
    for i in 0..golden.get("t").size()[0] {
        let at = |name: &str| golden.get(name).narrow(0, i, 1);
        let t = golden.get("t").int64_value(&[i]) as usize;
        let x_t = at("z_in").to_kind(Kind::Float);
        let (eps_hat, x_prev) = with_process(&net, &levels, |process| {
            let estimate = process.estimate(&x_t, t);
            let x_prev = options.step(&levels, &estimate, t, || at("noise"));
            (estimate.eps_hat(), x_prev)
        });
        // Values grow to about 100 in this chain; f32 keeps 24 bits of them.
        let error = rel_l2(&x_prev, &at("z_out"));
        assert!(error <= 1e-6, "t = {t}: {error}");
        let error = rel_l2(&eps_hat, &at("eps"));
        assert!(error <= 1e-5, "t = {t}: eps_hat {error}");
    }
}

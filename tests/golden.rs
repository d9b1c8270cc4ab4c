//! Compares with numbers of the original Keras-DDPM, dumped from its own code (weights/README.md).
//!
//! Tolerances: the original in f32 differs from itself in f64 by up to 4.6e-6 (forward, absolute),
//! 1.4e-5 (gradients, relative L2) and 5e-4 (12-step weight changes, relative), so f32 libtorch must
//! stay within a few times that.

mod common;

use std::collections::HashMap;

use common::{Golden, max_abs, rel_l2};
use ddpm::config::{
    DiffusionConfig, LossKind, OptimConfig, Prediction, Preset, ScheduleKind, Sigma,
};
use ddpm::diffusion::{Schedule, microbatch_loss};
use ddpm::model::{group_norm, params_of};
use ddpm::optim::{Arena, Ema, Optimizer, StepInputs, lr_multiplier};
use ndarray::Array1;
use tch::{Device, Kind, Tensor};

/// `ddpm.py`'s network twice, `ddpm2.py`'s twice, `ddpm-gau.py`'s.
const NETWORKS: [&str; 5] = ["keras_A", "keras_C", "keras_D", "keras_Dt", "keras_G"];

fn keras_schedule(timesteps: i64) -> Schedule {
    let schedule = ScheduleKind::KerasDdpm;
    Schedule::new(&DiffusionConfig {
        timesteps,
        schedule,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Sum,
    })
}

#[test]
fn schedule_tables() {
    let golden = Golden::open("keras_schedule");
    let s = keras_schedule(1000);
    let sigma = |kind| Array1::from_shape_fn(1000, |t| s.sigma(kind, t));
    let root = |v: &Array1<f64>| v.mapv(f64::sqrt);
    let bar_beta = s.alphas_cumprod.mapv(|a| (1.0 - a).sqrt());
    for (name, ours) in [
        ("alpha", root(&s.alphas)),
        ("beta", root(&s.betas)),
        ("bar_alpha", root(&s.alphas_cumprod)),
        ("bar_beta", bar_beta),
        ("sigma_beta", sigma(Sigma::Beta)),
        ("sigma_ratio", sigma(Sigma::Posterior)),
    ] {
        for (t, (a, b)) in ours.iter().zip(golden.f64s(name)).enumerate() {
            assert!((a - b).abs() <= 1e-12, "{name}[{t}]: {a} and {b}");
        }
    }
}

#[test]
fn group_norms() {
    let golden = Golden::open("keras_norm");
    for case in ["gn0_C64", "gn1_C96", "gn2_C32", "gn3_C256"] {
        let part = |p: &str| golden.get(&format!("{case}.{p}"));
        let y = group_norm(part("x"), 32, part("weight"), part("bias"), 1e-6);
        // f32 statistics over groups of as few as 8 values.
        let error = rel_l2(&y, part("y"));
        assert!(error < 1e-5, "{case}: {error}");
    }
}

#[test]
fn forward_and_loss() {
    for name in NETWORKS {
        let golden = Golden::open(name);
        let net = golden.network();
        let y = tch::no_grad(|| net.forward(golden.get("x"), golden.get("t"), None, false));
        let error = max_abs(&y, golden.get("y"));
        assert!(error <= 2e-5, "{name}: {error}");
        let loss = microbatch_loss(LossKind::Sum, &y, golden.get("noise"), y.size()[0]);
        let (loss, want) = (f64::try_from(loss).unwrap(), golden.f64s("loss")[0]);
        assert!(
            (loss - want).abs() <= 1e-5 * want,
            "{name}: loss {loss}, want {want}"
        );
    }
}

#[test]
fn every_gradient() {
    for name in NETWORKS {
        let golden = Golden::open(name);
        let net = golden.network();
        let y = net.forward(golden.get("x"), golden.get("t"), None, true);
        microbatch_loss(LossKind::Sum, &y, golden.get("noise"), y.size()[0]).backward();
        let skipped = golden.zero_gradient();
        for p in net.params().iter().filter(|p| !skipped.contains(&p.name)) {
            let grad = p.tensor.grad();
            let error = match golden.find(&format!("grad.{}", p.name)) {
                Some(want) => rel_l2(&grad, want),
                None => {
                    let index = golden
                        .get(&format!("gradidx.{}", p.name))
                        .to_kind(Kind::Int64);
                    let norm = golden.f64s(&format!("gradnorm.{}", p.name))[0];
                    let ours = grad.norm().double_value(&[]);
                    assert!(
                        (ours - norm).abs() <= 1e-4 * norm,
                        "{name} {}: norm",
                        p.name
                    );
                    let part = grad.reshape([-1]).index_select(0, &index);
                    rel_l2(&part, golden.get(&format!("gradsub.{}", p.name)))
                }
            };
            assert!(error <= 1e-4, "{name} {}: {error}", p.name);
        }
    }
}

/// LAMB as the original ran it: norms adapted too, because its exclusion list, 'Norm' and 'bias', matches
/// only the biases.
fn keras_lamb() -> OptimConfig {
    OptimConfig {
        adapt_norms: true,
        ema: 0.9,
        ..Preset::Celebahq128.config().optim
    }
}

/// Error relative to the change of the weights, over the golden subsample of one tensor.
fn moved_error(ours: &Tensor, want: &Tensor, start: &Tensor, index: &Tensor) -> f64 {
    let pick = |t: &Tensor| t.reshape([-1]).index_select(0, index).to_kind(Kind::Double);
    let distance = (want.to_kind(Kind::Double) - pick(start)).norm();
    f64::try_from((pick(ours) - want.to_kind(Kind::Double)).norm() / distance).unwrap()
}

#[test]
fn twelve_step_trajectories() {
    for model in ["keras_A", "keras_C", "keras_D", "keras_G"] {
        for mode in ["before", "after"] {
            trajectory(model, mode);
        }
    }
}

fn trajectory(model: &str, mode: &str) {
    let golden = Golden::open(&format!("{model}_traj"));
    let start = Golden::open(model);
    let net = start.network();
    let biases = net.params().into_iter().filter(|p| p.is_bias());
    let biases: Vec<String> = biases.map(|p| p.name).collect();
    assert_eq!(biases, start.not_adapted(), "{model}");
    let arena = Arena::new(&net.params()).unwrap();
    let mut optimizer = Optimizer::new(&keras_lamb(), &arena);
    let mut ema = Ema::new(&arena, 0.9);
    let part = |name: &str| golden.f64s(&format!("{mode}.{name}"));
    let (losses, multipliers, adam_t) = (part("losses"), part("lr_multiplier"), part("adam_t"));

    for k in 0..12 {
        let at = |name: &str| golden.get(name).get(k as i64);
        let y = net.forward(&at("noisy"), &at("t"), None, true);
        let loss = microbatch_loss(LossKind::Sum, &y, &at("noise"), y.size()[0]);
        arena.zero_grad();
        loss.backward();
        let loss = f64::try_from(loss).unwrap();
        assert!(
            (loss - losses[k]).abs() <= 1e-5 * losses[k],
            "{model} {mode} step {}: {loss}",
            k + 1
        );
        let inputs = StepInputs {
            adam_t: adam_t[k] as u64,
            lr_multiplier: multipliers[k],
        };
        optimizer.step(&arena, inputs).unwrap();
        ema.update(&arena);
        if k == 2 || k == 11 {
            compare_weights(
                &golden,
                &start,
                &arena,
                &ema,
                &format!("{mode}.{{}}.s{:02}", k + 1),
            );
        }
    }
}

/// `key` is like `before.{}.s03`.
fn compare_weights(golden: &Golden, start: &Golden, arena: &Arena, ema: &Ema, key: &str) {
    let skipped = golden.zero_gradient();
    let averages: HashMap<String, Tensor> = arena.state_dict(&ema.flat).into_iter().collect();
    for (name, weight) in arena.state_dict(&arena.params) {
        if skipped.contains(&name) {
            continue;
        }
        let entry = |part: &str| golden.get(&format!("{}.{name}", key.replace("{}", part)));
        let index = golden.get(&format!("idx.{name}")).to_kind(Kind::Int64);
        let w0 = start.get(&format!("w.{name}"));
        let error = moved_error(&weight, entry("wsub"), w0, &index);
        // The original's own f32 error is at most 5e-4 of the change.
        assert!(
            error <= 1e-3,
            "{key} {name}: {error} of the way the weights moved"
        );
        let norm = entry("wnorm").double_value(&[]);
        assert!(
            (weight.norm().double_value(&[]) - norm).abs() <= 1e-5 * norm.max(1e-3),
            "{key} {name}: norm"
        );
        let average = averages[&name].reshape([-1]).index_select(0, &index);
        // A norm's shift starts at zero, so its EMA is as small as its few steps.
        let error = rel_l2(&average, entry("emasub"));
        assert!(error <= 2e-5, "{key} {name}: EMA {error}");
    }
}

#[test]
fn lamb_on_prescribed_gradients() {
    let golden = Golden::open("keras_optimizer_unit");
    let names: Vec<String> = golden
        .section("w0.")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let store = tch::nn::VarStore::new(Device::Cpu);
    // We exclude by name, the original by regular expression: a tensor that it excluded gets a name
    // that we exclude.
    let path_of = |name: &str| {
        let adapted = golden.get(&format!("adapted.{name}")).int64_value(&[0]) == 1;
        let group = if adapted { "plain" } else { "norm" };
        (group, name.replace('.', "_"))
    };
    for name in &names {
        let (group, leaf) = path_of(name);
        let _ = (store.root() / group).var_copy(&leaf, golden.get(&format!("w0.{name}")));
    }
    let arena = Arena::new(&params_of(&store)).unwrap();
    let config = OptimConfig {
        adapt_norms: false,
        ..keras_lamb()
    };
    let mut optimizer = Optimizer::new(&config, &arena);
    let mut ema = Ema::new(&arena, 0.9);

    for k in 0..14 {
        for (path, mut grad) in arena.state_dict(&arena.grads) {
            let name = names
                .iter()
                .find(|n| path_of(n).0.to_owned() + "." + &path_of(n).1 == path);
            grad.copy_(&golden.get(&format!("grad.{}", name.unwrap())).get(k));
        }
        let inputs = StepInputs {
            adam_t: golden.get("adam_t").int64_value(&[k]) as u64,
            lr_multiplier: golden.get("lr_multiplier").double_value(&[k]),
        };
        optimizer.step(&arena, inputs).unwrap();
        ema.update(&arena);
        for name in &names {
            let (group, leaf) = path_of(name);
            let path = format!("{group}.{leaf}");
            for (kind, flat) in [("w", &arena.params), ("ema", &ema.flat)] {
                let ours = &arena
                    .state_dict(flat)
                    .into_iter()
                    .find(|(p, _)| *p == path)
                    .unwrap()
                    .1;
                let want = golden.get(&format!("{kind}.f64.{name}")).get(k);
                if want.norm().double_value(&[]) == 0.0 {
                    assert_eq!(
                        ours.norm().double_value(&[]),
                        0.0,
                        "{kind} {name} step {}",
                        k + 1
                    );
                } else {
                    let error = rel_l2(ours, &want);
                    assert!(error <= 1e-6, "{kind} {name} step {}: {error}", k + 1);
                }
            }
        }
    }
}

#[test]
fn the_original_lr_schedule() {
    // `lr_schedule={4:1,8:.5,12:.1}` of the oracle's runs, with the implied start at 0.
    let points = [(0, 0.0), (4, 1.0), (8, 0.5), (12, 0.1)];
    let want = Golden::open("keras_A_traj").f64s("before.lr_multiplier");
    for (step, want) in want.iter().enumerate() {
        // The original computes it in f32.
        assert!(
            (lr_multiplier(&points, step as u64) - want).abs() < 1e-6,
            "step {step}"
        );
    }
}

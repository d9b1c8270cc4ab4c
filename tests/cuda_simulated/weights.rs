//! The bf16 copies of weights: casts that are saved, and no copy that is older than the weights.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use ddpm::device::{DeviceChoice, Precision, choose};
use ddpm::native::{Bf16, Bf16Weights, KeptFilters, cast_weight, set_grad};
use tch::{Device, Kind, Tensor};

use crate::lab::{Lab, on_simulator};
use crate::tiny::{assert_same_end, metrics, records};

const SMALL: &str = "--preset demo --size 16 --base-width 8 --norm-groups 2 --batch 4 \
                     --builtin-images 16 --deterministic --device cuda --precision bf16";
const ATTENTION: &str = "--preset ddpm-cifar10 --size 16 --base-width 16 --norm-groups 4 \
                         --multipliers 1,2 --blocks 1 --attention 8 --batch 4 --builtin-images 16 \
                         --device cuda --precision bf16";

/// Casts of activations are left: 27 and 58 when this was written. With those of weights it was 52 and 160.
#[test]
fn no_step_of_a_sampler_casts_weights() {
    for (network, most) in [(SMALL, 35.0), (ATTENTION, 80.0)] {
        let lab = Lab::new();
        lab.ok(&format!(
            "train {network} --sample-every 0 --steps 1 --run run"
        ));
        let casts = |steps: u64| {
            let images = format!("--out-tensor {steps}.safetensors");
            let how = "--device cuda --precision bf16 --sampler ddim";
            lab.ok(&format!("sample run -n 2 {how} --steps {steps} {images}"))
                .count("casts")
        };
        let a_step = (casts(7) - casts(3)) as f64 / 4.0;
        println!("{network}: {a_step} casts a step");
        assert!(a_step <= most, "{network}: {a_step} casts a step");
    }
}

/// Microbatches share one copy, and so do a block and its second computation.
#[test]
fn a_step_casts_its_weights_once() {
    let casts = |flags: &str| {
        let lab = Lab::new();
        let run = |steps: u64| {
            let run = format!("--sample-every 0 --steps {steps} --run run-{steps}");
            lab.ok(&format!("train {SMALL} {flags} {run}"))
                .count("casts")
        };
        (run(7) - run(3)) / 4
    };
    // 62, 236 and 77 when this was written; with casts of weights and of their gradients 111, 435 and 142.
    for (flags, most) in [
        ("--accumulate 1", 85),
        ("--accumulate 4", 330),
        ("--checkpoint-blocks", 110),
    ] {
        let casts = casts(flags);
        println!("{flags}: {casts} casts a step");
        assert!(casts <= most, "{flags}: {casts} casts a step");
    }
}

/// A grid puts other weights in the place of those in training.
#[test]
fn grids_and_a_resume_between_steps_change_no_step() {
    let lab = Lab::new();
    let train = |run: &str, steps: u64, more: &str| {
        lab.ok(&format!(
            "train {SMALL} --lr 0.01 --timesteps 8 --run {run} --steps {steps} {more}"
        ))
    };
    train("bare", 9, "--sample-every 0");
    let grids = "--sample-every 2 --sample-images 2";
    train("grids", 9, grids);
    train("twice", 5, grids);
    lab.ok("train --run twice --steps 9 --deterministic --device cuda --precision bf16");
    let bare = metrics(&lab.path("bare"));
    assert_eq!(bare.len(), 9);
    assert_eq!(metrics(&lab.path("grids")), bare);
    assert_same_end(&lab.path("grids"), &lab.path("twice"), 9);
}

/// A rollback puts back the weights of a checkpoint; a run that is resumed from a checkpoint has no older copy.
#[test]
fn a_run_that_went_back_goes_on_as_one_that_starts_there() {
    let lab = Lab::new();
    let settings = "--size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 4 --batch 4 \
                    --builtin-images 10 --sample-every 0 --lr-schedule 0:1 --optimizer lamb --lr 0.1 \
                    --save-every 50 --on-bad-step rollback";
    let on = "--device cuda --precision bf16 --deterministic";
    let train = |run: &str, steps: u64, settings: &str| {
        lab.ok(&format!(
            "train {settings} {on} --run {run} --steps {steps}"
        ))
    };
    let settings = format!("--preset demo {settings}");
    let said = train("once", 170, &settings);
    said.assert_says(&["with 0.5 of the learning rate"]);
    let first_bad = records(&lab.path("once"))[0];
    // The first run that ends after the bad step went back too; the rest has only seen its checkpoint.
    train("twice", first_bad + 1, &settings);
    train("twice", 170, "");
    assert_same_end(&lab.path("once"), &lab.path("twice"), 170);
}

/// In a process of its own, on the simulated device: this one's libtorch may have been asked about CUDA already.
#[test]
fn copies_are_those_of_autocast_or_refused() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["uses_copies", "--ignored", "--nocapture"]);
    let out = on_simulator(&mut test).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{out:?}");
}

#[test]
#[ignore = "the process of another test"]
fn uses_copies() {
    let cuda = choose(DeviceChoice::Cuda(0), Precision::Bf16, false);
    let device = cuda.unwrap().device;
    let drawn = Tensor::arange(96, (Kind::Float, Device::Cpu))
        .sin()
        .to_device(device);
    let grads = drawn.zeros_like();
    // Twice used by a pass, in two passes: sums of gradients in bf16, and then in f32.
    let [weight, bias] = [(0, vec![4, 4]), (16, vec![4])].map(|(start, shape)| {
        let part = |flat: &Tensor| {
            flat.narrow(0, start, shape.iter().product())
                .view(&shape[..])
        };
        let leaf = part(&drawn).detach().set_requires_grad(true);
        set_grad(&leaf, &part(&grads)).unwrap();
        leaf
    });
    let x = drawn.narrow(0, 32, 64).view([4, 4, 4]).transpose(0, 1);
    let map = |x: &Tensor| x.linear(&cast_weight(&weight), Some(cast_weight(&bias)));
    let in_bf16 = |body: &dyn Fn() -> Tensor| {
        let _casting = Bf16::begin(device).unwrap();
        body()
    };
    let outcome = || {
        let _ = grads.shallow_clone().zero_();
        let pass = || {
            let y = in_bf16(&|| map(&map(&x)));
            y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
            y.detach()
        };
        [pass(), pass(), grads.copy()]
    };
    let by_autocast = outcome();
    assert!(f64::try_from(by_autocast[2].abs().sum(Kind::Float)).unwrap() > 1.0);
    let copy = Bf16Weights::of(&drawn).unwrap();
    assert_eq!(outcome(), by_autocast);
    assert_eq!(in_bf16(&|| cast_weight(&weight)).kind(), Kind::BFloat16);
    assert_eq!(cast_weight(&weight).kind(), Kind::Float, "outside of bf16");

    // Weights that have changed since are not used.
    let _ = tch::no_grad(|| drawn.shallow_clone().g_mul_scalar_(2.0));
    let stale = catch_unwind(AssertUnwindSafe(|| in_bf16(&|| cast_weight(&weight))));
    assert!(stale.is_err());
    drop(copy);
    let want = tch::no_grad(|| in_bf16(&|| map(&x)));
    let kept = KeptFilters::new();
    for _ in 0..2 {
        let got = tch::no_grad(|| kept.during(|| in_bf16(&|| map(&x))));
        assert_eq!(got, want);
    }
    let cast = || kept.during(|| in_bf16(&|| cast_weight(&weight)));
    let with_gradients = cast();
    assert_eq!(with_gradients.kind(), Kind::Float, "is left to autocast");
    let (first, again) = (tch::no_grad(cast), tch::no_grad(cast));
    assert_eq!(first.kind(), Kind::BFloat16);
    assert_eq!(first.data_ptr(), again.data_ptr());
}

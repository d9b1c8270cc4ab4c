//! Every kind of network in f32 and bf16: losses and images as on the CPU, and no step that waits.

use crate::common::{Golden, max_abs};
use crate::lab::Lab;
use crate::tiny::metrics;

/// Largest relative differences of loss and gradient norm between the device and the CPU, over five steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    loss: f64,
    grad_norm: f64,
}

/// The CPU fuses norms and blocks and adds in another order, which is some units of 6e-8; five steps of the optimizer
/// make little of it.
pub(crate) const F32: Bounds = Bounds {
    loss: 1e-5,
    grad_norm: 1e-4,
};

/// The bound on the variances divides by those of the first time steps, which are near zero.
const F32_WITH_VARIANCES: Bounds = Bounds {
    loss: 1e-4,
    grad_norm: 1e-2,
};

/// A value in bf16 is off by up to 2e-3, at other places where the CPU fuses than where autocast casts; sums over many
/// values are off by less.
const BF16: Bounds = Bounds {
    loss: 3e-3,
    grad_norm: 2e-2,
};

pub(crate) const UNET: &str = "--preset demo --size 16 --base-width 8 --norm-groups 2 --batch 4";
pub(crate) const ATTENTION: &str = "--preset ddpm-cifar10 --size 16 --base-width 16 --norm-groups 4 \
                         --multipliers 1,2 --blocks 1 --attention 8 --batch 4 --dropout 0";
const VARIANCES: &str = "--preset improved-cifar10 --size 16 --base-width 16 --norm-groups 4 \
                         --multipliers 1,2 --blocks 1 --attention 8 --batch 4 --dropout 0";
const LUCIDRAINS: &str =
    "--preset lucidrains --size 16 --base-width 16 --multipliers 1,2 --batch 2";
const CONCAT: &str = "--preset keras-ddpm2 --size 32 --base-width 8 --norm-groups 4 --batch 2";
const GAU: &str = "--preset keras-gau --size 16 --base-width 64 --layers 3 --batch 2";

#[test]
fn unet() {
    hold(UNET, F32, BF16, 80);
}

#[test]
fn unet_attention() {
    hold(ATTENTION, F32, BF16, 180);
}

#[test]
fn unet_attention_with_variances() {
    hold(VARIANCES, F32_WITH_VARIANCES, BF16, 180);
}

#[test]
fn lucidrains() {
    hold(LUCIDRAINS, F32, BF16, 250);
}

#[test]
fn unet_concat() {
    hold(CONCAT, F32, BF16, 350);
}

#[test]
fn gau() {
    hold(GAU, F32, BF16, 50);
}

/// Trains five steps in both precisions on both devices, and samples. `casts`: the most of a step in bf16; a network
/// that casts each of its weights, and each of their gradients, has more.
fn hold(network: &str, f32: Bounds, bf16: Bounds, casts: u64) {
    let lab = Lab::new();
    for (precision, bounds) in [("f32", f32), ("bf16", bf16)] {
        let train = |run: &str, steps: u64| {
            let settings = "--builtin-images 16 --sample-every 0 --save-every 1000";
            let run = format!("--run {run} --precision {precision} --steps {steps}");
            format!("train {network} {settings} {run}")
        };
        let on_device = |run: &str, steps| lab.ok(&(train(run, steps) + " --device cuda"));
        let short = on_device(&format!("short-{precision}"), 3);
        let long = on_device(precision, 5);
        // The first two steps of a start and its last are read at once; those between are not waited for.
        assert_eq!(
            long.waits(),
            short.waits(),
            "{precision}: {} and {}",
            short.by_name(),
            long.by_name()
        );
        let casts_a_step = (long.count("casts") - short.count("casts")) / 2;
        println!("{precision}: {casts_a_step} casts a step");
        assert!(
            casts_a_step <= casts,
            "{precision}: {casts_a_step} casts a step"
        );
        let cpu = format!("cpu-{precision}");
        lab.on_cpu(&(train(&cpu, 5) + " --device cpu"));
        compare(&lab, precision, &cpu, bounds);
    }
    sample(&lab, "f32");
}

pub(crate) fn compare(lab: &Lab, run: &str, other: &str, bounds: Bounds) {
    let [ours, theirs] = [run, other].map(|run| metrics(&lab.path(run)));
    assert_eq!((ours.len(), theirs.len()), (5, 5));
    for ((step, loss, norm), (_, their_loss, their_norm)) in ours.into_iter().zip(theirs) {
        let apart = |a: f64, b: f64| ((a - b) / b).abs();
        let (loss, norm) = (apart(loss, their_loss), apart(norm, their_norm));
        println!("{run} step {step}: loss {loss:.1e}, gradient norm {norm:.1e}");
        assert!(loss <= bounds.loss, "{run} step {step}: loss {loss}");
        assert!(norm <= bounds.grad_norm, "{run} step {step}: norm {norm}");
    }
}

/// A run in f32 gives the same images on both devices, but for rounding that the sampler carries on.
pub(crate) fn sample(lab: &Lab, run: &str) {
    let images = |device: &str| {
        let file = format!("{run}-{device}.safetensors");
        let arguments = format!(
            "sample {run} -n 2 --sampler ddim --steps 3 --precision f32 --device {device} --out-tensor {file}"
        );
        match device {
            "cpu" => lab.on_cpu(&arguments),
            _ => drop(lab.ok(&arguments)),
        }
        Golden::open_path(&lab.path(&file)).get("pictures").copy()
    };
    let apart = max_abs(&images("cuda"), &images("cpu"));
    println!("images: {apart:.1e}");
    assert!(apart <= 1e-3, "{apart}");
}

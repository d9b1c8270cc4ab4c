//! `ddpm sample` with every sampler, on a stored network of 20 time steps (weights/peers).

mod common;

use std::path::Path;

use assert_cmd::Command;
use common::{Golden, max_abs, repo};
use predicates::str::contains;
use tch::Tensor;

/// `ddpm sample` of two images.
fn sample(flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command
        .arg("sample")
        .arg(repo("weights/peers/diffusers"))
        .args("-n 2 --device cpu".split_whitespace())
        .args(flags.split_whitespace())
        .env("OMP_NUM_THREADS", "1");
    command
}

fn images(dir: &Path, flags: &str) -> Tensor {
    let file = dir.join("pictures.safetensors");
    sample(flags)
        .arg("--force")
        .arg("--out-tensor")
        .arg(&file)
        .assert()
        .success();
    Golden::open_path(&file).get("pictures").copy()
}

#[test]
fn samplers_differ_and_each_is_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<(&str, Tensor)> = [
        "--sampler ddpm --steps 6",
        "--sampler ddim --steps 6",
        "--sampler dpmpp-2m --steps 6",
        "--sampler dpmpp-2m-sde --steps 6",
        "--sampler heun --steps 6",
        "--sampler unipc --steps 6",
        "--sampler unipc --steps 6 --order 3",
    ]
    .into_iter()
    .map(|flags| (flags, images(dir.path(), flags)))
    .collect();
    for (i, (flags, image)) in made.iter().enumerate() {
        assert_eq!(image.size(), [2, 3, 16, 16]);
        assert!(f64::try_from(image.abs().max()).unwrap() <= 1.0);
        for (other, its) in &made[..i] {
            assert!(max_abs(image, its) > 1e-3, "{flags} is {other}");
        }
    }
    let (flags, first) = &made[3];
    assert_eq!(images(dir.path(), flags), *first);
}

/// A single step, from x_T to x_0_hat, is the same for all samplers that add no noise.
#[test]
fn in_one_step_all_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str| images(dir.path(), &format!("--sampler {name} --times 19"));
    let ddim = one("ddim");
    for name in ["ddpm", "dpmpp-2m", "dpmpp-2m-sde", "heun", "unipc"] {
        assert!(max_abs(&one(name), &ddim) < 1e-6, "{name}");
    }
}

#[test]
fn flags_of_other_samplers_are_refused() {
    for (flags, said) in [
        (
            "--sampler heun --eta 0.5",
            "--eta does nothing with --sampler heun",
        ),
        (
            "--sampler ddim --order 2",
            "--order does nothing with --sampler ddim",
        ),
        ("--sampler unipc --order 0", "want 1, 2 or 3"),
        ("--sampler analytic", "ddpm calibrate"),
        ("--sampler dpm", "dpmpp-2m-sde"),
    ] {
        sample(flags).assert().failure().stderr(contains(said));
    }
}

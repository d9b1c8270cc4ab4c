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

/// The flags give the images of the same network beside a scheduler that says so.
#[test]
fn the_sampler_s_own_flags_win_over_the_scheduler() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    for part in ["unet", "scheduler"] {
        let (from, to) = (repo("weights/peers/diffusers").join(part), model.join(part));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(
        repo("weights/peers/diffusers/model_index.json"),
        model.join("model_index.json"),
    )
    .unwrap();
    let scheduler = model.join("scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&scheduler).unwrap();
    let other = text
        .replace("\"fixed_large\"", "\"fixed_small\"")
        .replace("\"clip_sample\": true", "\"clip_sample\": false");
    assert!(other.contains("fixed_small") && other.contains("\"clip_sample\": false"));
    std::fs::write(&scheduler, other).unwrap();

    let flags = "--steps 4 --sigma posterior --clip-x0=false";
    let flagged = images(dir.path(), flags);
    assert!(max_abs(&flagged, &images(dir.path(), "--steps 4")) > 1e-3);
    sample(flags)
        .arg("--out")
        .arg(dir.path().join("o.png"))
        .assert()
        .success()
        .stderr(contains("--sigma posterior instead of the file's beta"))
        .stderr(contains("--clip-x0=false instead of the file's true"));
    let out = dir.path().join("written.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command
        .arg("sample")
        .arg(&model)
        .args("-n 2 --device cpu --steps 4".split_whitespace());
    command
        .arg("--out-tensor")
        .arg(&out)
        .env("OMP_NUM_THREADS", "1");
    command.assert().success();
    assert_eq!(Golden::open_path(&out).get("pictures").copy(), flagged);
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

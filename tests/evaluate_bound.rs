//! The variational bound and the loss over t, against the live PyTorch reference in scripts/reference/ (skipped without a
//! .venv with torch) and from the command line.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin_cmd;
use common::{Golden, python, repo, tiny_config};
use ddpm::config::{DiffusionConfig, Prediction, RunConfig, ScheduleKind, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::evaluate::bound::{Bound, BoundSettings};
use ddpm::evaluate::loss_by_t::LossByT;
use ddpm::formats::safetensors;
use ddpm::model::Model;
use ddpm::rng::seeded;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::{Device, Kind, Tensor, no_grad};

const IMAGES: u64 = 3;
const SEED: u64 = 5;

/// A tiny network with few time steps.
fn config() -> RunConfig {
    let mut config = tiny_config();
    config.model.set_chw([3, 8, 8]);
    (config.diffusion.timesteps, config.diffusion.schedule) = (12, ScheduleKind::Cosine);
    config
}

/// A network whose output depends on x and t, written to `path`.
fn network(config: &RunConfig, seed: u64, path: &Path) -> Model {
    let net = Model::new(&config.model, config.diffusion.timesteps, seed);
    for p in net.params() {
        // Layers that start near zero.
        if p.tensor.dim() > 1 && p.tensor.abs().max().double_value(&[]) < 1e-4 {
            let _ = no_grad(|| p.tensor.shallow_clone().g_mul_scalar_(1e5));
        }
    }
    let state: Vec<_> = (net.params().into_iter())
        .map(|p| (p.name, p.tensor))
        .collect();
    safetensors::write(path, about(), &state).unwrap();
    net
}

fn about() -> (String, String) {
    ("about".to_owned(), "test".to_owned())
}

/// 8-bit images; the first has both ends of the range.
fn pixels() -> Tensor {
    let shape = [IMAGES as i64, 3, 8, 8];
    let drawn = seeded(2, || {
        Tensor::randint(256, shape, (Kind::Uint8, Device::Cpu))
    });
    let mut first = drawn.get(0).get(0);
    let _ = first.get(0).fill_(0);
    let _ = first.get(1).fill_(255);
    let _ = first.get(2).fill_(128);
    drop(first.get(3).fill_(1));
    first = drawn.get(1);
    drop(first.get(0).fill_(255));
    drawn
}

fn run_reference(python: &Path, dir: &Path, more: &[&str]) -> Golden {
    let script = repo("scripts/reference/bound.py");
    let out = Command::new(python)
        .arg(script)
        .args(["--config", "run.json", "--weights", "w.safetensors"])
        .args(["--images", "pixels.safetensors", "--out", "out.safetensors"])
        .args(["--seed", &SEED.to_string()])
        .args(more)
        .current_dir(dir)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    Golden::open_path(&dir.join("out.safetensors"))
}

#[test]
fn every_term_is_the_references() {
    let Some(python) = python() else { return };
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let config = config();
    let text = serde_json::to_string(&config).unwrap();
    std::fs::write(file("run.json"), text).unwrap();
    let net = network(&config, 11, &file("w.safetensors"));
    let variances = network(&config, 12, &file("v.safetensors"));
    let pixels = pixels();
    let stored = [("pixels".to_owned(), pixels.shallow_clone())];
    safetensors::write(&file("pixels.safetensors"), about(), &stored).unwrap();
    let more = "--variances v.safetensors --sigma beta --sigma posterior --sigma learned \
                --prediction eps --prediction x0 --prediction v";
    let more: Vec<&str> = more.split_whitespace().collect();
    let theirs = run_reference(&python, dir.path(), &more);

    let schedule = Schedule::new(&config.diffusion);
    let timesteps = schedule.len();
    let x_0 = pixels.to_kind(Kind::Float) / 127.5 - 1.0;
    let numbers: Vec<u64> = (0..IMAGES).collect();
    let denoiser = |x: &Tensor, t: &Tensor| {
        let outs = [&net, &variances].map(|net| net.forward(x, t, None, false));
        Tensor::cat(&outs, 1)
    };
    for (prediction, p) in [
        (Prediction::Eps, "eps"),
        (Prediction::X0, "x0"),
        (Prediction::V, "v"),
    ] {
        let diffusion = DiffusionConfig {
            prediction,
            ..config.diffusion.clone()
        };
        let loss = LossByT::new(&diffusion, 1, SEED, Device::Cpu).unwrap();
        let ours = loss.losses(&denoiser, &x_0, &numbers, &mut || ()).unwrap();
        let theirs_by_t = theirs.f64s(&format!("{p}.beta.squared_error"));
        for ((image, t), ours) in ours.values.indexed_iter() {
            let theirs = theirs_by_t[t * IMAGES as usize + image];
            assert!(
                (ours - theirs).abs() < 1e-5 * theirs,
                "{p}: {ours} {theirs}"
            );
        }
        for (sigma, s) in [
            (Sigma::Beta, "beta"),
            (Sigma::Posterior, "posterior"),
            (Sigma::Learned, "learned"),
        ] {
            let settings = BoundSettings {
                prediction,
                sigma,
                every: 1,
                seed: SEED,
            };
            let bound = Bound::new(&schedule, settings, Device::Cpu).unwrap();
            let ours = bound.terms(&denoiser, &x_0, &numbers, &mut || ());
            let ours = ours.unwrap().values;
            let of = |name: &str| theirs.f64s(&format!("{p}.{s}.{name}"));
            let (prior, clipped, unclipped) = (of("prior"), of("clipped"), of("unclipped"));
            let mut pairs: Vec<(f64, f64)> = vec![];
            for image in 0..IMAGES as usize {
                pairs.push((ours[[image, 0]], prior[image]));
                for t in 0..timesteps {
                    let at = t * IMAGES as usize + image;
                    pairs.push((ours[[image, 1 + t]], clipped[at]));
                    pairs.push((ours[[image, 1 + timesteps + t]], unclipped[at]));
                }
            }
            // Equal up to what the network rounds in f32.
            for (ours, theirs) in pairs {
                let error = (ours - theirs).abs() / theirs.abs().max(1.0);
                assert!(error < 1e-5, "{p} {s}: {ours} {theirs}");
            }
        }
    }
}

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 \
                    --timesteps 12 --batch 4 --sample-every 0 --steps 2 --builtin-images 6 --device cpu";

fn ddpm(args: &str) -> assert_cmd::Command {
    let mut command = cargo_bin_cmd!("ddpm");
    // Threads that wait for one another take long on busy cores.
    command
        .args(args.split_whitespace())
        .env("OMP_NUM_THREADS", "1");
    command
}

/// A trained network's folder.
fn trained(dir: &Path, more: &str) -> PathBuf {
    let run = dir.join("run");
    let mut train = ddpm(&format!("train {TINY} {more} --run"));
    train.arg(&run).assert().success();
    run
}

fn json(command: &mut assert_cmd::Command) -> serde_json::Value {
    let out = command.assert().success().get_output().stdout.clone();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn the_command_prints_a_bound_that_does_not_depend_on_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "");
    ddpm("evaluate bpd --device cpu")
        .arg(&run)
        .assert()
        .success()
        .stdout(contains("total, at most").and(contains("distortion, t = 0")))
        .stderr(contains("trained on").and(contains("6 built-in faces")));
    let of = |more: &str| json(ddpm(&format!("evaluate bpd --device cpu --json {more}")).arg(&run));
    let all = of("");
    assert_eq!(all["images"], 6);
    assert_eq!(all["sigma"], "beta");
    let parts = &all["clipped"];
    let mean = |part: &serde_json::Value| part["mean"].as_f64().unwrap();
    let sum = mean(&parts["rate"]) + mean(&parts["distortion"]);
    assert!((mean(&parts["total"]) - sum).abs() < 1e-9);
    assert_eq!(all["by_t"]["clipped"]["mean"].as_array().unwrap().len(), 12);
    // To rounding in the network.
    let near = |a: &serde_json::Value, b: &serde_json::Value| (mean(a) - mean(b)).abs() < 1e-5;
    let in_fours = of("--batch 4");
    assert!(near(&in_fours["clipped"]["total"], &parts["total"]));
    // The first images of more are the same.
    let two = of("-n 2 --batch 1");
    let totals = |found: &serde_json::Value| found["unclipped"]["total_by_image"].clone();
    for i in 0..2 {
        let [a, b] = [&two, &all].map(|found| totals(found)[i].as_f64().unwrap());
        assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
    }
    let quick = of("--every 5");
    assert_eq!(quick["prior"], all["prior"]);
    assert!(near(&quick["clipped"]["distortion"], &parts["distortion"]));
    let other = of("--sigma posterior");
    assert!(!near(&other["clipped"]["rate"], &parts["rate"]));
}

#[test]
fn the_command_refuses_what_it_cannot_measure() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "");
    for (args, said) in [
        ("--every 13", "--every 13: this model has T = 12"),
        ("--every 0", "--every"),
        ("--sigma learned", "learns no variances"),
        ("-n 0", "--number"),
        (
            "--ode --ode-points 50",
            "--ode-points 50: this network has a row",
        ),
        ("--ode-probes 3", "--ode"),
        ("--data nowhere", "nowhere"),
        ("--plot terms.pdf", "svg"),
    ] {
        ddpm(&format!("evaluate bpd --device cpu {args}"))
            .arg(&run)
            .current_dir(dir.path())
            .assert()
            .failure()
            .stderr(contains(said));
    }
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    ddpm("evaluate bpd --device cpu --data")
        .arg(&empty)
        .arg(&run)
        .assert()
        .failure()
        .stderr(contains("name a folder with --data DIR"));
}

#[test]
fn what_a_run_held_out_is_what_it_is_measured_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "--hold-out 2");
    let mut command = ddpm("evaluate bpd --device cpu --json --every 12");
    let done = command.arg(&run).assert().success();
    let found: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(found["images"], 2);
    done.stderr(contains("2 images held out").and(contains("trained on").not()));
}

#[test]
fn the_ode_is_followed_through_the_network_and_the_terms_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "");
    let plot = dir.path().join("terms.svg");
    let of = |more: &str| {
        let mut command = ddpm(&format!(
            "evaluate bpd --device cpu --json --ode -n 3 {more}"
        ));
        json(command.arg(&run).arg("--plot").arg(&plot).arg("--force"))
    };
    let (all, single) = (of(""), of("--batch 1 --every 4"));
    let number = |found: &serde_json::Value, name: &str| found["ode"][name].as_f64().unwrap();
    assert_eq!(all["ode"]["points"], 12);
    for i in 0..3 {
        let [a, b] = [&all, &single].map(|found| found["ode"]["by_image"][i].as_f64().unwrap());
        assert!((a - b).abs() < 1e-4 * b.abs(), "{a} {b}");
    }
    assert!(number(&all, "trace_error") > 0.0);
    assert!(number(&all, "grid_error").abs() > 0.0);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("not clipped</text>"), "{svg}");
    ddpm("evaluate bpd --device cpu --ode --ode-probes 1 -n 1 --every 12")
        .arg(&run)
        .assert()
        .success()
        .stdout(contains("an estimate").and(contains("grid of 12 noise levels")));
}

#[test]
fn the_loss_is_that_of_both_weights_on_the_same_noise() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "");
    let plot = dir.path().join("loss.svg");
    ddpm("evaluate loss --device cpu --plot")
        .arg(&plot)
        .arg(&run)
        .assert()
        .success()
        .stdout(
            contains("EMA: mse")
                .and(contains("raw: mse"))
                .and(contains("t = 9 to 11")),
        );
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("raw weights</text>"), "{svg}");
    let of =
        |more: &str| json(ddpm(&format!("evaluate loss --device cpu --json {more}")).arg(&run));
    let both = of("");
    let raw = of("--raw");
    assert_eq!(raw["raw"], both["raw"]);
    assert_eq!(raw["ema"], serde_json::Value::Null);
    let mean = |found: &serde_json::Value| found["mean"]["mse"]["mean"].as_f64().unwrap();
    let gap = both["raw_minus_ema"]["mean"].as_f64().unwrap();
    assert!((mean(&both["raw"]) - mean(&both["ema"]) - gap).abs() < 1e-9);
    assert_ne!(gap, 0.0);
    // Twelve steps in quarters of three.
    let quartiles = both["ema"]["quartiles"].as_array().unwrap();
    let sum: f64 = (quartiles.iter())
        .map(|q| q["mse"]["mean"].as_f64().unwrap())
        .sum();
    assert!((sum / 4.0 - mean(&both["ema"])).abs() < 1e-9);
    // A file of one kind of weights.
    let file = dir.path().join("w.safetensors");
    let mut export = ddpm("export");
    (export.arg(&run).arg("--to").arg(&file)).assert().success();
    let one = json(ddpm("evaluate loss --device cpu --json --every 3").arg(&file));
    assert_eq!(one["raw"], serde_json::Value::Null);
}

/// A network of OpenAI's with learned variances and classes, which takes any t.
#[test]
fn a_network_of_another_program_is_measured_with_all_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for i in 0..3u8 {
        let image = image::RgbImage::from_fn(16, 16, |x, y| {
            image::Rgb([(x * 16) as u8, (y * 16) as u8, i * 80])
        });
        image.save(images.join(format!("{i}.png"))).unwrap();
    }
    let guided = |measure: &str| {
        let hints = "--num-heads 4 --attention-order legacy --image-size 16 --schedule linear --timesteps 12 \
                     --rescale-timesteps false --device cpu";
        let mut command = ddpm(&format!("evaluate {measure} {hints}"));
        command.arg(repo("weights/peers/guided.pt"));
        command
    };
    guided("bpd")
        .assert()
        .failure()
        .stderr(contains("does not say what its network was trained on"));
    let command = &mut guided("bpd --json --ode --ode-points 9 --ode-probes 1");
    let learned = json(command.arg("--data").arg(&images));
    assert_eq!(learned["sigma"], "learned");
    assert_eq!(learned["ode"]["points"], 9);
    assert!(learned["ode"]["trace_error"].is_null());
    let command = &mut guided("bpd --json --sigma posterior");
    let fixed = json(command.arg("--data").arg(&images));
    assert_ne!(fixed["clipped"]["rate"], learned["clipped"]["rate"]);
    guided("loss")
        .arg("--data")
        .arg(&images)
        .assert()
        .success()
        .stderr(contains("the 10 classes in turn"))
        .stdout(contains("mean over t").and(contains("raw").not()));
}

#[test]
fn ranks_find_the_numbers_of_one_process() {
    let torchrun = repo(".venv/bin/torchrun");
    if !torchrun.exists() {
        eprintln!("skipped: no torchrun in .venv; run ./scripts/setup.sh");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "");
    // Six images in batches of 4: rank 1 has the short one, and of 5, rank 2 has none.
    for (words, ranks) in [
        ("evaluate bpd --json --ode --every 3 --batch 4", "2"),
        ("evaluate loss --json --batch 5", "3"),
    ] {
        let words = words.split_whitespace().chain(["--device", "cpu"]);
        let words: Vec<&str> = words.chain(run.to_str()).collect();
        let alone = (cargo_bin_cmd!("ddpm").args(&words))
            .env("OMP_NUM_THREADS", "1")
            .output()
            .unwrap();
        assert!(alone.status.success());
        let options = "-m torch.distributed.run --standalone --no-python --nproc-per-node";
        let together = Command::new(repo(".venv/bin/python"))
            .args(options.split_whitespace())
            .arg(ranks)
            .arg(assert_cmd::cargo::cargo_bin!("ddpm"))
            .args(&words)
            .env("OMP_NUM_THREADS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&together.stderr);
        assert!(together.status.success(), "{said}");
        assert!(!alone.stdout.is_empty());
        assert_eq!(
            String::from_utf8_lossy(&together.stdout),
            String::from_utf8_lossy(&alone.stdout)
        );
    }
}

//! Against the live PyTorch reference in scripts/reference/ (skipped without a .venv with torch).

mod common;

use std::path::Path;
use std::process::Command;

use common::{Golden, max_abs, python, repo, tiny_config};
use ddpm::checkpoint::{read_state_dict, safetensors, write_state_dict};
use ddpm::config::{Norm, OptimizerKind, RunConfig, ScheduleKind, TimeEmbedding};
use ddpm::data;
use ddpm::diffusion::microbatch_loss;
use ddpm::model::UNet;
use ddpm::rng::{Stream, normal};
use ddpm::train::Trainer;
use tch::{Device, Kind, Tensor};

fn run(python: &Path, script: &str, args: &[(&str, &Path)], more: &[&str]) {
    let mut command = Command::new(python);
    command.arg(repo("scripts/reference").join(script));
    for (flag, value) in args {
        command.arg(flag).arg(value);
    }
    let out = command.args(more).output().unwrap();
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn write_config(path: &Path, config: &RunConfig) {
    std::fs::write(path, serde_json::to_string(config).unwrap()).unwrap();
}

fn variants() -> Vec<(&'static str, RunConfig)> {
    let plain = tiny_config();
    let edit = |name, f: &dyn Fn(&mut RunConfig)| {
        let mut config = plain.clone();
        f(&mut config);
        (name, config)
    };
    vec![
        edit("group norm", &|_| ()),
        edit("layer norm, two blocks", &|c| {
            (c.model.norm, c.model.blocks) = (Norm::Layer, 2)
        }),
        edit("instance norm, sinusoidal, grey", &|c| {
            c.model.norm = Norm::Instance;
            c.model.time_embedding = TimeEmbedding::Sinusoidal;
            c.model.channels = 1;
        }),
        edit("an unpooled level, not square", &|c| {
            (c.model.height, c.model.width) = (8, 16);
            c.model.multipliers = vec![1, 2, 2];
        }),
    ]
}

#[test]
fn forward_and_gradients_of_every_variant() {
    let Some(python) = python() else { return };
    for (name, config) in variants() {
        let dir = tempfile::tempdir().unwrap();
        let file = |n: &str| dir.path().join(n);
        let net = UNet::new(&config.model, config.diffusion.timesteps, 11);
        let [c, h, w] = config.model.chw();
        let x = normal(1, Stream::Data, 0, &[4, c, h, w], Device::Cpu);
        let noise = normal(1, Stream::Noise, 0, &[4, c, h, w], Device::Cpu);
        let t = Tensor::from_slice(&[0i64, 1, 500, 999]);
        let state: Vec<_> = net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect();
        let about = || ("about".to_owned(), "test".to_owned());
        safetensors::write(&file("w.safetensors"), about(), &state).unwrap();
        let input = [("x", &x), ("t", &t), ("noise", &noise)];
        let input: Vec<_> = input.map(|(n, t)| (n.to_owned(), t.shallow_clone())).into();
        safetensors::write(&file("in.safetensors"), about(), &input).unwrap();
        write_config(&file("run.json"), &config);
        run(
            &python,
            "parity.py",
            &[
                ("--config", &file("run.json")),
                ("--weights", &file("w.safetensors")),
                ("--input", &file("in.safetensors")),
                ("--out", &file("out.safetensors")),
            ],
            &[],
        );
        let theirs = Golden::open_path(&file("out.safetensors"));

        let out = net.forward(&x, &t, false);
        let loss = microbatch_loss(config.diffusion.loss, &out, &noise, 4);
        loss.backward();
        // Same kernels; the memory layout alone changes the order of sums.
        assert!(
            max_abs(&out, theirs.get("out")) < 1e-5,
            "{name}: {}",
            max_abs(&out, theirs.get("out"))
        );
        let want = theirs.f64s("loss")[0];
        assert!(
            (f64::try_from(&loss).unwrap() - want).abs() < 1e-5 * want,
            "{name}: loss"
        );
        // Some gradients are zero but for rounding (a shift just before an instance norm): those are
        // held against the whole gradient instead.
        let params = net.params();
        let all: Vec<Tensor> = params
            .iter()
            .map(|p| p.tensor.grad().reshape([-1]))
            .collect();
        let floor = 1e-6 * Tensor::cat(&all, 0).norm().double_value(&[]);
        for p in &params {
            let want = theirs.get(&format!("grad.{}", p.name));
            let distance = (p.tensor.grad() - want).norm().double_value(&[]);
            let error = distance / want.norm().double_value(&[]).max(floor);
            assert!(
                error < 1e-4 || distance < floor,
                "{name} {}: {error}",
                p.name
            );
        }
    }
}

/// Twenty steps from the same seed: initial weights, order, flips, t, eps, optimizer and EMA.
fn train_both(python: &Path, config: &RunConfig) -> Vec<(f64, f64)> {
    let dir = tempfile::tempdir().unwrap();
    let file = |n: &str| dir.path().join(n);
    let seed = config.train.seed;
    let loaded = data::load(
        &config.data,
        &config.model,
        seed,
        None,
        Device::Cpu,
        &|_, _| (),
    )
    .unwrap();
    let pixels = vec![("pixels".to_owned(), loaded.store.pixels().shallow_clone())];
    safetensors::write(
        &file("pixels.safetensors"),
        ("about".into(), "test".into()),
        &pixels,
    )
    .unwrap();
    write_config(&file("run.json"), config);
    run(
        python,
        "train.py",
        &[
            ("--config", &file("run.json")),
            ("--data", &file("pixels.safetensors")),
            ("--out", &file("result.json")),
        ],
        &["--steps", "20"],
    );
    let text = std::fs::read_to_string(file("result.json")).unwrap();
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    let losses = result["losses"].as_array().unwrap();
    assert_eq!(losses.len(), 20);

    let mut trainer = Trainer::new(config, loaded.store.len(), Device::Cpu).unwrap();
    losses
        .iter()
        .map(|theirs| {
            let output = trainer.train_step(&loaded.store).unwrap();
            (
                output.loss_and_grad_norm.double_value(&[0]),
                theirs.as_f64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn twenty_training_steps_from_the_same_seed() {
    let Some(python) = python() else { return };
    let mut lamb = tiny_config();
    lamb.optim.lr_schedule = vec![(0, 0.0), (10, 1.0), (30, 0.5)];
    lamb.data.flip = true;
    let mut adamw = lamb.clone();
    adamw.optim.optimizer = OptimizerKind::Adamw;
    adamw.optim.lr = 1e-3;
    adamw.optim.eps = 1e-8;
    adamw.optim.weight_decay = 0.01;
    adamw.optim.clip_norm = Some(100.0);
    adamw.train.accumulate = 2;
    adamw.train.seed = 5;
    adamw.diffusion.schedule = ScheduleKind::Cosine;
    let mut adam = lamb.clone();
    adam.optim.optimizer = OptimizerKind::Adam;
    adam.optim.lr = 1e-3;
    adam.diffusion.schedule = ScheduleKind::Sigmoid;
    for (name, config) in [("lamb", lamb), ("adamw", adamw), ("adam", adam)] {
        for (step, (ours, theirs)) in train_both(&python, &config).into_iter().enumerate() {
            // f32 rounding grows along a training run; 1e-4 leaves it ten steps' worth of room.
            let error = (ours - theirs).abs() / theirs;
            assert!(
                error < 1e-4,
                "{name} step {}: {ours} and {theirs}",
                step + 1
            );
        }
    }
}

#[test]
fn exported_weights_load_strictly_into_the_reference_and_come_back() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = tiny_config();
    let net = UNet::new(&config.model, config.diffusion.timesteps, 3);
    let state: Vec<_> = net
        .params()
        .into_iter()
        .map(|p| (p.name, p.tensor))
        .collect();
    let path = dir.path().join("ours.pt");
    write_state_dict(&path, &state).unwrap();
    write_config(&dir.path().join("run.json"), &config);
    let program = r#"
import json, sys, torch
folder, reference = sys.argv[1:]
sys.path.insert(0, reference)
from unet import UNet
config = json.load(open(folder + "/run.json"))
net = UNet(config["model"], config["diffusion"]["timesteps"])
net.load_state_dict(torch.load(folder + "/ours.pt", weights_only=True), strict=True)
torch.save(net.state_dict(), folder + "/theirs.pt")
torch.save(net.state_dict(), folder + "/old.pt", _use_new_zipfile_serialization=False)
"#;
    let out = Command::new(python)
        .args(["-c", program])
        .arg(dir.path())
        .arg(repo("scripts/reference"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    for name in ["theirs.pt", "old.pt"] {
        let back = read_state_dict(&dir.path().join(name)).unwrap();
        assert_eq!(back.len(), state.len());
        for ((name, tensor), (their_name, theirs)) in state.iter().zip(back) {
            // Same order, same names, same bits.
            assert_eq!(name, &their_name);
            assert_eq!(theirs.kind(), Kind::Float);
            assert_eq!(tensor, &theirs, "{name}");
        }
    }
}

#[test]
fn sampling_matches_the_reference() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |n: &str| dir.path().join(n);
    let mut config = tiny_config();
    config.diffusion.timesteps = 25;
    let net = UNet::new(&config.model, 25, 3);
    let state: Vec<_> = net
        .params()
        .into_iter()
        .map(|p| (p.name, p.tensor))
        .collect();
    safetensors::write(
        &file("w.safetensors"),
        ("about".into(), "test".into()),
        &state,
    )
    .unwrap();
    write_config(&file("run.json"), &config);
    let program = r#"
import json, sys, torch
from safetensors.torch import load_file, save_file
folder, reference = sys.argv[1:]
sys.path.insert(0, reference)
from unet import UNet
import diffusion
config = json.load(open(folder + "/run.json"))
net = UNet(config["model"], 25)
net.load_state_dict(load_file(folder + "/w.safetensors"), strict=True)
process = diffusion.Diffusion(config["diffusion"])
draw = diffusion.picture_noise(9, [0, 1, 2], (3, 16, 16))
out = {name: process.sample(net, draw, "beta", clip).clamp(-1, 1)
       for name, clip in [("plain", False), ("clipped", True)]}
save_file(out, folder + "/samples.safetensors")
"#;
    let out = Command::new(python)
        .args(["-c", program])
        .arg(dir.path())
        .arg(repo("scripts/reference"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let theirs = Golden::open_path(&file("samples.safetensors"));
    let schedule = ddpm::diffusion::Schedule::new(&config.diffusion);
    for clip_x0 in [false, true] {
        let wanted = ddpm::sample::Pictures {
            seed: 9,
            numbers: 0..3,
            batch: 3,
            chw: config.model.chw(),
            device: Device::Cpu,
        };
        let options = ddpm::sample::Ddpm {
            sigma: config.sample.sigma,
            clip_x0,
        };
        let denoiser = |x: &Tensor, t: &Tensor| net.forward(x, t, false);
        let ours =
            ddpm::sample::sample_pictures(&denoiser, &schedule, options, &wanted, &mut || ());
        let error = max_abs(&ours, theirs.get(if clip_x0 { "clipped" } else { "plain" }));
        assert!(error < 1e-4, "clip_x0 {clip_x0}: {error}");
    }
}

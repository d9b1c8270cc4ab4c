//! Compares with the live PyTorch reference in scripts/reference/ (skipped without a .venv with torch).

mod common;

use std::path::Path;
use std::process::Command;

use common::{Golden, max_abs, python, repo, tiny_config};
use ddpm::config::{ModelConfig, ModelKind, Norm, RunConfig, TimeEmbedding, UpscaleConfig};
use ddpm::diffusion::{beside, microbatch_loss};
use ddpm::formats::{read_state_dict, safetensors, write_state_dict};
use ddpm::model::Model;
use ddpm::rng::{Stream, batch_noise, normal};
use ddpm::sample::{Ddpm, Images, NoiseSource, Process, Respaced, Sampler, sample_images};
use tch::{Device, Kind, Tensor};

#[path = "reference/packages.rs"]
mod packages;
#[path = "reference/training.rs"]
mod training;

/// Runs Python code whose arguments are `folder` and the folder of the reference. What it does for several networks it does for
/// each folder in `folder`: it takes longer to start than to work.
fn run_program(python: &Path, program: &str, folder: &Path) {
    let out = Command::new(python)
        .args(["-c", program])
        .arg(folder)
        .arg(repo("scripts/reference"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn write_config(path: &Path, config: &RunConfig) {
    std::fs::write(path, serde_json::to_string(config).unwrap()).unwrap();
}

/// A network of another kind, small enough for tests.
fn tiny_of(kind: ModelKind) -> RunConfig {
    let mut config = tiny_config();
    config.model = kind.config([3, 16, 16]);
    match &mut config.model {
        ModelConfig::UnetConcat(m) => {
            (m.base_width, m.norm_groups, m.blocks) = (16, 4, 1);
            m.multipliers = vec![1, 2];
        }
        ModelConfig::Gau(m) => {
            (m.patch, m.base_width, m.layers) = (4, 24, 3);
            (m.units, m.key_width) = (40, 16);
        }
        other => panic!("no tiny {:?}", other.kind()),
    }
    config
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
            let m = c.model.unet_mut();
            (m.norm, m.blocks) = (Norm::Layer, 2);
        }),
        edit("instance norm, sinusoidal, grey", &|c| {
            c.model.unet_mut().norm = Norm::Instance;
            c.model.unet_mut().time_embedding = TimeEmbedding::Sinusoidal;
            c.model.unet_mut().channels = 1;
        }),
        edit("an unpooled level, not square", &|c| {
            c.model.set_chw([3, 8, 16]);
            c.model.unet_mut().multipliers = vec![1, 2, 2];
        }),
        ("concatenated skips", tiny_of(ModelKind::UnetConcat)),
        ("concatenated skips, two blocks, not square", {
            let mut config = tiny_of(ModelKind::UnetConcat);
            config.model.set_chw([1, 8, 16]);
            if let ModelConfig::UnetConcat(m) = &mut config.model {
                (m.multipliers, m.blocks) = (vec![2, 1, 4], 2);
            }
            config
        }),
        ("gated attention", tiny_of(ModelKind::Gau)),
        ("gated attention, not square", {
            let mut config = tiny_of(ModelKind::Gau);
            config.model.set_chw([1, 8, 20]);
            config
        }),
        edit("classes", &|c| c.model.set_classes(Some(3), false)),
        edit("classes and none, sinusoidal", &|c| {
            c.model.unet_mut().time_embedding = TimeEmbedding::Sinusoidal;
            c.model.set_classes(Some(2), true);
        }),
        ("concatenated skips, classes", {
            let mut config = tiny_of(ModelKind::UnetConcat);
            config.model.set_classes(Some(2), true);
            config
        }),
        edit("an image beside x_t", &|c| {
            c.set_upscale(Some(UpscaleConfig::by(4)));
        }),
        ("concatenated skips, an image beside x_t, classes", {
            let mut config = tiny_of(ModelKind::UnetConcat);
            config.model.set_classes(Some(2), true);
            config.set_upscale(Some(UpscaleConfig::by(2)));
            config
        }),
        ("gated attention, a grey image beside x_t", {
            let mut config = tiny_of(ModelKind::Gau);
            config.model.set_chw([1, 8, 20]);
            config.set_upscale(Some(UpscaleConfig::by(4)));
            config
        }),
        ("gated attention, classes", {
            let mut config = tiny_of(ModelKind::Gau);
            config.model.set_classes(Some(2), true);
            config
        }),
    ]
}

/// A network and its input, in files that the reference reads.
struct Variant {
    name: &'static str,
    config: RunConfig,
    net: Model,
    /// x_t, and what is beside it.
    input: Tensor,
    noise: Tensor,
    t: Tensor,
    classes: Option<Tensor>,
}

impl Variant {
    fn write(dir: &Path, name: &'static str, config: RunConfig) -> Variant {
        std::fs::create_dir(dir).unwrap();
        let net = Model::new(&config.model, config.diffusion.timesteps, 11);
        // Layers that start near zero would hide what is before them.
        for p in net.params() {
            if p.tensor.dim() > 1 && p.tensor.abs().max().double_value(&[]) < 1e-4 {
                let _ = tch::no_grad(|| p.tensor.shallow_clone().g_mul_scalar_(1e5));
            }
        }
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
        safetensors::write(&dir.join("w.safetensors"), about(), &state).unwrap();
        let classes = config.model.classes();
        let classes = classes.map(|_| Tensor::from_slice(&[1i64, 2, 0, 2]));
        let condition = config.model.condition_channels();
        let condition = condition.map(|k| normal(2, Stream::Data, 0, &[4, k, h, w], Device::Cpu));
        let input = [("x", &x), ("t", &t), ("noise", &noise)].into_iter();
        let input = input.chain(classes.as_ref().map(|classes| ("classes", classes)));
        let input = input.chain(condition.as_ref().map(|beside| ("condition", beside)));
        let input: Vec<_> = input
            .map(|(n, t)| (n.to_owned(), t.shallow_clone()))
            .collect();
        safetensors::write(&dir.join("in.safetensors"), about(), &input).unwrap();
        write_config(&dir.join("run.json"), &config);
        Variant {
            name,
            input: beside(&x, condition.as_ref()),
            config,
            net,
            noise,
            t,
            classes,
        }
    }
}

#[test]
fn forward_and_gradients_of_every_variant() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = |place: usize| dir.path().join(place.to_string());
    let variants = variants().into_iter().enumerate();
    let variants: Vec<Variant> = variants
        .map(|(place, (name, config))| Variant::write(&folder(place), name, config))
        .collect();
    let out = Command::new(&python)
        .arg(repo("scripts/reference/parity.py"))
        .args((0..variants.len()).map(folder))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    for (place, variant) in variants.into_iter().enumerate() {
        let theirs = Golden::open_path(&folder(place).join("out.safetensors"));
        let Variant {
            name,
            config,
            net,
            input,
            noise,
            t,
            classes,
        } = variant;
        let out = net.forward(&input, &t, classes.as_ref(), false);
        let loss = microbatch_loss(config.diffusion.loss, &out, &noise, 4);
        loss.backward();
        // Same kernels; only the memory layout changes the order of sums.
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
        // Some gradients are zero except for rounding (a shift just before an instance norm): these are
        // compared relative to the whole gradient.
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

/// Initial weights of networks with classes, drawn by the reference.
const INITIAL: &str = r#"
import json, sys
from pathlib import Path
folder, reference = map(Path, sys.argv[1:])
sys.path.insert(0, str(reference))
from safetensors.torch import save_file
from networks import build
for one in folder.iterdir():
    config = json.loads((one / "run.json").read_text())
    net = build(config["model"], config["diffusion"]["timesteps"]).initialise(config["train"]["seed"])
    save_file({name: p.detach().contiguous() for name, p in net.named_parameters()}, one / "initial.safetensors")
"#;

#[test]
fn classes_begin_as_in_the_reference_and_change_no_other_weight() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = |place: usize| dir.path().join(place.to_string());
    let mut variants = variants();
    variants.retain(|(_, config)| config.model.classes().is_some());
    for (place, (_, config)) in variants.iter().enumerate() {
        std::fs::create_dir(folder(place)).unwrap();
        write_config(&folder(place).join("run.json"), config);
    }
    run_program(&python, INITIAL, dir.path());
    for (place, (name, config)) in variants.iter().enumerate() {
        let theirs = Golden::open_path(&folder(place).join("initial.safetensors"));
        let seed = config.train.seed;
        let net = Model::new(&config.model, config.diffusion.timesteps, seed);
        let mut plain = config.model.clone();
        plain.set_classes(None, false);
        let plain = Model::new(&plain, config.diffusion.timesteps, seed).params();
        let params = net.params();
        assert_eq!(params.len(), plain.len() + 1, "{name}");
        for (i, p) in params.iter().enumerate() {
            assert_eq!(&p.tensor.detach(), theirs.get(&p.name), "{name} {}", p.name);
            if let Some(plain) = plain.get(i) {
                assert_eq!((&p.name, &p.tensor), (&plain.name, &plain.tensor), "{name}");
            }
        }
    }
}

/// Images of fewer than 16 values, and of no multiple of 16, are drawn in other ways than most.
#[test]
fn noise_of_a_step_has_the_bits_of_the_reference() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = r#"
import sys, torch
from safetensors.torch import save_file
folder, reference = sys.argv[1:]
sys.path.insert(0, reference)
from train import draw_noise
shapes = [(5, 1, 2, 3), (5, 3, 3, 3), (5, 3, 8, 8)]
noise = {f"{draws} {shape[2]}": draw_noise(torch.Size(shape), 7, 3, draws) for shape in shapes for draws in ["batch", "image"]}
save_file(noise, folder + "/noise.safetensors")
"#;
    run_program(&python, program, dir.path());
    let theirs = Golden::open_path(&dir.path().join("noise.safetensors"));
    for chw in [[1, 2, 3], [3, 3, 3], [3, 8, 8]] {
        let [c, h, w] = chw;
        let by_batch = normal(3, Stream::Noise, 7, &[5, c, h, w], Device::Cpu);
        assert_eq!(&by_batch, theirs.get(&format!("batch {h}")));
        let by_image = batch_noise(3, 7, 0..5, chw, Device::Cpu);
        assert_eq!(&by_image, theirs.get(&format!("image {h}")));
    }
}

#[test]
fn exported_weights_load_strictly_into_the_reference_and_come_back() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = tiny_config();
    let net = Model::new(&config.model, config.diffusion.timesteps, 3);
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
    run_program(&python, program, dir.path());
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
    let net = Model::new(&config.model, 25, 3);
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
draw = diffusion.image_noise(9, [0, 1, 2], (3, 16, 16))
out = {name: process.sample(net, draw, "beta", clip).clamp(-1, 1)
       for name, clip in [("plain", False), ("clipped", True)]}
save_file(out, folder + "/samples.safetensors")
"#;
    run_program(&python, program, dir.path());
    let theirs = Golden::open_path(&file("samples.safetensors"));
    let steps = Respaced::all(&ddpm::diffusion::Schedule::new(&config.diffusion));
    for clip_x0 in [false, true] {
        let wanted = Images {
            noise: NoiseSource::Seed(9),
            numbers: 0..3,
            batch: 3,
            chw: config.model.chw(),
            device: Device::Cpu,
        };
        let sampler = Sampler::Ddpm(Ddpm::new(&config.sample));
        let denoiser = |x: &Tensor, t: &Tensor| net.forward(x, t, None, false);
        let process = Process::new(&denoiser, &steps, &config.diffusion, clip_x0);
        let ours = sample_images(&process, &sampler, &wanted, &mut |_| ()).unwrap();
        let error = max_abs(&ours, theirs.get(if clip_x0 { "clipped" } else { "plain" }));
        // f32 rounding over 25 steps; the two sides differ in memory layout.
        assert!(error < 1e-4, "clip_x0 {clip_x0}: {error}");
    }
}

//! Compares with the live PyTorch reference in scripts/reference/ (skipped without a .venv with torch).

mod common;

use std::path::Path;
use std::process::Command;

use common::{Golden, max_abs, python, repo, tiny_config};
use ddpm::checkpoint::{Contents, Family, Meta};
use ddpm::config::{
    ConditionalConfig, Draws, LossKind, ModelConfig, ModelKind, Norm, OptimizerKind, RunConfig,
    ScheduleKind, TimeEmbedding, UpscaleConfig,
};
use ddpm::data;
use ddpm::diffusion::{LowResolution, beside, microbatch_loss};
use ddpm::formats::{read_state_dict, safetensors, write_state_dict};
use ddpm::images::to_pixels;
use ddpm::interop::{write_family_pt, write_pipeline};
use ddpm::model::Model;
use ddpm::rng::{Stream, batch_noise, normal};
use ddpm::sample::{Ddpm, Images, NoiseSource, Process, Respaced, Sampler, sample_images};
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

/// Runs Python code whose arguments are `folder` and the folder of the reference.
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
    // All in one process, whose start takes longer than the work.
    let folders: Vec<String> = (0..variants.len())
        .map(|place| folder(place).to_str().unwrap().to_owned())
        .collect();
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    run(&python, "parity.py", &[], &folders);
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

/// Output and gradients of the packages' own networks with classes, or with an image beside x_t, from files that were
/// exported for them.
const PACKAGES: &str = r#"
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
folder = Path(sys.argv[1])
config = json.loads((folder / "run.json").read_text())
given = load_file(folder / "in.safetensors")
x, t, classes, c = given["x"], given["t"], given.get("classes"), config["model"]
if c["kind"] == "unet-attention":
    from diffusers import UNet2DModel
    net = UNet2DModel.from_pretrained(folder / "pipeline", subfolder="unet")
    out = net(x, t, class_labels=classes).sample
else:
    from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet
    net = Unet(c["base_width"], c["classes"], init_dim=c["init_width"], dim_mults=c["multipliers"])
    diffusion = GaussianDiffusion(net, image_size=c["height"], timesteps=config["diffusion"]["timesteps"])
    data = torch.load(folder / "model.pt", weights_only=True)
    diffusion.load_state_dict(data["model"], strict=True)
    out = net(x, t, classes.clamp(max=c["classes"] - 1), cond_keep_mask=classes < c["classes"])
(out - given["noise"]).square().sum().backward()
result = {"out": out.detach().contiguous()}
result |= {f"grad.{name}": p.grad.contiguous() for name, p in net.named_parameters()}
save_file(result, folder / "out.safetensors")
"#;

#[test]
fn conditional_networks_are_those_of_the_packages() {
    let Some(python) = python() else { return };
    let mut attention = tiny_config();
    attention.model = ModelKind::UnetAttention.config([3, 16, 16]);
    if let ModelConfig::UnetAttention(m) = &mut attention.model {
        (m.base_width, m.widths, m.norm_groups) = (16, vec![16, 32], 4);
        (m.time_channels, m.time_width, m.blocks) = (16, 64, 1);
        (m.attention_down, m.attention_up) = (vec![false, true], vec![false, true]);
    }
    let mut guided = tiny_config();
    guided.model = ModelKind::Lucidrains.config([3, 16, 16]);
    if let ModelConfig::Lucidrains(m) = &mut guided.model {
        (m.base_width, m.init_width, m.multipliers) = (16, 24, vec![1, 2, 1]);
        (m.heads, m.head_channels) = (vec![4; 3], vec![32; 3]);
        m.full_attention = vec![false; 3];
    }
    let mut upscaler = attention.clone();
    upscaler.set_upscale(Some(UpscaleConfig::by(4)));
    for config in [&mut attention, &mut guided] {
        config.model.make_conditional(3, true);
    }
    for mut config in [attention, guided, upscaler] {
        let kind = config.model.kind();
        config.sample.last_noise = false;
        config.validate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = |n: &str| dir.path().join(n);
        let net = Model::new(&config.model, config.diffusion.timesteps, 11);
        let draw = |stream, i, size: &[i64]| normal(1, stream, i, size, Device::Cpu);
        for (i, p) in net.params().iter().enumerate() {
            let size = p.tensor.size();
            let fan_in = (p.tensor.numel() as f64 / size[0] as f64).max(1.0);
            let drawn = draw(Stream::Init, i as u64, &size);
            let drawn = match p.tensor.dim() {
                1 => drawn * 0.1 + &p.tensor.detach(),
                _ if p.is_norm() => drawn * 0.2 + 1.0,
                _ => drawn / fan_in.sqrt(),
            };
            tch::no_grad(|| p.tensor.shallow_clone().copy_(&drawn));
        }
        let params = net.params();
        let state = params.iter().map(|p| (p.name.clone(), p.tensor.detach()));
        let state: Vec<_> = state.collect();
        let meta = Meta::new(Contents::RawWeights, &config);
        match kind {
            ModelKind::Lucidrains => {
                write_family_pt(&file("model.pt"), Family::Lucidrains, &meta, &state).unwrap();
            }
            _ => {
                let notes = write_pipeline(&file("pipeline"), &meta, &state).unwrap();
                let said = match config.upscale {
                    Some(_) => "no image to make larger",
                    None => "sample_classes.py",
                };
                assert!(notes.iter().any(|note| note.contains(said)), "{notes:?}");
            }
        }
        let images = [4, 3, 16, 16];
        let (x, noise) = (
            draw(Stream::Data, 0, &[4, config.model.input_channels(), 16, 16]),
            draw(Stream::Noise, 0, &images),
        );
        let t = Tensor::from_slice(&[0i64, 1, 500, 999]);
        let classes = config.model.classes();
        let classes = classes.map(|_| Tensor::from_slice(&[3i64, 0, 2, 3]));
        let input = [("x", &x), ("t", &t), ("noise", &noise)].into_iter();
        let input = input.chain(classes.as_ref().map(|classes| ("classes", classes)));
        let input: Vec<_> = input
            .map(|(n, t)| (n.to_owned(), t.shallow_clone()))
            .collect();
        let about = ("about".to_owned(), "test".to_owned());
        safetensors::write(&file("in.safetensors"), about, &input).unwrap();
        write_config(&file("run.json"), &config);
        run_program(&python, PACKAGES, dir.path());
        let theirs = Golden::open_path(&file("out.safetensors"));

        let out = net.forward(&x, &t, classes.as_ref(), false);
        let error = |a: &Tensor, b: &Tensor| {
            f64::try_from((a - b).norm()).unwrap() / f64::try_from(b.norm()).unwrap().max(1e-6)
        };
        // f32 sums in other orders.
        let off = error(&out, theirs.get("out"));
        assert!(off < 5e-6, "{kind:?}: {off}");
        (&out - &noise).square().sum(Kind::Float).backward();
        let largest = params
            .iter()
            .map(|p| p.tensor.grad().norm().double_value(&[]));
        let floor = 1e-6 * largest.fold(0.0, f64::max);
        for p in &params {
            let (ours, theirs) = (p.tensor.grad(), theirs.get(&format!("grad.{}", p.name)));
            let distance = (&ours - theirs).norm().double_value(&[]);
            let off = error(&ours, theirs);
            assert!(off < 1e-4 || distance < floor, "{kind:?} {}: {off}", p.name);
        }
        assert_eq!(theirs.section("").len(), params.len() + 1, "{kind:?}");
    }
}

/// Images that Pillow makes smaller, and those larger again.
const PILLOW: &str = r#"
import sys
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
folder = Path(sys.argv[1])
pixels = load_file(folder / "in.safetensors")["pixels"]
def resized(images, height, width):
    made = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.BICUBIC) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in made]).permute(0, 3, 1, 2).contiguous()
small = resized(pixels, pixels.shape[2] // 4, pixels.shape[3] // 4)
save_file({"small": small, "large": resized(small, *pixels.shape[2:])}, folder / "out.safetensors")
"#;

#[test]
fn images_are_made_small_and_large_as_by_pillow() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |n: &str| dir.path().join(n);
    let x_0 = normal(1, Stream::Data, 0, &[3, 3, 32, 48], Device::Cpu) * 0.4;
    let pixels = to_pixels(&x_0);
    let about = ("about".to_owned(), "test".to_owned());
    let input = [("pixels".to_owned(), pixels.shallow_clone())];
    safetensors::write(&file("in.safetensors"), about, &input).unwrap();
    run_program(&python, PILLOW, dir.path());
    let theirs = Golden::open_path(&file("out.safetensors"));

    let as_input = |pixels: &Tensor| pixels.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0;
    let low_resolution = LowResolution::new(&UpscaleConfig::by(4));
    let small = to_pixels(&low_resolution.shrink(&as_input(&pixels)));
    let large = to_pixels(&low_resolution.enlarge(&as_input(theirs.get("small"))));
    for (name, ours) in [("small", &small), ("large", &large)] {
        let apart = (ours.to_kind(Kind::Float) - theirs.get(name).to_kind(Kind::Float)).abs();
        // Pillow rounds to 8 bits between rows and columns too.
        assert!(apart.max().double_value(&[]) <= 1.0, "{name}");
        let mean = apart.mean(Kind::Float).double_value(&[]);
        assert!(mean < 0.25, "{name}: {mean}");
    }
}

/// The program that an export with classes puts beside the weights, with and without a null class.
#[test]
fn the_program_in_an_exported_folder_samples_with_diffusers() {
    let Some(python) = python() else { return };
    for (null_class, learned) in [(true, true), (false, false)] {
        let mut config = tiny_config();
        config.model = ModelKind::UnetAttention.config([3, 8, 8]);
        if let ModelConfig::UnetAttention(m) = &mut config.model {
            (m.base_width, m.widths, m.norm_groups) = (8, vec![8, 8], 4);
            (m.time_channels, m.time_width, m.blocks) = (8, 32, 1);
            (m.attention_down, m.attention_up) = (vec![false; 2], vec![false; 2]);
            (m.learned_variance, m.norm_groups) = (learned, 4);
        }
        config.model.set_classes(Some(3), null_class);
        config.diffusion.timesteps = 4;
        let dir = tempfile::tempdir().unwrap();
        let net = Model::new(&config.model, 4, 0);
        let state = net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor.detach()));
        let state: Vec<_> = state.collect();
        let folder = dir.path().join("pipeline");
        let meta = Meta::new(Contents::RawWeights, &config);
        write_pipeline(&folder, &meta, &state).unwrap();
        let program = std::fs::read_to_string(folder.join("sample_classes.py")).unwrap();
        assert_eq!(program.contains("guidance"), null_class);
        let out = Command::new(&python)
            .arg(folder.join("sample_classes.py"))
            .current_dir(dir.path())
            .env("OMP_NUM_THREADS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program}\n{said}");
        let size = image::image_dimensions(dir.path().join("classes.png")).unwrap();
        assert_eq!(size, (64, 8));
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
config = json.loads((folder / "run.json").read_text())
net = build(config["model"], config["diffusion"]["timesteps"]).initialise(config["train"]["seed"])
save_file({name: p.detach().contiguous() for name, p in net.named_parameters()}, folder / "initial.safetensors")
"#;

#[test]
fn classes_begin_as_in_the_reference_and_change_no_other_weight() {
    let Some(python) = python() else { return };
    for (name, config) in variants() {
        if config.model.classes().is_none() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        write_config(&dir.path().join("run.json"), &config);
        run_program(&python, INITIAL, dir.path());
        let theirs = Golden::open_path(&dir.path().join("initial.safetensors"));
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

/// Loss and gradient norm of a step: ours and theirs.
type StepPair = [(f64, f64); 2];

/// Twenty steps from the same seed: initial weights, order, flips, t, eps, optimizer and EMA.
fn train_both(python: &Path, config: &RunConfig) -> Vec<StepPair> {
    let dir = tempfile::tempdir().unwrap();
    let file = |n: &str| dir.path().join(n);
    let seed = config.train.seed;
    let mut loaded = data::load(
        &config.data,
        &config.model,
        seed,
        None,
        Device::Cpu,
        &|_, _| (),
    )
    .unwrap();
    let mut images = vec![("pixels".to_owned(), loaded.store.pixels().shallow_clone())];
    if let Some(classes) = config.model.classes() {
        let labels: Vec<i64> = (0..loaded.store.len() as i64)
            .map(|i| i % classes)
            .collect();
        images.push(("labels".to_owned(), Tensor::from_slice(&labels)));
        loaded.store.set_classes(labels);
    }
    safetensors::write(
        &file("pixels.safetensors"),
        ("about".into(), "test".into()),
        &images,
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
    let theirs = |key: &str, step: usize| result[key][step].as_f64().unwrap();

    let mut trainer = Trainer::new(config, loaded.store.len(), Device::Cpu).unwrap();
    (0..20)
        .map(|step| {
            let ours = trainer.train_step(&loaded.store).unwrap().numbers;
            [
                (ours.double_value(&[0]), theirs("losses", step)),
                (ours.double_value(&[1]), theirs("grad_norms", step)),
            ]
        })
        .collect()
}

/// Losses must agree to 1e-4; gradient norms, which rounding affects more, to 1e-3.
fn assert_same_training(name: &str, steps: &[StepPair]) {
    for (step, [(loss, their_loss), (norm, their_norm)]) in steps.iter().enumerate() {
        let step = step + 1;
        assert!(
            (loss - their_loss).abs() < 1e-4 * their_loss,
            "{name} step {step}: loss {loss} and {their_loss}"
        );
        assert!(
            (norm - their_norm).abs() < 1e-3 * their_norm,
            "{name} step {step}: norm {norm} and {their_norm}"
        );
    }
}

#[test]
fn twenty_training_steps_from_the_same_seed() {
    let Some(python) = python() else { return };
    let mut lamb = tiny_config();
    lamb.optim.lr_schedule = vec![(0, 0.0), (10, 1.0), (30, 0.5)];
    lamb.data.flip = true;
    let edit = |f: &dyn Fn(&mut RunConfig)| {
        let mut config = lamb.clone();
        f(&mut config);
        config
    };
    let adamw = edit(&|c| {
        c.optim.optimizer = OptimizerKind::Adamw;
        (c.optim.lr, c.optim.eps, c.optim.weight_decay) = (1e-3, 1e-8, 0.01);
        c.train.accumulate = 2;
        c.train.seed = 5;
        c.diffusion.schedule = ScheduleKind::Cosine;
    });
    let adam = edit(&|c| {
        c.optim.optimizer = OptimizerKind::Adam;
        (c.optim.lr, c.optim.weight_decay) = (1e-3, 0.1);
        c.diffusion.schedule = ScheduleKind::Sigmoid;
        c.diffusion.loss = LossKind::Mse;
    });
    let decayed = edit(&|c| {
        (c.optim.weight_decay, c.optim.adapt_norms) = (0.01, true);
        (c.diffusion.schedule, c.diffusion.timesteps) = (ScheduleKind::Linear, 250);
    });
    // Without dropout, whose masks follow the layout of the maps in memory, which differs.
    let drawn = |draws| edit(&|c| (c.train.accumulate, c.train.draws) = (4, draws));
    let of_kind = |kind, adapt_norms| {
        edit(&|c| {
            c.model = tiny_of(kind).model;
            c.optim.adapt_norms = adapt_norms;
        })
    };
    for (name, config) in [
        ("lamb", &lamb),
        ("adamw", &adamw),
        ("adam, mse", &adam),
        ("lamb, decay", &decayed),
        ("draws by image", &drawn(Draws::Image)),
        ("draws by batch", &drawn(Draws::Batch)),
        ("concatenated skips", &of_kind(ModelKind::UnetConcat, false)),
        ("gated attention", &of_kind(ModelKind::Gau, false)),
        (
            "gated attention, norms adapted",
            &of_kind(ModelKind::Gau, true),
        ),
    ] {
        assert_same_training(name, &train_both(&python, config));
    }
}

#[test]
fn twenty_training_steps_with_classes() {
    let Some(python) = python() else { return };
    for (kind, accumulate) in [
        (ModelKind::Unet, 1),
        (ModelKind::UnetConcat, 2),
        (ModelKind::Gau, 1),
    ] {
        let mut config = match kind {
            ModelKind::Unet => tiny_config(),
            kind => tiny_of(kind),
        };
        config.model.make_conditional(3, true);
        config.conditional = Some(ConditionalConfig {
            label_dropout: Some(0.4),
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            images: vec![],
        });
        config.train.accumulate = accumulate;
        assert_same_training(&format!("{kind:?}"), &train_both(&python, &config));
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

/// Adam is nearly independent of the gradients' scale unless its epsilon is large, as here.
#[test]
fn clipping_like_the_reference() {
    let Some(python) = python() else { return };
    let mut config = tiny_config();
    config.optim.optimizer = OptimizerKind::Adam;
    config.optim.lr_schedule = vec![(0, 1.0)];
    (config.optim.lr, config.optim.eps) = (1.0, 100.0);
    config.optim.clip_norm = Some(50.0);
    let clipped = train_both(&python, &config);
    assert_same_training("clipped", &clipped);
    assert!(
        clipped.iter().all(|step| step[1].0 > 50.0),
        "every step is clipped"
    );
    config.optim.clip_norm = None;
    let free = train_both(&python, &config);
    assert!(
        (free[19][0].0 - clipped[19][0].0).abs() > 0.01 * free[19][0].0,
        "and clipping matters"
    );
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

//! Networks and images as the public packages have them: diffusers, denoising-diffusion-pytorch, Pillow.

use std::process::Command;

use ddpm::checkpoint::{Contents, Family, Meta};
use ddpm::config::{ModelConfig, ModelKind, UpscaleConfig};
use ddpm::diffusion::LowResolution;
use ddpm::formats::safetensors;
use ddpm::images::to_pixels;
use ddpm::interop::{write_family_pt, write_pipeline};
use ddpm::model::Model;
use ddpm::rng::{Stream, normal};
use tch::{Device, Kind, Tensor};

use super::{run_program, write_config};
use crate::common::{Golden, python, tiny_config};

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

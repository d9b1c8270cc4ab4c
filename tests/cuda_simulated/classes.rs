//! Networks with classes: the same predictions and gradients as on the CPU.

use ddpm::checkpoint::{Contents, Meta, read_checkpoint, write_checkpoint};
use ddpm::config::{ModelConfig, ModelKind, Preset, RunConfig};
use ddpm::formats::safetensors;
use ddpm::model::Model;
use ddpm::rng::{Stream, normal};
use image::{Rgb, RgbImage};
use tch::{Device, Tensor};

use crate::common::Golden;
use crate::lab::Lab;

/// A small network of each kind with three classes and a null class, and lucidrains' in the structure of its main file
/// too, with all its weights drawn.
fn networks() -> Vec<RunConfig> {
    let of = |kind: ModelKind, main: bool| {
        let mut config = Preset::Demo.config();
        config.model = kind.config([3, 16, 16]);
        match &mut config.model {
            ModelConfig::Unet(m) => {
                (m.base_width, m.norm_groups, m.multipliers) = (8, 2, vec![1, 2]);
            }
            ModelConfig::UnetAttention(m) => {
                (m.base_width, m.norm_groups, m.widths) = (8, 4, vec![8, 16]);
                (m.time_channels, m.time_width, m.blocks) = (8, 32, 1);
                (m.attention_down, m.attention_up) = (vec![false, true], vec![false, true]);
            }
            ModelConfig::Lucidrains(m) => {
                (m.base_width, m.init_width, m.multipliers) = (8, 8, vec![1, 2]);
                (m.heads, m.head_channels) = (vec![4; 2], vec![32; 2]);
                m.full_attention = vec![false, true];
            }
            ModelConfig::UnetConcat(m) => {
                (m.base_width, m.norm_groups, m.multipliers) = (8, 4, vec![1, 2]);
            }
            ModelConfig::Gau(m) => {
                (m.base_width, m.units, m.key_width) = (16, 32, 16);
                (m.layers, m.patch) = (2, 4);
            }
        }
        match main {
            true => config.model.set_classes(Some(3), true),
            false => config.model.make_conditional(3, true),
        }
        config.validate().unwrap();
        config
    };
    vec![
        of(ModelKind::Unet, false),
        of(ModelKind::UnetAttention, false),
        of(ModelKind::Lucidrains, false),
        of(ModelKind::Lucidrains, true),
        of(ModelKind::UnetConcat, false),
        of(ModelKind::Gau, false),
    ]
}

fn drawn(config: &RunConfig) -> Vec<(String, Tensor)> {
    let net = Model::new(&config.model, config.diffusion.timesteps, 0);
    let params = net.params().into_iter().enumerate();
    let draw = |(i, p): (usize, ddpm::model::Param)| {
        let size = p.tensor.size();
        let drawn = normal(0, Stream::Init, i as u64, &size, Device::Cpu);
        let fan_in = (p.tensor.numel() as f64 / size[0] as f64).max(1.0);
        let value = match p.tensor.dim() {
            1 => p.tensor.detach() + drawn * 0.1,
            _ if p.is_norm() => p.tensor.detach() + drawn * 0.1,
            _ => drawn / fan_in.sqrt(),
        };
        (p.name, value)
    };
    params.map(draw).collect()
}

/// Writes network `i`; the name of its file.
fn write(lab: &Lab, i: usize, config: &RunConfig) -> String {
    let meta = Meta::new(Contents::Weights, config);
    let checkpoint = format!("{i}.safetensors");
    write_checkpoint(&lab.path(&checkpoint), &meta, &drawn(config)).unwrap();
    checkpoint
}

#[test]
fn predictions_are_those_of_the_cpu() {
    let lab = Lab::new();
    let x = normal(0, Stream::Data, 0, &[4, 3, 16, 16], Device::Cpu);
    let input = [
        ("x".to_owned(), x),
        ("t".to_owned(), Tensor::from_slice(&[0i64, 40, 200, 249])),
        ("classes".to_owned(), Tensor::from_slice(&[0i64, 3, 2, 3])),
    ];
    let about = || ("about".to_owned(), "test".to_owned());
    safetensors::write(&lab.path("in.safetensors"), about(), &input).unwrap();
    for (i, config) in networks().into_iter().enumerate() {
        let kind = config.model.kind();
        let checkpoint = write(&lab, i, &config);
        for (precision, limit) in [("f32", 1e-5), ("bf16", 0.03)] {
            let run = |device: &str| {
                let out = format!("{i}-{precision}-{device}.safetensors");
                let arguments = format!(
                    "predict {checkpoint} --input in.safetensors --output {out} --precision {precision} --device {device}"
                );
                match device {
                    "cpu" => lab.on_cpu(&arguments),
                    _ => drop(lab.ok(&arguments)),
                }
                Golden::open_path(&lab.path(&out)).get("out").copy()
            };
            let (ours, cpu) = (run("cuda"), run("cpu"));
            let error = f64::try_from((&ours - &cpu).norm() / cpu.norm()).unwrap();
            println!("{kind:?} {precision}: {error:.1e}");
            assert!(error <= limit, "{kind:?} {precision}: {error}");
        }
    }
}

/// Twelve images of one colour each, in folders of three classes.
fn write_images(lab: &Lab) {
    for i in 0..12 {
        let folder = lab.path(&format!("images/{}", i % 3));
        std::fs::create_dir_all(&folder).unwrap();
        let color = Rgb([20 * i, 255 - 20 * i, 10 * i]);
        let image = RgbImage::from_pixel(16, 16, color);
        image.save(folder.join(format!("{i:02}.png"))).unwrap();
    }
}

fn norm(tensors: &[(String, Tensor)]) -> f64 {
    let squares = tensors
        .iter()
        .map(|(_, t)| t.square().sum(tch::Kind::Double));
    squares.map(|sum| sum.double_value(&[])).sum::<f64>().sqrt()
}

/// The first moments after one step are the gradients on the scale of the optimizer.
#[test]
fn gradients_are_those_of_the_cpu() {
    let lab = Lab::new();
    write_images(&lab);
    for (i, config) in networks().into_iter().enumerate() {
        let kind = config.model.kind();
        let checkpoint = write(&lab, i, &config);
        let gradients = |device: &str| {
            let run = format!("{i}-{device}");
            let arguments = format!(
                "train --init-from {checkpoint} --data images --conditional --label-dropout 0.3 --dropout 0 --batch 24 \
                 --steps 1 --sample-every 0 --precision f32 --device {device} --run {run}"
            );
            match device {
                "cpu" => lab.on_cpu(&arguments),
                _ => drop(lab.ok(&arguments)),
            }
            let step = format!("{run}/checkpoints/step-00000001.safetensors");
            let found = read_checkpoint(&lab.path(&step)).unwrap();
            found.section("optim.exp_avg.")
        };
        let (ours, cpu) = (gradients("cuda"), gradients("cpu"));
        assert_eq!(ours.len(), cpu.len());
        // Some gradients are zero but for rounding: those of a bias before a norm of one channel, for example.
        let least = 1e-3 * norm(&cpu);
        let mut worst = (0.0, "");
        for ((name, ours), (_, cpu)) in ours.iter().zip(&cpu) {
            let of = |t: &Tensor| t.norm().double_value(&[]);
            let error = of(&(ours - cpu)) / of(cpu).max(least);
            if error > worst.0 {
                worst = (error, name);
            }
            if name == "class_embedding.weight" {
                let rows: Vec<f64> = cpu
                    .abs()
                    .sum_dim_intlist(1, false, None)
                    .try_into()
                    .unwrap();
                assert!(
                    rows.len() == 4 && rows.iter().all(|row| *row > 0.0),
                    "{kind:?}: {rows:?}"
                );
            }
        }
        println!("{kind:?}: {:.1e} of {}", worst.0, worst.1);
        // The CPU fuses norms and blocks and adds in another order.
        assert!(worst.0 <= 1e-4, "{kind:?}: {worst:?}");
        let of_classes = cpu.iter().filter(|(name, _)| name.contains("class"));
        let of_classes: Vec<_> = of_classes
            .map(|(name, t)| (name.clone(), t.copy()))
            .collect();
        assert!(
            norm(&of_classes) > 0.0,
            "{kind:?}: no gradient of the classes"
        );
    }
}

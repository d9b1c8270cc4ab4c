//! Networks with classes: the same predictions as on the CPU, in f32 and bf16.

use ddpm::checkpoint::{Contents, Meta, write_checkpoint};
use ddpm::config::{ModelConfig, ModelKind, Preset, RunConfig};
use ddpm::formats::safetensors;
use ddpm::model::Model;
use ddpm::rng::{Stream, normal};
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
        let meta = Meta::new(Contents::Weights, &config);
        let checkpoint = format!("{i}.safetensors");
        write_checkpoint(&lab.path(&checkpoint), &meta, &drawn(&config)).unwrap();
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

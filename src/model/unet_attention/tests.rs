//! Shapes, gradients and sizes; `tests/peers.rs` compares outputs with other programs'.

use tch::{Device, Kind, Tensor};

use crate::config::{AttentionUNetConfig, ModelConfig, Preset, Resample};
use crate::model::Model;
use crate::rng::{Stream, normal};

fn small() -> AttentionUNetConfig {
    let ModelConfig::UnetAttention(mut m) = Preset::DdpmCifar10.config().model else {
        panic!("the preset's network has attention");
    };
    (m.height, m.width, m.base_width, m.norm_groups) = (8, 8, 8, 4);
    (m.widths, m.blocks) = (vec![8, 16, 16], 1);
    (m.attention_down, m.attention_up) = (vec![false, true, false], vec![true, false, false]);
    (m.time_channels, m.time_width, m.dropout) = (8, 16, 0.0);
    m
}

fn count(preset: Preset) -> i64 {
    let config = preset.config();
    let net = Model::new(&config.model, config.diffusion.timesteps, 0);
    net.params().iter().map(|p| p.tensor.numel() as i64).sum()
}

#[test]
fn presets_have_the_published_sizes() {
    assert_eq!(count(Preset::DdpmCifar10), 35_746_307);
    assert_eq!(count(Preset::Ddpm256), 113_673_219);
    // "about 50 million": the checkpoint's name says 50M.
    assert_eq!(count(Preset::ImprovedCifar10), 52_546_438);
}

#[test]
fn every_choice_runs_and_every_parameter_learns() {
    let edits: [&dyn Fn(&mut AttentionUNetConfig); 8] = [
        &|_| (),
        &|m| m.resample = Resample::Conv,
        &|m| m.resample = Resample::Resnet,
        &|m| (m.scale_shift, m.mid_attention_norm) = (true, false),
        &|m| (m.learned_variance, m.cos_first, m.freq_shift) = (true, true, 0),
        &|m| (m.heads, m.heads_up, m.mid_scale) = (2, Some(4), 2.0),
        &|m| (m.head_channels, m.mid_attention, m.channels) = (Some(4), true, 1),
        &|m| (m.classes, m.time_scale, m.center_input, m.base_width) = (Some(3), 0.25, true, 16),
    ];
    for (i, edit) in edits.iter().enumerate() {
        let mut config = small();
        edit(&mut config);
        let model = ModelConfig::UnetAttention(config.clone());
        model.validate().unwrap();
        let net = Model::new(&model, 10, 0);
        // Layers that start near zero would hide what is before them.
        for (i, p) in net.params().iter().enumerate() {
            if p.tensor.dim() > 1 {
                let drawn = normal(0, Stream::Init, i as u64, &p.tensor.size(), Device::Cpu) * 0.2;
                tch::no_grad(|| p.tensor.shallow_clone().copy_(&drawn));
            }
        }
        let x = normal(
            0,
            Stream::Data,
            0,
            &[2, config.channels, 8, 16],
            Device::Cpu,
        );
        let classes = config.classes.map(|_| Tensor::from_slice(&[2i64, 0]));
        let out = net.forward(&x, &Tensor::from_slice(&[0i64, 9]), classes.as_ref(), true);
        let channels = config.channels * if config.learned_variance { 2 } else { 1 };
        assert_eq!(out.size(), [2, channels, 8, 16], "{i}");
        out.square().sum(Kind::Float).backward();
        for p in net.params() {
            let largest = f64::try_from(p.tensor.grad().abs().max()).unwrap();
            // softmax ignores a key's bias, which adds the same to all scores.
            let blind = p.name.ends_with("to_k.bias");
            assert!(blind || largest > 0.0, "{i} {}", p.name);
        }
    }
}

#[test]
fn a_fresh_network_predicts_almost_nothing() {
    let model = ModelConfig::UnetAttention(small());
    let x = normal(0, Stream::Data, 0, &[1, 3, 8, 8], Device::Cpu);
    let out = Model::new(&model, 10, 0).forward(&x, &Tensor::from_slice(&[5i64]), None, false);
    assert!(f64::try_from(out.abs().max()).unwrap() < 1e-3);
}

#[test]
fn cost_counts_the_multiplications() {
    let mut config = small();
    config.widths = vec![8];
    (config.attention_down, config.attention_up) = (vec![false], vec![false]);
    config.mid_attention = false;
    let cost = Model::new(&ModelConfig::UnetAttention(config), 10, 0).cost(8, 8);
    // conv_in; seven 3×3 and two shortcuts: down, mid twice, up twice; conv_out; the embeddings.
    let convs = 9 * (3 * 8) + 9 * (3 * 2 * 64 + 2 * (128 + 64)) + 2 * 128 + 9 * (8 * 3);
    let linears = 8 * 16 + 16 * 16 + 5 * 16 * 8;
    assert_eq!(cost.forward_flops, 2 * (convs * 64 + linears));
}

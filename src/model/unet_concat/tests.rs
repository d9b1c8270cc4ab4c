//! Shapes, gradients and sizes; `tests/golden.rs` compares outputs with the original's.

use tch::{Device, Kind, Tensor};

use super::cat_groups;
use crate::config::{ConcatUNetConfig, ModelConfig, Preset};
use crate::model::Model;
use crate::rng::{Stream, normal, seeded};

fn small() -> ConcatUNetConfig {
    ConcatUNetConfig {
        height: 8,
        width: 8,
        channels: 3,
        base_width: 8,
        multipliers: vec![1, 2],
        blocks: 1,
        norm_groups: 2,
        norm_eps: 1e-6,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

fn draw(index: u64, shape: &[i64]) -> Tensor {
    normal(0, Stream::Data, index, shape, Device::Cpu)
}

#[test]
fn groups_are_joined_whatever_the_layout() {
    let (a, b) = (draw(0, &[2, 4, 3, 5]), draw(1, &[2, 6, 3, 5]));
    let joined = cat_groups(&a, &b, 2);
    // Group 0: the first halves; group 1: the second ones.
    let halves = |x: &Tensor| x.chunk(2, 1);
    let (a2, b2) = (halves(&a), halves(&b));
    let want = Tensor::cat(&[&a2[0], &b2[0], &a2[1], &b2[1]], 1);
    assert_eq!(joined, want);

    let last = |x: &Tensor| crate::model::layers::preferred_layout(x);
    let joined = cat_groups(&last(&a), &last(&b), 2);
    assert_eq!(joined.stride()[1], 1, "channels stay last");
    assert_eq!(joined, want);
}

#[test]
fn every_shape_that_validates_runs_and_every_parameter_learns() {
    for (height, width, channels, multipliers, blocks) in [
        (8, 8, 3, vec![1, 2], 1),
        (8, 16, 1, vec![2, 1, 4], 2),
        (5, 7, 3, vec![3], 3),
        // A block on the way up whose input, 8 + 8 channels, is as wide as its output: no shortcut.
        (4, 4, 3, vec![2, 1], 1),
    ] {
        let config = ConcatUNetConfig {
            height,
            width,
            channels,
            multipliers,
            blocks,
            dropout: 0.1,
            ..small()
        };
        let model = ModelConfig::UnetConcat(config);
        model.validate().unwrap();
        let net = Model::new(&model, 10, 0);
        // The second convolutions start near zero and would hide what is before them.
        for (i, p) in net.params().iter().enumerate() {
            if p.tensor.dim() > 1 {
                let drawn = draw(i as u64, &p.tensor.size()) * 0.2;
                tch::no_grad(|| p.tensor.shallow_clone().copy_(&drawn));
            }
        }
        let x = draw(0, &[2, channels, height, width]);
        // Dropout draws from the generator that all tests share.
        let t = Tensor::from_slice(&[0i64, 9]);
        let out = seeded(0, || net.forward(&x, &t, None, true));
        assert_eq!(out.size(), x.size());
        out.square().sum(Kind::Float).backward();
        for p in net.params() {
            let largest = f64::try_from(p.tensor.grad().abs().max()).unwrap();
            assert!(largest > 0.0, "{}", p.name);
        }
    }
}

#[test]
fn a_fresh_block_is_its_shortcut() {
    // The second convolutions start at 1e-10: the blocks add almost nothing to their inputs, so that t has no
    // visible effect on the output.
    let net = Model::new(&ModelConfig::UnetConcat(small()), 10, 0);
    let x = draw(0, &[1, 3, 8, 8]);
    let at = |t: i64| net.forward(&x, &Tensor::from_slice(&[t]), None, false);
    let difference = f64::try_from((at(0) - at(9)).abs().max()).unwrap();
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn the_preset_has_the_original_s_size() {
    let config = Preset::KerasDdpm2.config();
    let net = Model::new(&config.model, config.diffusion.timesteps, 0);
    let trained: i64 = net.params().iter().map(|p| p.tensor.numel() as i64).sum();
    // The original counts its table of sines and cosines, T x base width, which is fixed and not a
    // parameter here.
    assert_eq!(trained + 1000 * 128, 92_588_800);
    assert!(config.model.least_parameters() <= i128::from(trained));
}

/// Limit of |w| for each kind of weight in the original's initialisation at this size: 92 M parameters,
/// `ddpm2.py` as shipped.
#[test]
fn initial_weights_follow_the_original_s_limits() {
    let config = Preset::KerasDdpm2.config();
    let params = Model::new(&config.model, config.diffusion.timesteps, 0).params();
    for (name, limit) in [
        ("time_embedding.linear_1.weight", 0.096_824),
        ("time_embedding.linear_2.weight", 0.076_546),
        ("conv_in.weight", 0.071_338),
        ("down.0.0.conv1.weight", 0.051_031),
        ("down.0.0.time_proj.weight", 0.096_825),
        ("down.0.0.conv2.weight", 5.103_1e-7),
        ("down.2.0.shortcut.weight", 0.125),
        ("up.0.0.shortcut.weight", 0.062_5),
        ("up.0.0.conv1.weight", 0.020_833_4),
        ("up.0.0.conv2.weight", 2.551_6e-7),
        ("up.5.2.conv1.weight", 0.041_667),
        ("conv_out.weight", 0.071_338),
    ] {
        let tensor = &params.iter().find(|p| p.name == name).unwrap().tensor;
        let largest = f64::try_from(tensor.abs().max()).unwrap();
        // Uniform: of the 3456 values of the smallest tensor, some come within 2 % of the limit.
        assert!(
            largest <= limit * 1.000_01 && largest > 0.98 * limit,
            "{name}: {largest} against {limit}"
        );
    }
}

#[test]
fn cost_counts_the_multiplications() {
    let model = ModelConfig::UnetConcat(ConcatUNetConfig {
        multipliers: vec![1],
        ..small()
    });
    let cost = Model::new(&model, 10, 0).cost(8, 8);
    // conv_in; four blocks, of which the two on the way up see 16 channels and have a shortcut; conv_out.
    let convs = 9 * 3 * 8 + 9 * (2 * 2 * 64 + 2 * (128 + 64)) + 2 * 128 + 9 * 8 * 3;
    let linears = 8 * 32 + 32 * 32 + 4 * 32 * 8;
    assert_eq!(cost.forward_flops, 2 * (convs * 64 + linears));
}

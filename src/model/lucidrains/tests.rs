//! Shapes, gradients and sizes; `tests/peers.rs` compares outputs with the package's.

use tch::{Device, Kind, Tensor};

use super::LucidrainsUNet;
use crate::config::{LucidrainsConfig, LucidrainsNorm, LucidrainsStructure};
use crate::rng::{Stream, normal, seeded};

/// `Unet(dim, dim_mults = …)` with everything else at its default, for 3 channels.
fn package_default(base_width: i64, multipliers: &[i64]) -> LucidrainsConfig {
    let levels = multipliers.len();
    LucidrainsConfig {
        height: 32,
        width: 32,
        channels: 3,
        learned_variance: false,
        base_width,
        init_width: base_width,
        multipliers: multipliers.to_vec(),
        heads: vec![4; levels],
        head_channels: vec![32; levels],
        full_attention: (1..=levels).map(|i| i == levels).collect(),
        norm: LucidrainsNorm::Rms,
        structure: LucidrainsStructure::Main,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

/// Networks that differ from the default in each setting.
fn various() -> Vec<LucidrainsConfig> {
    let plain = package_default(8, &[1, 2]);
    vec![
        package_default(4, &[3]),
        package_default(8, &[1, 2, 1, 2]),
        LucidrainsConfig {
            height: 16,
            width: 24,
            channels: 1,
            learned_variance: true,
            ..plain.clone()
        },
        LucidrainsConfig {
            norm: LucidrainsNorm::Group,
            dropout: 0.2,
            ..plain.clone()
        },
        LucidrainsConfig {
            init_width: 12,
            heads: vec![1, 3],
            head_channels: vec![6, 2],
            full_attention: vec![true, false],
            ..plain.clone()
        },
        LucidrainsConfig {
            classes: Some(1),
            null_class: true,
            ..plain.clone()
        },
        LucidrainsConfig {
            full_attention: vec![false, false],
            structure: LucidrainsStructure::ClassifierFreeGuidance,
            classes: Some(1),
            null_class: true,
            ..plain
        },
    ]
}

fn images(config: &LucidrainsConfig) -> Tensor {
    let shape = [2, config.channels, config.height, config.width];
    normal(0, Stream::Data, 0, &shape, Device::Cpu)
}

#[test]
fn every_setting_runs_and_is_trained() {
    for config in various() {
        let net = LucidrainsUNet::new(&config, 0);
        let x = images(&config);
        // Dropout draws from the generator that all tests share.
        let t = Tensor::from_slice(&[0i64, 999]);
        let classes = (config.classes).map(|last| Tensor::from_slice(&[0, last]));
        let out = seeded(0, || net.forward(&x, &t, classes.as_ref(), true));
        let c = config.channels * if config.learned_variance { 2 } else { 1 };
        assert_eq!(
            out.size(),
            [2, c, config.height, config.width],
            "{config:?}"
        );
        // Not the mean: the last norm would cancel its gradient.
        (&out * normal(0, Stream::Noise, 0, &out.size(), Device::Cpu))
            .sum(Kind::Float)
            .backward();
        for param in net.params() {
            let grad = param.tensor.grad();
            assert!(grad.defined(), "{} in {config:?}", param.name);
            let largest = f64::try_from(grad.abs().max()).unwrap();
            assert!(
                largest > 0.0 && largest.is_finite(),
                "{} in {config:?}",
                param.name
            );
        }
    }
}

#[test]
fn dropout_is_for_training_only() {
    let config = LucidrainsConfig {
        dropout: 0.5,
        ..package_default(8, &[1, 2])
    };
    let net = LucidrainsUNet::new(&config, 0);
    let (x, t) = (images(&config), Tensor::from_slice(&[3i64, 4]));
    let run = |train| seeded(0, || tch::no_grad(|| net.forward(&x, &t, None, train)));
    assert_eq!(run(false), run(false));
    assert_ne!(run(true), run(false));
}

#[test]
fn initial_weights_are_pytorchs() {
    let config = package_default(16, &[1, 2]);
    let params = LucidrainsUNet::new(&config, 1).params();
    let get = |name: &str| &params.iter().find(|p| p.name == name).unwrap().tensor;
    for (name, fan_in) in [
        ("init_conv.weight", 3 * 49),
        ("time_mlp.1.weight", 16),
        ("downs.0.0.block1.proj.weight", 16 * 9),
        ("downs.0.2.to_qkv.weight", 16),
        ("ups.0.0.mlp.1.bias", 64),
    ] {
        let limit = 1.0 / f64::from(fan_in).sqrt();
        let largest = f64::try_from(get(name).abs().max()).unwrap();
        assert!(
            largest <= limit && largest > 0.9 * limit,
            "{name}: {largest} against {limit}"
        );
    }
    let memory = get("downs.0.2.mem_kv");
    let std = f64::try_from(memory.std(true)).unwrap();
    assert!((std - 1.0).abs() < 0.1, "{std}");
    for name in [
        "downs.0.0.block1.norm.g",
        "mid_attn.norm.g",
        "ups.1.2.to_out.1.g",
    ] {
        assert_eq!(*get(name), get(name).ones_like(), "{name}");
    }
}

#[test]
fn the_readme_network_has_its_size_and_cost() {
    // `Unet(dim = 64, dim_mults = (1, 2, 4, 8))` at 128 px: parameters and flops counted by PyTorch
    // (torch.utils.flop_counter), without the trained keys and values.
    let net = LucidrainsUNet::new(&package_default(64, &[1, 2, 4, 8]), 0);
    let params: i64 = net.params().iter().map(|p| p.tensor.numel() as i64).sum();
    assert_eq!(params, 35_711_491);
    let gflop = net.cost(128, 128).forward_flops as f64 / 1e9;
    assert!((gflop - 58.44).abs() < 0.3, "{gflop}");
}

#[test]
fn the_network_with_classes_has_its_size_and_cost() {
    // `Unet(32, 10, dim_mults = (1, 2, 4))` of `classifier_free_guidance.py` at 64 px, counted in the same way.
    let config = LucidrainsConfig {
        full_attention: vec![false; 3],
        structure: LucidrainsStructure::ClassifierFreeGuidance,
        classes: Some(10),
        null_class: true,
        ..package_default(32, &[1, 2, 4])
    };
    let net = LucidrainsUNet::new(&config, 0);
    let params: i64 = net.params().iter().map(|p| p.tensor.numel() as i64).sum();
    assert_eq!(params, 2_915_811);
    let gflop = net.cost(64, 64).forward_flops as f64 / 1e9;
    assert!((gflop - 3.459).abs() < 0.02, "{gflop}");
}

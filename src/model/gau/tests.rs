//! Parts, shapes, gradients and sizes; `tests/golden.rs` compares whole networks with the original.

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::positions::Positions;
use crate::config::{GauConfig, ModelConfig, Preset};
use crate::formats::safetensors;
use crate::model::Model;
use crate::model::layers::RmsNorm;
use crate::rng::{Stream, normal, seeded};

fn small() -> GauConfig {
    GauConfig {
        height: 8,
        width: 8,
        channels: 3,
        patch: 4,
        base_width: 6,
        layers: 2,
        units: 10,
        key_width: 8,
        norm_eps: 1e-7,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

fn draw(index: u64, shape: &[i64]) -> Tensor {
    normal(0, Stream::Data, index, shape, Device::Cpu)
}

/// The network with every weight redrawn, so that no zero hides anything.
fn drawn(config: &GauConfig) -> Model {
    let net = Model::new(&ModelConfig::Gau(config.clone()), 10, 0);
    for (i, p) in net.params().iter().enumerate() {
        let drawn = draw(i as u64, &p.tensor.size()) * 0.5;
        tch::no_grad(|| p.tensor.shallow_clone().copy_(&drawn));
    }
    net
}

fn largest(x: &Tensor) -> f64 {
    f64::try_from(x.abs().max()).unwrap()
}

/// A golden vector of the original's layers.
fn golden(name: &str) -> Tensor {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/weights/golden/keras_gau_parts.safetensors"
    );
    let file = safetensors::open(path.as_ref()).unwrap();
    let find = |(n, t): (String, Tensor)| (n == name).then_some(t);
    file.tensors.into_iter().find_map(find).unwrap()
}

#[test]
fn positions_are_the_original_s() {
    for side in [4, 16] {
        // Sines and cosines alternate there.
        let table = golden(&format!("rope2d_w{side}")).reshape([side * side, 64, 2]);
        let ours = Positions::new(side, side, 128, Device::Cpu);
        // The original computes angles of up to 16 in f32.
        assert!(largest(&(ours.sin - table.select(2, 0))) < 2e-6);
        assert!(largest(&(ours.cos - table.select(2, 1))) < 2e-6);
    }
}

#[test]
fn products_of_rotated_vectors_depend_on_distances_alone() {
    let positions = Positions::new(3, 4, 8, Device::Cpu);
    let rotated = |index| positions.rotate(&draw(index, &[1, 1, 8]).expand([1, 12, 8], false));
    let products = rotated(0).matmul(&rotated(1).transpose(1, 2)).squeeze();
    let at =
        |(r, c): (i64, i64), (r2, c2): (i64, i64)| products.double_value(&[4 * r + c, 4 * r2 + c2]);
    assert!((at((0, 0), (1, 2)) - at((1, 1), (2, 3))).abs() < 1e-5);
    assert!((at((0, 0), (1, 2)) - at((0, 0), (2, 1))).abs() > 1e-2);
}

#[test]
fn the_norm_is_the_original_s() {
    let store = VarStore::new(Device::Cpu);
    let norm = RmsNorm::new(&store.root(), 12, 1e-7);
    let weight = &store.trainable_variables()[0];
    tch::no_grad(|| weight.shallow_clone().copy_(&golden("rms.weight")));
    // f32 means of 12 squares.
    let error = largest(&(norm.forward(&golden("rms.x")) - golden("rms.y")));
    assert!(error < 1e-6, "{error}");
}

#[test]
fn every_shape_that_validates_runs_and_every_parameter_learns() {
    for (height, width, channels, patch, key_width) in
        [(8, 8, 3, 4, 8), (6, 9, 1, 3, 4), (4, 2, 3, 1, 12)]
    {
        let config = GauConfig {
            height,
            width,
            channels,
            patch,
            key_width,
            dropout: 0.1,
            ..small()
        };
        ModelConfig::Gau(config.clone()).validate().unwrap();
        let net = drawn(&config);
        let x = draw(0, &[2, channels, height, width]);
        // Dropout draws from the generator that all tests share.
        let t = Tensor::from_slice(&[0i64, 9]);
        let out = seeded(0, || net.forward(&x, &t, None, true));
        assert_eq!(out.size(), x.size());
        out.square().sum(Kind::Float).backward();
        for p in net.params() {
            assert!(largest(&p.tensor.grad()) > 0.0, "{}", p.name);
        }
    }
}

#[test]
fn patches_are_cut_and_put_back_in_their_places() {
    // Without layers, and with identities as patch weights, each value comes back to its place.
    let config = GauConfig {
        base_width: 48,
        layers: 1,
        ..small()
    };
    let net = Model::new(&ModelConfig::Gau(config), 10, 0);
    for p in net.params() {
        let value = match p.name.as_str() {
            "patch_in.weight" | "patch_out.weight" => Tensor::eye(48, (Kind::Float, Device::Cpu)),
            "norm_out.weight" => continue,
            _ => p.tensor.zeros_like(),
        };
        tch::no_grad(|| p.tensor.shallow_clone().copy_(&value));
    }
    let x = draw(0, &[2, 3, 8, 8]);
    let out = net.forward(&x, &Tensor::from_slice(&[0i64, 9]), None, false);
    // The last norm only divides each patch by its root mean square.
    let scale = |x: &Tensor| {
        x.square()
            .avg_pool2d([4, 4], [4, 4], [0, 0], false, true, None::<i64>)
    };
    let size = scale(&x).mean_dim(1, true, None).sqrt();
    let size = size.upsample_nearest2d([8, 8], None, None);
    assert!(largest(&(out * size - &x)) < 1e-5);
}

#[test]
fn dropout_is_for_training_alone() {
    let config = GauConfig {
        dropout: 0.5,
        ..small()
    };
    let (net, plain) = (drawn(&config), drawn(&small()));
    let (x, t) = (draw(0, &[1, 3, 8, 8]), Tensor::from_slice(&[3i64]));
    let out = |net: &Model, train| seeded(0, || net.forward(&x, &t, None, train));
    assert_eq!(out(&net, false), out(&plain, false));
    assert_ne!(out(&net, true), out(&plain, true));
}

#[test]
fn the_preset_has_the_original_s_size() {
    let config = Preset::KerasGau.config();
    let net = Model::new(&config.model, config.diffusion.timesteps, 0);
    let trained: i64 = net.params().iter().map(|p| p.tensor.numel() as i64).sum();
    assert_eq!(trained, 88_483_584);
    assert!(config.model.least_parameters() <= i128::from(trained));

    // Largest |w| of each kind of weight in the original's initialisation at this size.
    let params = net.params();
    let find = |name: &str| &params.iter().find(|p| p.name == name).unwrap().tensor;
    for (name, limit) in [
        ("patch_in.weight", 0.079_057),
        ("time_embedding.weight", 0.05),
        ("layers.0.in_proj.weight", 0.038_886),
        ("layers.23.out_proj.weight", 0.051_031_1),
        ("patch_out.weight", 0.079_057),
    ] {
        let most = largest(find(name));
        assert!(
            most <= limit * 1.000_01 && most > 0.999 * limit,
            "{name}: {most} against {limit}"
        );
    }
    for (name, value) in [
        ("layers.0.norm.weight", 1.0),
        ("layers.0.in_proj.bias", 0.0),
        ("layers.23.q_affine.weight", 1.0),
        ("layers.23.k_affine.bias", 0.0),
    ] {
        assert_eq!(largest(&(find(name) - value)), 0.0, "{name}");
    }
}

#[test]
fn cost_counts_the_multiplications() {
    let cost = Model::new(&ModelConfig::Gau(small()), 10, 0).cost(8, 12);
    let patches = 2 * 3;
    let linears = 2 * 48 * 6 + 2 * (6 * 28 + 10 * 6);
    let attention = 2 * patches * (8 + 10);
    assert_eq!(
        cost.forward_flops,
        2 * patches as u64 * (linears + attention) as u64
    );
}

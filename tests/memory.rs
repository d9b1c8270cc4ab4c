//! Compares the program's estimates of memory with libtorch's use.

use std::sync::{Mutex, PoisonError};

use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::config::{ModelConfig, ModelKind, Preset, RunConfig};
use ddpm::device::Precision;
use ddpm::evaluate::ImageSet;
use ddpm::evaluate::features::{FeatureExtractor, Features};
use ddpm::evaluate::seen::{Keep, see};
use ddpm::model::Model;
use ddpm::native::CpuTally;
use ddpm::train::Trainer;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::{Device, Kind, Tensor};

/// A network of this kind with large feature maps compared to its weights.
fn small(kind: ModelKind) -> RunConfig {
    let mut config = kind.preset().config();
    config.model = kind.config([3, 64, 64]);
    match &mut config.model {
        ModelConfig::Unet(m) => {
            (m.base_width, m.norm_groups, m.multipliers) = (16, 4, vec![1, 2, 2]);
        }
        ModelConfig::UnetAttention(m) => {
            (m.base_width, m.norm_groups, m.widths) = (16, 4, vec![16, 16, 32, 32]);
            (m.time_channels, m.time_width) = (16, 32);
        }
        ModelConfig::Lucidrains(m) => (m.base_width, m.init_width) = (8, 8),
        ModelConfig::UnetConcat(m) => (m.base_width, m.norm_groups) = (8, 4),
        ModelConfig::Gau(m) => (m.base_width, m.units, m.key_width, m.layers) = (128, 256, 32, 12),
    }
    config.train.batch = 2;
    config
}

/// Bytes of tensors after a forward pass of two images, and the peak of a forward and a backward pass.
fn measured(trainer: &Trainer, [c, h, w]: [i64; 3]) -> (i64, i64) {
    let x = Tensor::zeros([2, c, h, w], (Kind::Float, Device::Cpu));
    let t = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
    let tally = CpuTally::begin().unwrap();
    let out = trainer.net.forward(&x, &t, None, true);
    let (kept, _) = tally.now_and_peak_bytes();
    drop(out);
    let (left, _) = tally.now_and_peak_bytes();
    assert_eq!(left, 0, "all of it goes with the output");
    let _ = trainer.backward(&x, &t, None, 0).unwrap();
    (kept, tally.now_and_peak_bytes().1)
}

#[test]
fn the_values_that_networks_keep_are_counted() {
    for kind in [
        ModelKind::Unet,
        ModelKind::UnetAttention,
        ModelKind::Lucidrains,
        ModelKind::UnetConcat,
        ModelKind::Gau,
    ] {
        for (dropout, precision) in [
            (0.0, Precision::F32),
            (0.1, Precision::F32),
            (0.1, Precision::Bf16),
        ] {
            hold(&small(kind), dropout, precision);
        }
    }
}

#[test]
fn what_networks_with_classes_keep_is_counted() {
    for kind in [
        ModelKind::Unet,
        ModelKind::UnetAttention,
        ModelKind::Lucidrains,
        ModelKind::UnetConcat,
        ModelKind::Gau,
    ] {
        let mut model = small(kind).model;
        model.make_conditional(3, true);
        let net = Model::new(&model, 100, 0);
        let [c, h, w] = model.chw();
        let x = Tensor::zeros([2, c, h, w], (Kind::Float, Device::Cpu));
        let t = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        let tally = CpuTally::begin().unwrap();
        let out = net.forward(&x, &t, Some(&Tensor::from_slice(&[0i64, 3])), true);
        let (kept, _) = tally.now_and_peak_bytes();
        drop(out);
        let counted = 8.0 * net.cost(h, w).activations as f64 / kept as f64;
        println!("{kind:?}: {counted:.3} of {kept}");
        assert!((0.95..1.03).contains(&counted), "{kind:?}: {counted}");
    }
}

/// Autocast's copies of weights belong to the process: a thread that ends its bf16 drops those of other threads, whose
/// counts then miss them.
static CASTING: Mutex<()> = Mutex::new(());

/// Checks the estimate for this network, and returns the bytes kept and the peak.
fn hold(config: &RunConfig, dropout: f64, precision: Precision) -> (i64, i64) {
    let _alone = CASTING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = config.clone();
    config.model.set_dropout(dropout);
    let chw = config.model.chw();
    let mut trainer = Trainer::new(&config, 8, Device::Cpu).unwrap();
    trainer.net.set_precision(precision);
    let cost = trainer.net.cost(chw[1], chw[2]);
    let (kept, peak) = measured(&trainer, chw);
    let bytes_each = trainer.net.bytes_kept_a_value();
    let ratio = |values: u64, bytes: i64| 2.0 * bytes_each * values as f64 / bytes as f64;
    let (counted, estimated) = (
        ratio(cost.activations, kept),
        ratio(cost.activations + cost.backward, peak),
    );
    let what = format!("{:?} {dropout} {precision}", config.model.kind());
    println!("{what}: {counted:.3} of {kept}, {estimated:.3} of {peak}");
    // The estimate omits statistics, the embedding of t, the output itself and the squared errors that are added up over t;
    // with bf16 it is also approximate in the bf16 weights and in the values that stay in f32.
    let (of_kept, of_peak) = match precision {
        Precision::Bf16 => (0.75..1.25, 0.73..1.25),
        _ => (0.95..1.03, 0.85..1.15),
    };
    assert!(of_kept.contains(&counted), "{what}: {counted}");
    assert!(of_peak.contains(&estimated), "{what}: {estimated}");
    (kept, peak)
}

#[test]
fn what_checkpointed_blocks_keep_is_counted_and_less() {
    for (dropout, precision) in [
        (0.0, Precision::F32),
        (0.1, Precision::F32),
        (0.0, Precision::Bf16),
        (0.1, Precision::Bf16),
    ] {
        let mut config = small(ModelKind::Unet);
        let (all, most) = hold(&config, dropout, precision);
        config.train.checkpoint_blocks = true;
        let (kept, peak) = hold(&config, dropout, precision);
        assert!(kept * 3 < all * 2, "{dropout} {precision}: {kept} of {all}");
        // In bf16 the values not kept are half as large, and the squared errors over t, in f32, are 1 % of this peak.
        let [part, whole] = match precision {
            Precision::Bf16 => [5, 6],
            _ => [3, 4],
        };
        assert!(
            peak * whole < most * part,
            "{dropout} {precision}: {peak} of {most}"
        );
    }
}

#[test]
fn resampling_and_scaled_norms_are_counted_too() {
    let mut config = Preset::ImprovedCifar10.config();
    let ModelConfig::UnetAttention(m) = &mut config.model else {
        panic!("another network");
    };
    (m.base_width, m.norm_groups, m.widths) = (16, 4, vec![16, 16, 32, 32]);
    (m.time_channels, m.time_width) = (16, 32);
    for resample in ["conv", "conv-asymmetric", "resnet"] {
        m.resample = serde_json::from_value(resample.into()).unwrap();
        let other = RunConfig {
            model: ModelConfig::UnetAttention(m.clone()),
            ..Preset::ImprovedCifar10.config()
        };
        let trainer = Trainer::new(&other, 8, Device::Cpu).unwrap();
        let (kept, _) = measured(&trainer, [3, 32, 32]);
        let counted = (8 * trainer.net.cost(32, 32).activations) as f64 / kept as f64;
        assert!((0.95..1.03).contains(&counted), "{resample}: {counted}");
    }
}

#[test]
fn the_program_runs_on_jemalloc_with_its_settings() {
    // What its memory is counted by: without either, peaks are larger than the estimates say.
    cargo_bin_cmd!("ddpm")
        .env("MALLOC_CONF", "stats_print:true")
        .arg("--version")
        .assert()
        .success()
        .stderr(contains("opt.dirty_decay_ms: -1").and(contains("opt.oversize_threshold: 0")));
}

/// Batches of 64 images, made as they are asked for.
struct Made(i64);

impl ImageSet for Made {
    fn chw(&self) -> [i64; 3] {
        [3, 8, 8]
    }

    fn origin(&self) -> String {
        format!("{} batches", self.0)
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        for batch in 0..self.0 {
            take(&Tensor::full(
                [64, 3, 8, 8],
                batch % 251,
                (Kind::Uint8, Device::Cpu),
            ))?;
        }
        Ok(64 * self.0 as u64)
    }
}

/// The pixels themselves.
struct Pixels;

impl FeatureExtractor for Pixels {
    fn name(&self) -> String {
        "pixels".to_owned()
    }

    fn dims(&self) -> usize {
        3 * 8 * 8
    }

    fn features(&self, images: &Tensor) -> anyhow::Result<Features> {
        let pooled = images.to_kind(Kind::Float).flatten(1, -1);
        Ok(Features {
            pooled,
            logits: None,
        })
    }
}

/// What a distance needs of a set takes as much memory of many images as of few.
#[test]
fn a_pass_over_images_takes_the_same_memory_however_many_there_are() {
    let peak = |batches| {
        let tally = CpuTally::begin().unwrap();
        let seen = see(&Made(batches), &Pixels, Keep::default()).unwrap();
        assert_eq!(seen.moments.count, Some(64 * batches as u64));
        tally.now_and_peak_bytes().1
    };
    let [few, many] = [16, 128].map(peak);
    assert!((many - few).abs() < 1 << 12, "{few} and {many} bytes");
}

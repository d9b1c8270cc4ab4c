//! Training steps as the reference takes them.

use std::path::Path;

use ddpm::config::{
    ConditionalConfig, Draws, LossKind, ModelKind, OptimizerKind, RunConfig, ScheduleKind,
};
use ddpm::data::{self, Store};
use ddpm::formats::safetensors;
use ddpm::train::Trainer;
use tch::{Device, Tensor};

use super::{run_program, tiny_of, write_config};
use crate::common::{python, tiny_config};

/// Loss and gradient norm of a step: ours and theirs.
type StepPair = [(f64, f64); 2];

/// Trains the networks of all folders in a folder.
const TRAIN: &str = r#"
import json, sys
from pathlib import Path
folder, reference = map(Path, sys.argv[1:])
sys.path.insert(0, str(reference))
from safetensors.torch import load_file
from train import train
for one in folder.iterdir():
    config, data = json.loads((one / "run.json").read_text()), load_file(one / "data.safetensors")
    _, curves = train(config, data["pixels"], 20, labels=data.get("labels"))
    (one / "result.json").write_text(json.dumps(curves))
"#;

/// Twenty steps from the same seed with each of `configs`: initial weights, order, flips, t, eps, optimizer and EMA.
fn train_both(python: &Path, configs: &[&RunConfig]) -> Vec<Vec<StepPair>> {
    let dir = tempfile::tempdir().unwrap();
    let folder = |place: usize| dir.path().join(place.to_string());
    let stores: Vec<Store> = (configs.iter().enumerate())
        .map(|(place, config)| {
            std::fs::create_dir(folder(place)).unwrap();
            write_config(&folder(place).join("run.json"), config);
            write_images(&folder(place), config)
        })
        .collect();
    run_program(python, TRAIN, dir.path());
    (configs.iter().zip(stores).enumerate())
        .map(|(place, (config, store))| {
            let text = std::fs::read_to_string(folder(place).join("result.json")).unwrap();
            train_here(config, &store, &serde_json::from_str(&text).unwrap())
        })
        .collect()
}

/// The images that `config` trains on, which the reference finds in `folder`.
fn write_images(folder: &Path, config: &RunConfig) -> Store {
    let loaded = data::load(
        &config.data,
        &config.model,
        config.train.seed,
        None,
        Device::Cpu,
        &|_, _| (),
    );
    let mut store = loaded.unwrap().store;
    let mut images = vec![("pixels".to_owned(), store.pixels().shallow_clone())];
    if let Some(classes) = config.model.classes() {
        let labels: Vec<i64> = (0..store.len() as i64).map(|i| i % classes).collect();
        images.push(("labels".to_owned(), Tensor::from_slice(&labels)));
        store.set_classes(labels);
    }
    let file = folder.join("data.safetensors");
    safetensors::write(&file, ("about".into(), "test".into()), &images).unwrap();
    store
}

/// Twenty steps, each beside what the reference had.
fn train_here(config: &RunConfig, store: &Store, theirs: &serde_json::Value) -> Vec<StepPair> {
    let theirs = |key: &str, step: usize| theirs[key][step].as_f64().unwrap();
    let mut trainer = Trainer::new(config, store.len(), Device::Cpu).unwrap();
    (0..20)
        .map(|step| {
            let ours = trainer.train_step(store).unwrap().numbers;
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
    let cases = [
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
    ];
    let steps = train_both(&python, &cases.map(|(_, config)| config));
    for ((name, _), steps) in cases.iter().zip(steps) {
        assert_same_training(name, &steps);
    }
}

#[test]
fn twenty_training_steps_with_classes() {
    let Some(python) = python() else { return };
    let cases = [
        (ModelKind::Unet, 1),
        (ModelKind::UnetConcat, 2),
        (ModelKind::Gau, 1),
    ];
    let configs = cases.map(|(kind, accumulate)| {
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
        config
    });
    let steps = train_both(&python, &configs.each_ref());
    for ((kind, _), steps) in cases.iter().zip(steps) {
        assert_same_training(&format!("{kind:?}"), &steps);
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
    let mut free = config.clone();
    free.optim.clip_norm = None;
    let steps = train_both(&python, &[&config, &free]);
    let [clipped, free] = &steps[..] else {
        panic!("two trainings")
    };
    assert_same_training("clipped", clipped);
    assert_same_training("not clipped", free);
    assert!(
        clipped.iter().all(|step| step[1].0 > 50.0),
        "every step is clipped"
    );
    assert!(
        (free[19][0].0 - clipped[19][0].0).abs() > 0.01 * free[19][0].0,
        "and clipping matters"
    );
}

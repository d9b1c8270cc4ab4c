//! End-to-end tests of the networks that no other test trains: training, resuming, sampling, exporting.

mod common;

use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use common::Golden;
use ddpm::checkpoint::{Contents, Meta, read_checkpoint, write_checkpoint};
use ddpm::config::{ModelConfig, Preset};
use ddpm::formats::read_state_dict;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::Tensor;

/// Flags for a tiny network of each kind, and its name in `inspect --json`.
const NETWORKS: [(&str, &str); 4] = [
    (
        "--preset keras-ddpm2 --base-width 8 --norm-groups 2 --multipliers 1,2 --blocks 1",
        "unet-concat",
    ),
    (
        "--model unet-concat --base-width 8 --norm-groups 2 --multipliers 2,1 --blocks 2",
        "unet-concat",
    ),
    (
        "--preset keras-gau --patch 4 --base-width 8 --layers 2",
        "gau",
    ),
    ("--model gau --patch 2 --base-width 12 --layers 1", "gau"),
];

fn ddpm(arguments: &str) -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    command.args(arguments.split_whitespace());
    command
}

/// Trains on CPU in `run`, from its last step to `steps`.
fn train(run: &Path, network: &str, steps: u32) {
    let flags = format!(
        "train {network} --size 8 --timesteps 4 --builtin-images 6 --batch 4 --sample-images 2 \
         --sample-every 3 --save-every 3 --dropout 0.1 --device cpu --threads 1 --lr-schedule 0:1 \
         --steps {steps} --run"
    );
    ddpm(&flags).arg(run).assert().success();
}

/// Our files and PyTorch's have tensors in different orders.
fn sorted(mut tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn tensors(run: &Path, step: u32) -> Vec<(String, Tensor)> {
    let file = run.join(format!("checkpoints/step-{step:08}.safetensors"));
    sorted(Golden::open_path(&file).section(""))
}

#[test]
fn each_trains_goes_on_samples_and_exports() {
    for (network, kind) in NETWORKS {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (once, twice) = (at("once"), at("twice"));
        train(&once, network, 5);
        train(&twice, network, 3);
        train(&twice, network, 5);
        let (straight, resumed) = (tensors(&once, 5), tensors(&twice, 5));
        // Weights, EMA weights and both moments of every parameter, bit for bit.
        assert!(straight.len() > 40, "{network}");
        assert_eq!(straight.len(), resumed.len(), "{network}");
        for ((name, a), (again, b)) in straight.iter().zip(&resumed) {
            assert_eq!((name, a), (again, b), "{network}");
        }
        let moved = |step| {
            let first = tensors(&twice, step).into_iter();
            let weights = first.filter(|(name, _)| name.starts_with("model."));
            weights.map(|(_, t)| t).collect::<Vec<_>>()
        };
        assert!(
            moved(3).iter().zip(&moved(5)).any(|(a, b)| a != b),
            "{network}: nothing was trained"
        );

        ddpm("sample -n 2 --out")
            .arg(at("grid.png"))
            .arg(&once)
            .assert()
            .success();
        let size = image::image_dimensions(at("grid.png")).unwrap();
        assert_eq!(size, (16, 8), "{network}");

        ddpm("export --raw --to")
            .arg(at("model.pt"))
            .arg(&once)
            .assert()
            .success();
        let exported = read_state_dict(&at("model.pt")).unwrap();
        let held = straight.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix("model.")?.to_owned(), tensor.copy()))
        });
        assert_eq!(sorted(exported), held.collect::<Vec<_>>(), "{network}");

        let told = ddpm("inspect --json").arg(&once).assert().success();
        let told: serde_json::Value = serde_json::from_slice(&told.get_output().stdout).unwrap();
        assert_eq!(told["config"]["model"]["kind"], kind);
        ddpm("inspect")
            .arg(&once)
            .assert()
            .stdout(contains(format!("network: {kind}\n")));
    }
}

#[test]
fn a_state_dict_under_our_names_is_known_and_wants_its_settings() {
    for (network, _) in NETWORKS {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        train(&at("run"), network, 1);
        ddpm("export --to")
            .arg(at("model.pt"))
            .arg(at("run"))
            .assert()
            .success();
        ddpm("import")
            .arg(at("model.pt"))
            .assert()
            .failure()
            .stderr(contains("this program's own names").and(contains("--config FILE.toml")));
        ddpm("import --config")
            .arg(at("run/config.toml"))
            .arg(at("model.pt"))
            .arg("--to")
            .arg(at("back.safetensors"))
            .assert()
            .success();
        let back = read_checkpoint(&at("back.safetensors")).unwrap();
        let there = read_state_dict(&at("model.pt")).unwrap();
        assert_eq!(sorted(back.section("")), sorted(there), "{network}");
    }
}

#[test]
fn settings_of_more_than_a_file_holds_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("said.safetensors");
    for preset in [Preset::KerasDdpm2, Preset::KerasGau] {
        let mut config = preset.config();
        match &mut config.model {
            ModelConfig::UnetConcat(m) => (m.base_width, m.blocks) = (16_384, 64),
            ModelConfig::Gau(m) => (m.base_width, m.units, m.layers) = (65_536, 65_536, 1024),
            other => panic!("{:?}", other.kind()),
        }
        write_checkpoint(&file, &Meta::new(Contents::Weights, &config), &[]).unwrap();
        ddpm("sample")
            .arg(&file)
            .assert()
            .failure()
            .stderr(contains("describe a network of more than").and(contains("it holds 0")));
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (flags, said) in [
        ("--preset keras-gau --size 30", "patches of 8x8"),
        ("--preset keras-gau --size 4096 --patch 8", "262144 patches"),
        ("--preset keras-gau --patch 0", "model.patch = 0"),
        ("--preset keras-gau --layers 0", "model.layers = 0"),
        (
            "--preset keras-gau --blocks 2",
            "--blocks is a setting of unet",
        ),
        (
            "--preset keras-ddpm2 --patch 4",
            "--patch is a setting of gau",
        ),
        ("--preset keras-ddpm2 --size 48", "want a multiple of 32"),
        (
            "--preset keras-ddpm2 --norm-groups 24",
            "must divide the base width 128",
        ),
        (
            "--preset keras-ddpm2 --base-width 33",
            "model.base_width = 33",
        ),
        (
            "--preset keras-ddpm2 --multipliers 1,9999999",
            "model.multipliers",
        ),
    ] {
        ddpm(&format!("train {flags}"))
            .assert()
            .failure()
            .stderr(contains(said));
    }
}

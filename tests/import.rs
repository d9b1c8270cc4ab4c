//! The program on other programs' files, end to end.

mod common;
#[path = "import/faults.rs"]
mod faults;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use common::repo;
use ddpm::checkpoint::read_checkpoint;
use ddpm::formats::read_state_dict;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

fn ddpm() -> Command {
    cargo_bin_cmd!("ddpm")
}

fn peer(name: &str) -> PathBuf {
    repo("weights/peers").join(name)
}

/// Imports a file into `dir`; returns the file written.
fn import(dir: &Path, name: &str, hints: &[&str]) -> PathBuf {
    let to = dir.join("imported.safetensors");
    let mut command = ddpm();
    command.arg("import").arg(peer(name)).args(hints);
    command.arg("--to").arg(&to).assert().success();
    to
}

#[test]
fn missing_hints_are_listed_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("x.safetensors");
    let file = peer("improved_ema_0.9999_000001.pt");
    let mut command = ddpm();
    command.arg("import").arg(&file).arg("--to").arg(&to);
    let wanted = contains("--num-heads N")
        .and(contains("--attention-order"))
        .and(contains("--schedule"))
        .and(contains("--image-size"));
    command.assert().failure().stderr(wanted);
    assert!(!to.exists());
    let mut command = ddpm();
    command
        .arg("import")
        .arg(&file)
        .args(["--known", "improved-cifar10"]);
    // The shapes are those of another network than the public file's.
    command
        .assert()
        .failure()
        .stderr(contains("improved-cifar10"));
}

#[test]
fn a_foreign_file_is_sampled_directly_and_after_its_import() {
    let dir = tempfile::tempdir().unwrap();
    let sample = |file: &Path, hints: &[&str], out: &str| {
        let out = dir.path().join(out);
        let mut command = ddpm();
        command.arg("sample").arg(file).args(hints);
        command.args(["-n", "2", "--out-tensor"]).arg(&out);
        command.assert().success();
        read_state_dict(&out).unwrap().remove(0).1
    };
    let hints = ["--image-size", "16"];
    let direct = sample(&peer("lucidrains-model-1.pt"), &hints, "a.safetensors");
    let imported = import(dir.path(), "lucidrains-model-1.pt", &hints);
    assert_eq!(direct.size(), [2, 3, 16, 16]);
    assert_eq!(direct, sample(&imported, &[], "b.safetensors"));
}

#[test]
fn export_gives_back_each_program_s_own_layout() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(
        dir.path(),
        "pesser.ckpt",
        &["--image-size", "16", "--sigma", "beta"],
    );
    let export = |to: &Path, flags: &[&str]| {
        let mut command = ddpm();
        command.arg("export").arg(&imported).args(flags);
        command.arg("--to").arg(to).assert()
    };
    let back = dir.path().join("back.pt");
    export(&back, &[]).success().stderr(contains("pesser"));
    let (theirs, ours) = (
        read_state_dict(&peer("pesser.ckpt")),
        read_state_dict(&back),
    );
    let sorted = |state: anyhow::Result<Vec<(String, tch::Tensor)>>| {
        let mut state = state.unwrap();
        state.sort_by(|a, b| a.0.cmp(&b.0));
        state
    };
    assert_eq!(sorted(theirs), sorted(ours));

    let openai = export(&dir.path().join("x.pt"), &["--layout", "openai"]);
    openai.failure().stderr(contains("layout"));
    let folder = dir.path().join("pipeline");
    export(&folder, &[]).success();
    for file in [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    export(&folder, &[])
        .failure()
        .stderr(contains("there already"));
    // The exported folder is itself a file of another program.
    let mut command = ddpm();
    command.arg("import").arg(&folder).assert().success();
}

#[test]
fn inspect_says_what_importing_would_need() {
    for (file, family, missing) in [
        ("diffusers", "diffusers", vec![]),
        (
            "guided.pt",
            "OpenAI",
            vec!["--attention-order ORDER", "--timesteps T"],
        ),
        ("lucidrains-model-1.pt", "lucidrains", vec!["--image-size"]),
        ("keras_C_model.weights", "Keras", vec!["--image-size"]),
        ("keras_Dt_model.weights", "Keras", vec!["--image-size"]),
        ("keras_G_model.weights", "Keras", vec!["--image-size"]),
    ] {
        let mut command = ddpm();
        command.arg("inspect").arg(peer(file)).arg("--json");
        let output = command.assert().success().get_output().stdout.clone();
        let told: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let known = &told["import"]["known"];
        let name = known["family"].as_str().unwrap();
        assert!(name.contains(family), "{file}: {name}");
        let asked = known["report"]["missing"].to_string();
        assert_eq!(missing.is_empty(), asked == "[]", "{asked}");
        assert!(missing.iter().all(|flag| asked.contains(flag)), "{asked}");
        assert!(told["values"].as_u64().unwrap() > 10_000);
    }
}

#[test]
fn keras_networks_are_named_imported_and_exported() {
    for (file, size, network) in [
        ("keras_C_model.weights", "16", "ddpm.py"),
        ("keras_Dt_model.weights", "16", "ddpm2.py"),
        ("keras_G_model.weights", "32", "ddpm-gau.py"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = ddpm();
        command.arg("inspect").arg(peer(file)).assert().stdout(
            contains("program: Keras-DDPM").and(contains(format!("of {network} (from kinds"))),
        );
        let imported = import(dir.path(), file, &["--image-size", size]);
        let weights = read_checkpoint(&imported).unwrap().section("");
        assert!(weights.len() > 20, "{file}");

        // Exported as a state_dict and as a file with settings, then imported again: the same bits.
        let config = dir.path().join("config.toml");
        let meta = read_checkpoint(&imported).unwrap().meta;
        std::fs::write(&config, meta.config.to_toml().unwrap()).unwrap();
        for name in ["plain.pt", "whole.safetensors"] {
            let out = dir.path().join(name);
            let mut command = ddpm();
            command.arg("export").arg(&imported).arg("--to").arg(&out);
            command.assert().success();
            let back = dir.path().join(format!("back-{name}.safetensors"));
            if name == "plain.pt" {
                let mut command = ddpm();
                command.arg("import").arg(&out).arg("--config").arg(&config);
                command.arg("--to").arg(&back).assert().success();
            } else {
                std::fs::rename(&out, &back).unwrap();
            }
            let again = read_checkpoint(&back).unwrap().section("");
            assert_eq!(weights.len(), again.len(), "{file} {name}");
            for ((key, tensor), (again_key, again)) in weights.iter().zip(&again) {
                assert_eq!((key, tensor), (again_key, again), "{file} {name}");
            }
        }
    }
}

#[test]
fn networks_that_know_classes_want_one() {
    let dir = tempfile::tempdir().unwrap();
    let hints = "--head-channels 16 --attention-order legacy --schedule linear --timesteps 4 \
                 --rescale-timesteps false --image-size 16";
    let hints: Vec<&str> = hints.split_whitespace().collect();
    let imported = import(dir.path(), "guided.pt", &hints);
    let sample = |class: &str| {
        let mut command = ddpm();
        command
            .arg("sample")
            .arg(&imported)
            .args(["-n", "1", "--class", class]);
        command.arg("--force").arg("--out");
        command.arg(dir.path().join("x.png")).assert()
    };
    sample("9").success();
    sample("10").failure().stderr(contains("0 to 9"));
    let mut command = ddpm();
    command.arg("train").arg("--init-from").arg(&imported);
    command
        .arg("--run")
        .arg(dir.path().join("run"))
        .args(["--builtin-images", "4"]);
    command.assert().failure().stderr(contains("class"));
}

#[test]
fn training_goes_on_from_an_imported_network() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut command = ddpm();
    command
        .arg("train")
        .arg("--init-from")
        .arg(peer("diffusers"));
    command.arg("--run").arg(&run);
    let flags = "--steps 2 --batch 2 --builtin-images 4 --sample-every 0 --save-every 1";
    command.args(flags.split_whitespace()).assert().success();

    let saved = read_checkpoint(&run.join("checkpoints/step-00000002.safetensors")).unwrap();
    let unet = peer("diffusers/unet/diffusion_pytorch_model.safetensors");
    let start = read_state_dict(&unet).unwrap();
    let weights = saved.section("model.");
    assert_eq!(weights.len(), start.len());
    // The warm-up's first steps change the weights a little.
    let (mut moved, mut whole) = (0.0, 0.0);
    for (name, before) in &start {
        let (_, after) = weights.iter().find(|(n, _)| n == name).unwrap();
        moved += f64::try_from((after - before).square().sum(tch::Kind::Double)).unwrap();
        whole += f64::try_from(before.square().sum(tch::Kind::Double)).unwrap();
    }
    assert!(moved > 0.0 && moved < 1e-4 * whole, "{moved} {whole}");

    let mut again = ddpm();
    again
        .arg("train")
        .arg("--run")
        .arg(&run)
        .arg("--init-from")
        .arg(peer("diffusers"));
    again.assert().failure().stderr(contains("begun already"));
    let mut other = ddpm();
    other
        .arg("train")
        .arg("--init-from")
        .arg(peer("diffusers"))
        .args(["--blocks", "3"]);
    other
        .arg("--run")
        .arg(dir.path().join("other"))
        .args(["--builtin-images", "4"]);
    other
        .assert()
        .failure()
        .stderr(contains("do not fit this run's network"));
}

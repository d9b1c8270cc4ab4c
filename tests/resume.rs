//! Resuming: N + M steps in one go, and N steps, stop, M steps give the same bits on CPU.

mod common;

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin_cmd;
use common::Golden;
use tch::Tensor;

/// Trains a tiny network on CPU in `run`, from its last step to `steps`.
fn train(run: &Path, steps: u32, more: &[&str]) {
    let steps = steps.to_string();
    let flags = "--size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 --timesteps 4 \
                 --builtin-images 10 --batch 4 --sample-images 2 --sample-every 2 --save-every 3 \
                 --flip --dropout 0.1 --device cpu --threads 1 --lr-schedule 0:1";
    cargo_bin_cmd!("ddpm")
        .args(["train", "--preset", "demo", "--steps", &steps, "--run"])
        .arg(run)
        .args(flags.split_whitespace())
        .args(more)
        .assert()
        .success();
}

fn checkpoint(run: &Path, step: u32) -> Golden {
    Golden::open_path(&run.join(format!("checkpoints/step-{step:08}.safetensors")))
}

fn metrics(run: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                v["step"].as_u64().unwrap(),
                v["loss"].as_f64().unwrap(),
                v["grad_norm"].as_f64().unwrap(),
            )
        })
        .collect()
}

fn assert_same_run(a: &Path, b: &Path, step: u32) {
    let tensors = |run: &Path| {
        let mut all: Vec<(String, Tensor)> = checkpoint(run, step).section("");
        all.sort_by(|x, y| x.0.cmp(&y.0));
        all
    };
    let (ours, theirs) = (tensors(a), tensors(b));
    assert!(ours.len() > 100 && ours.len() == theirs.len());
    for ((name, x), (_, y)) in ours.iter().zip(&theirs) {
        assert_eq!(x, y, "{name}");
    }
    assert_eq!(metrics(a), metrics(b));
    for which in ["raw", "ema"] {
        let png = |run: &Path| {
            std::fs::read(run.join(format!("samples/step-{step:08}-{which}.png"))).unwrap()
        };
        assert_eq!(png(a), png(b), "{which}");
    }
}

#[test]
fn stopping_between_checkpoints_changes_nothing() {
    for optimizer in ["lamb", "adam", "adamw"] {
        for accumulate in ["1", "2"] {
            let dir = tempfile::tempdir().unwrap();
            let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
            let more = ["--optimizer", optimizer, "--accumulate", accumulate];
            train(&once, 8, &more);
            train(&twice, 5, &more);
            train(&twice, 8, &more);
            assert_same_run(&once, &twice, 8);
        }
    }
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    train(&whole, 8, &[]);
    train(&killed, 5, &[]);
    // As if killed after step 5 without saving it: steps 4 and 5 are only in the metrics.
    std::fs::remove_file(killed.join("checkpoints/step-00000005.safetensors")).unwrap();
    std::fs::write(
        killed.join("checkpoints/latest"),
        "step-00000003.safetensors",
    )
    .unwrap();
    train(&killed, 8, &[]);
    assert_same_run(&whole, &killed, 8);
}

#[test]
fn a_lost_pointer_is_not_a_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, lost) = (dir.path().join("whole"), dir.path().join("lost"));
    train(&whole, 8, &[]);
    train(&lost, 5, &[]);
    std::fs::remove_file(lost.join("checkpoints/latest")).unwrap();
    train(&lost, 8, &[]);
    assert_same_run(&whole, &lost, 8);
}

#[test]
fn grids_that_a_kill_cut_off_are_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, 4, &[]);
    let grid = run.join("samples/step-00000004-ema.png");
    let before = std::fs::read(&grid).unwrap();
    std::fs::remove_file(&grid).unwrap();
    train(&run, 5, &[]);
    assert_eq!(std::fs::read(&grid).unwrap(), before);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, 12, &["--keep", "2"]);
    let mut names: Vec<_> = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "latest",
            "step-00000009.safetensors",
            "step-00000012.safetensors"
        ]
    );
}

#[test]
fn another_network_data_set_or_seed_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, 2, &[]);
    for (flags, named) in [
        (["--seed", "7"], "train.seed: 7 instead of 0"),
        (["--blocks", "2"], "model.blocks: 2 instead of 1"),
        (["--draws", "batch"], "train.draws: "),
        (
            ["--builtin-images", "11"],
            "data.builtin_images: 11 instead of 10",
        ),
    ] {
        cargo_bin_cmd!("ddpm")
            .args(["train", "--run"])
            .arg(&run)
            .args(flags)
            .assert()
            .failure()
            .stderr(predicates::str::contains(named));
    }
    // Settings that may change do so with a message; no other flag is needed.
    cargo_bin_cmd!("ddpm")
        .args([
            "train",
            "--steps",
            "3",
            "--lr",
            "0.001",
            "--sample-every",
            "0",
            "--run",
        ])
        .arg(&run)
        .assert()
        .success()
        .stderr(predicates::str::contains(
            "changed from here on: optim.lr: 0.001 instead of 0.01",
        ));
    checkpoint(&run, 3);
    // Resuming to fewer steps than done is an error.
    cargo_bin_cmd!("ddpm")
        .args(["train", "--steps", "2", "--run"])
        .arg(&run)
        .assert()
        .failure()
        .stderr(predicates::str::contains("has done 3 steps"));
}

/// Ctrl-C: finish the step, save, exit 130.
#[test]
fn blocks_may_be_checkpointed_from_any_step_on() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, again) = (dir.path().join("kept"), dir.path().join("again"));
    let flags = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 --timesteps 4 \
                 --builtin-images 10 --batch 4 --sample-every 0";
    let flags: Vec<_> = flags.split_whitespace().collect();
    go_on(&kept, "4", &flags);
    go_on(&again, "2", &flags);
    go_on(&again, "4", &["--checkpoint-blocks"]);
    let config = std::fs::read_to_string(again.join("config.toml")).unwrap();
    assert!(config.contains("checkpoint_blocks = true"), "{config}");
    let tensors = |run: &Path| {
        let mut all: Vec<(String, Tensor)> = checkpoint(run, 4).section("");
        all.sort_by(|x, y| x.0.cmp(&y.0));
        all
    };
    assert!(tensors(&kept) == tensors(&again));
}

#[test]
fn a_signal_saves_and_exits_with_its_number() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("ddpm"))
            .args([
                "train",
                "--preset",
                "demo",
                "--sample-every",
                "0",
                "--device",
                "cpu",
                "--run",
            ])
            .arg(&run)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let metrics_path = run.join("metrics.jsonl");
        let steps_written =
            || std::fs::read_to_string(&metrics_path).map_or(0, |t| t.lines().count());
        while steps_written() < 2 {
            assert!(
                child.try_wait().unwrap().is_none(),
                "ended before it was signalled"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let latest = std::fs::read_to_string(run.join("checkpoints/latest")).unwrap();
        let last = metrics(&run).last().unwrap().0;
        assert_eq!(latest, format!("step-{last:08}.safetensors"));
    }
}

#[test]
fn every_network_goes_on_to_the_same_bytes() {
    for network in [
        "unet-attention --base-width 32 --multipliers 1,2 --attention 8 --dropout 0.1",
        "unet-concat --base-width 16 --multipliers 1,2 --norm-groups 4 --dropout 0.1",
        "gau --base-width 32 --layers 2 --patch 4 --dropout 0.1",
        "lucidrains --base-width 16 --multipliers 1,2",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
        let begin = |run: &Path, steps: &str| {
            let flags = "--preset demo --size 16 --timesteps 4 --builtin-images 10 --batch 4 --accumulate 2 --flip \
                         --sample-images 2 --sample-every 4 --save-every 3 --lr-schedule 0:1 --model";
            let all = flags.split_whitespace().chain(network.split(' '));
            go_on(run, steps, &all.collect::<Vec<_>>());
        };
        begin(&once, "8");
        begin(&twice, "5");
        go_on(&twice, "8", &[]);
        for file in [
            "checkpoints/step-00000008.safetensors",
            "samples/step-00000008-raw.png",
            "samples/step-00000008-ema.png",
        ] {
            let bytes = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert!(bytes(&once) == bytes(&twice), "{network}: {file}");
        }
        assert_eq!(metrics(&once), metrics(&twice));
    }
}

fn go_on(run: &Path, steps: &str, flags: &[&str]) {
    cargo_bin_cmd!("ddpm")
        .args([
            "train",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--steps",
            steps,
        ])
        .args(flags)
        .arg("--run")
        .arg(run)
        .assert()
        .success();
}

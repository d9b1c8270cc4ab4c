//! Parts of a run that are missing, edited, moved, or something else than a file.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::tiny::{assert_same_end, checkpoint, ddpm, metrics, stderr, train, train_to};

/// Goes on with a run, with no flag but these.
fn go_on(run: &Path, more: &[&str]) -> Command {
    let mut command = ddpm();
    command.args("train --device cpu --threads 1 --run".split(' '));
    command.arg(run).args(more);
    command
}

/// What a command says that must fail without a trace of training.
fn refused(mut command: Command) -> String {
    let out = command.output().unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(!said.contains("saved at"), "{said}");
    said
}

fn done(mut command: Command) -> String {
    let out = command.output().unwrap();
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    said
}

fn assert_says(said: &str, wanted: &str) {
    assert!(said.contains(wanted), "{wanted:?} is not in:\n{said}");
}

/// Names and sizes of all files of a run.
fn files(run: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for part in ["", "checkpoints", "samples", "incidents"] {
        for entry in fs::read_dir(run.join(part)).into_iter().flatten().flatten() {
            let name = format!("{part}/{}", entry.file_name().display());
            // The lock names its last holder.
            if entry.path().is_file() && name != "/lock" {
                found.push((name, entry.metadata().unwrap().len()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn missing_settings_are_those_of_the_newest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, hurt) = (dir.path().join("whole"), dir.path().join("hurt"));
    train_to(&whole, 6, &[]);
    train_to(&hurt, 4, &[]);
    let before = fs::read_to_string(hurt.join("config.toml")).unwrap();
    fs::remove_file(hurt.join("config.toml")).unwrap();

    let said = done(go_on(&hurt, &["--steps", "6"]));
    let wanted = format!(
        "warning: {} has no config.toml; its settings are those of its newest checkpoint, and the file is written again",
        hurt.display()
    );
    assert_says(&said, &wanted);
    assert_says(&said, "at step 4");
    assert_same_end(&whole, &hurt, 6);
    let after = fs::read_to_string(hurt.join("config.toml")).unwrap();
    assert_eq!(after, before.replace("\nsteps = 4\n", "\nsteps = 6\n"));

    // An empty file would be the settings of the demo.
    fs::write(hurt.join("config.toml"), "").unwrap();
    let said = refused(go_on(&hurt, &[]));
    assert_says(&said, "it is empty");
    assert_says(
        &said,
        "remove it to go on with the settings of the newest checkpoint",
    );
}

#[test]
fn a_run_without_its_checkpoints_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &["--sample-every", "6"]);
    let (checkpoints, away) = (run.join("checkpoints"), dir.path().join("away"));
    fs::rename(&checkpoints, &away).unwrap();
    let before = files(&run);

    let said = refused(go_on(&run, &["--steps", "8"]));
    let wanted = format!(
        "{} is missing, but metrics.jsonl has 6 steps, with a checkpoint every 2: put the checkpoints back, or choose another --run; to begin this run again from step 0, move metrics.jsonl away",
        checkpoints.display()
    );
    assert_says(&said, &wanted);
    fs::create_dir(&checkpoints).unwrap();
    let said = refused(go_on(&run, &["--steps", "8"]));
    assert_says(&said, "checkpoints is empty, but metrics.jsonl has 6 steps");
    fs::write(checkpoints.join("latest"), "step-00000006.safetensors").unwrap();
    let said = refused(go_on(&run, &["--steps", "8"]));
    assert_says(&said, "checkpoints is empty, but metrics.jsonl has 6 steps");
    fs::remove_dir_all(&checkpoints).unwrap();

    // Without its settings too, and with those of a new run.
    let config = fs::read(run.join("config.toml")).unwrap();
    fs::remove_file(run.join("config.toml")).unwrap();
    let lost = format!(
        "{} holds a run without its config.toml and its checkpoints: ",
        run.display()
    );
    let said = refused(train(&run, 8, &[]));
    let way_on = "; put them back, or choose another --run";
    assert_says(&said, &format!("{lost}metrics.jsonl has 6 steps{way_on}"));
    let lines = fs::read(run.join("metrics.jsonl")).unwrap();
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    let said = refused(train(&run, 8, &[]));
    let grids = run.join("samples");
    assert_says(
        &said,
        &format!("{lost}{} has 2 files{way_on}", grids.display()),
    );

    fs::write(run.join("config.toml"), config).unwrap();
    fs::write(run.join("metrics.jsonl"), lines).unwrap();
    assert_eq!(files(&run), before);
    fs::rename(&away, &checkpoints).unwrap();
    train_to(&run, 8, &[]);
}

#[test]
fn steps_before_the_first_checkpoint_are_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, early) = (dir.path().join("whole"), dir.path().join("early"));
    train_to(&whole, 6, &[]);
    train_to(&early, 6, &[]);
    // As a kill leaves it between the second step and the end of the first save.
    fs::remove_dir_all(early.join("checkpoints")).unwrap();
    fs::create_dir(early.join("checkpoints")).unwrap();
    let lines = fs::read_to_string(early.join("metrics.jsonl")).unwrap();
    let two: Vec<&str> = lines.split_inclusive('\n').take(2).collect();
    fs::write(early.join("metrics.jsonl"), two.concat()).unwrap();

    let said = train_to(&early, 6, &[]);
    assert_says(
        &said,
        "steps 1 to 2 were not saved before the run ended, and are done again",
    );
    assert_same_end(&whole, &early, 6);
}

#[test]
fn metrics_that_outlive_their_checkpoints_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, hurt) = (dir.path().join("whole"), dir.path().join("hurt"));
    train_to(&whole, 14, &["--keep", "9"]);
    train_to(&hurt, 12, &["--keep", "9"]);
    let lines = fs::read_to_string(hurt.join("metrics.jsonl")).unwrap();
    for step in [6, 8, 10, 12] {
        fs::remove_file(checkpoint(&hurt, step)).unwrap();
    }
    fs::remove_file(hurt.join("checkpoints/latest")).unwrap();

    let said = train_to(&hurt, 14, &[]);
    let wanted = format!(
        "warning: {} goes on to step 12, but the newest checkpoint that can be used is of step 4; the lines after it are set aside in metrics-after-step-00000004.jsonl",
        hurt.join("metrics.jsonl").display()
    );
    assert_says(&said, &wanted);
    let aside = fs::read_to_string(hurt.join("metrics-after-step-00000004.jsonl")).unwrap();
    let rest: Vec<&str> = lines.split_inclusive('\n').skip(4).collect();
    assert_eq!(aside, rest.concat());
    assert_same_end(&whole, &hurt, 14);
}

#[test]
fn a_bad_line_of_metrics_costs_that_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &[]);
    let path = run.join("metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = lines.split_inclusive('\n').collect();
    lines[2] = "{\"step\":3,\"loss\":12,,}\n";
    fs::write(&path, lines.concat() + "{\"step\":7,\"lo").unwrap();

    let said = train_to(&run, 8, &[]);
    let wanted = format!(
        "warning: 1 line of {} cannot be read (number 3); it is set aside in metrics-bad.jsonl",
        path.display()
    );
    assert_says(&said, &wanted);
    let steps: Vec<u64> = metrics(&run).iter().map(|m| m.0).collect();
    assert_eq!(steps, [1, 2, 4, 5, 6, 7, 8]);
    let bad = fs::read_to_string(run.join("metrics-bad.jsonl")).unwrap();
    assert_eq!(bad, lines[2]);
}

#[test]
fn edited_settings_count_as_flags_do() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    let path = run.join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let before = files(&run);
    for (is, edited, named) in [
        ("seed = 0", "seed = 9", "train.seed: 9 instead of 0"),
        (
            "base_width = 8",
            "base_width = 16",
            "model.base_width: 16 instead of 8",
        ),
    ] {
        assert_eq!(config.matches(is).count(), 1, "{config}");
        fs::write(&path, config.replace(is, edited)).unwrap();
        let said = refused(go_on(&run, &["--steps", "6"]));
        let wanted = format!(
            "config.toml and the newest checkpoint, step-00000004.safetensors, differ in settings that cannot change: put the checkpoint's values back, or remove config.toml to go on with all of its settings:\n  {named}"
        );
        assert_says(&said, &wanted);
    }
    fs::write(&path, &config).unwrap();
    assert_eq!(files(&run), before);

    assert_eq!(config.matches("\nsteps = 4\n").count(), 1, "{config}");
    fs::write(&path, config.replace("\nsteps = 4\n", "\nsteps = 6\n")).unwrap();
    let said = done(go_on(&run, &[]));
    assert_says(&said, "changed from here on: train.steps: 6 instead of 4");
    assert!(checkpoint(&run, 6).exists());
    // The first value was of the run's own newest checkpoint, and so is the next.
    assert!(!train_to(&run, 6, &[]).contains("changed from here on"));
}

#[test]
fn a_misspelt_run_is_not_begun_as_the_demo() {
    let dir = tempfile::tempdir().unwrap();
    let here = |args: &str| {
        let mut command = ddpm();
        command.current_dir(dir.path()).args(args.split(' '));
        command
    };
    let said = refused(here("train --run flowers"));
    assert_says(
        &said,
        "error: there is no run in flowers; to begin one, name its images with --data DIR, or its settings with --preset",
    );
    train_to(&dir.path().join("runs/flowers"), 2, &[]);
    for (name, flags) in [
        ("runs/flwoers", ""),
        ("flowers", ""),
        ("x/flower", " --steps 9"),
    ] {
        let said = refused(here(&format!("train --run {name}{flags}")));
        let wanted = format!(
            "error: there is no run in {name}; the run with the nearest name is runs/flowers; to begin one, name"
        );
        assert_says(&said, &wanted);
    }
    let said = refused(here("train --run runs/flwoers --resume --preset demo"));
    assert_says(
        &said,
        "no run in runs/flwoers; the run with the nearest name is runs/flowers; leave out --resume to begin one",
    );
    let said = refused(here(
        "train --run runs/flowers/checkpoints/step-00000002.safetensors",
    ));
    assert_says(
        &said,
        "step-00000002.safetensors is not a folder, and a run is one; name that with --run",
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 1);

    let flags = "--device cpu --threads 1";
    let said = done(here(&format!(
        "train --run runs/flowers --resume --steps 4 {flags}"
    )));
    assert_says(&said, "resuming runs/flowers at step 2");
    let said = done(here(&format!("train --run latest --steps 6 {flags}")));
    assert_says(&said, "resuming runs/flowers at step 4");
    assert_says(&done(here("inspect latest/")), "latest: runs/flowers");
}

#[test]
fn latest_is_never_a_guess() {
    let dir = tempfile::tempdir().unwrap();
    let latest = || {
        let mut command = ddpm();
        command.current_dir(dir.path());
        let out = command.args(["train", "--run", "latest"]).output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        stderr(&out)
    };
    assert_says(&latest(), "there is no run in runs/");
    fs::create_dir_all(dir.path().join("runs/a")).unwrap();
    fs::write(dir.path().join("runs/a/config.toml"), "x").unwrap();
    fs::create_dir(dir.path().join("latest")).unwrap();
    assert_says(
        &latest(),
        "it means the newest run, runs/a, and something here has that name too: say runs/a or ./latest",
    );
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Each would be waited for, for ever.
#[test]
fn a_fifo_in_the_place_of_a_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    let names = [
        "config.toml",
        "metrics.jsonl",
        "lock",
        "checkpoints/latest",
        "checkpoints",
    ];
    for name in names {
        let (path, away) = (run.join(name), dir.path().join("away"));
        fs::rename(&path, &away).unwrap();
        fifo(&path);
        let said = refused(go_on(&run, &["--steps", "6"]));
        let wanted = match name {
            "checkpoints" => "is not a folder, and the checkpoints of a run are expected there",
            _ => "it is a FIFO, and a regular file is expected there",
        };
        assert_says(&said, wanted);
        assert_says(&said, path.to_str().unwrap());
        fs::remove_file(&path).unwrap();
        if name == "metrics.jsonl" {
            for (other, kind) in [("checkpoints", "a folder"), ("/dev/zero", "a device")] {
                std::os::unix::fs::symlink(other, &path).unwrap();
                let said = refused(go_on(&run, &["--steps", "6"]));
                let wanted = format!("it is {kind}, and a regular file is expected there");
                assert_says(&said, &wanted);
                fs::remove_file(&path).unwrap();
            }
        }
        fs::rename(&away, &path).unwrap();
    }
    // A checkpoint is passed over for the one before, as a damaged one is.
    fs::remove_file(checkpoint(&run, 4)).unwrap();
    fifo(&checkpoint(&run, 4));
    let said = done(go_on(&run, &["--steps", "4"]));
    assert_says(
        &said,
        "step-00000004.safetensors cannot be used: cannot read",
    );
    assert_says(&said, "at step 2");
}

#[test]
fn an_endless_file_is_read_up_to_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    // 1 TiB without a byte on the disk.
    let hole = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    let config = fs::read(run.join("config.toml")).unwrap();
    hole(&run.join("config.toml"));
    let said = refused(go_on(&run, &["--steps", "6"]));
    assert_says(&said, "config.toml: it is longer than 16777216 bytes");
    fs::write(run.join("config.toml"), config).unwrap();
    hole(&run.join("checkpoints/latest"));
    hole(&run.join("lock"));
    let said = done(go_on(&run, &["--steps", "6"]));
    assert_says(&said, "at step 4");
}

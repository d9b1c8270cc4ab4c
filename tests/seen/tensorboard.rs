//! What TensorBoard's own reader finds in a run's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::repo;
use crate::tiny::{arguments, checkpoint, stderr, train_to};

/// The Python with TensorBoard; `None`, with a message, where it is not.
fn python() -> Option<PathBuf> {
    let python = repo(".venv/bin/python");
    let usable = Command::new(&python)
        .args(["-c", "import tensorboard, PIL"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !usable {
        eprintln!("skipped: no TensorBoard in .venv; run ./scripts/setup.sh");
    }
    usable.then_some(python)
}

fn read(python: &Path, arguments: &[&str]) -> Value {
    let out = Command::new(python)
        .arg(repo("tests/seen/read_events.py"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn read_run(python: &Path, run: &Path) -> Value {
    read(python, &[run.to_str().unwrap()])
}

/// The run's files of events, in the order in which they were begun.
fn events(run: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("events.out.tfevents.")
    });
    found.sort();
    found
}

/// Step and value of each point of a curve.
fn curve(found: &Value, tag: &str) -> Vec<(u64, f64)> {
    let points = found["scalars"][tag].as_array();
    let points = points.unwrap_or_else(|| panic!("no {tag} in {found}"));
    points
        .iter()
        .map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap()))
        .collect()
}

/// The lines of metrics.jsonl, of steps and of evaluations.
fn lines(run: &Path) -> (Vec<Value>, Vec<Value>) {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.partition(|line| line.get("loss").is_some())
}

/// Every curve of steps has the numbers of metrics.jsonl, in the precision of the file, each step once.
fn assert_as_metrics(found: &Value, run: &Path) {
    let (steps, _) = lines(run);
    for (tag, key) in [
        ("loss/raw", "loss"),
        ("train/grad_norm", "grad_norm"),
        ("train/lr", "lr"),
        ("train/images_per_sec", "images_per_sec"),
    ] {
        let number = |line: &Value| {
            (
                line["step"].as_u64().unwrap(),
                f64::from(line[key].as_f64().unwrap() as f32),
            )
        };
        let wanted: Vec<(u64, f64)> = steps.iter().map(number).collect();
        assert_eq!(curve(found, tag), wanted, "{tag}");
    }
    for quarter in 0..4 {
        let mean = |line: &Value| {
            let parts = line["loss_by_t"].as_array().unwrap();
            let known = parts[3 * quarter..3 * quarter + 3]
                .iter()
                .filter_map(Value::as_f64);
            let known: Vec<f64> = known.collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            (!known.is_empty()).then(|| (line["step"].as_u64().unwrap(), f64::from(mean as f32)))
        };
        let wanted: Vec<(u64, f64)> = steps.iter().filter_map(mean).collect();
        assert_eq!(curve(found, &format!("loss_by_t/q{}", quarter + 1)), wanted);
    }
    // The moving average over all steps of the run, whatever starts it had; f32 rounds it once.
    let (mut sum, mut weight) = (0.0, 0.0);
    let smoothed: BTreeMap<u64, f64> = curve(found, "loss/smoothed").into_iter().collect();
    assert_eq!(smoothed.len(), steps.len());
    for line in &steps {
        sum = 0.99 * sum + 0.01 * line["loss"].as_f64().unwrap();
        weight = 0.99 * weight + 0.01;
        let (wanted, found) = (sum / weight, smoothed[&line["step"].as_u64().unwrap()]);
        assert!(
            (found - wanted).abs() <= 1e-6 * wanted,
            "{found} instead of {wanted}"
        );
    }
}

#[test]
fn curves_grids_and_settings_are_those_of_the_run() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let more = "--sample-every 3 --hold-out 3 --evaluate-every 3 --evaluate-images 4";
    let more: Vec<&str> = more.split(' ').collect();
    train_to(&run, 6, &more);
    let found = read_run(&python, &run);
    assert_as_metrics(&found, &run);
    let (_, evaluations) = lines(&run);
    let number = |line: &Value| {
        (
            line["step"].as_u64().unwrap(),
            f64::from(line["evaluation"]["loss"].as_f64().unwrap() as f32),
        )
    };
    let wanted: Vec<(u64, f64)> = evaluations.iter().map(number).collect();
    assert_eq!(wanted.len(), 2);
    assert_eq!(curve(&found, "evaluation/loss"), wanted);
    for tag in ["grids/raw", "grids/ema"] {
        assert_eq!(
            found["images"][tag],
            serde_json::json!([[3, true], [6, true]]),
            "{tag}"
        );
    }
    let memory = curve(&found, "memory/peak_resident_bytes");
    assert!(memory.iter().all(|(_, bytes)| *bytes > 1e6), "{memory:?}");
    assert!((1..=2).contains(&memory.len()), "{memory:?}");
    let settings = std::fs::read_to_string(run.join("config.toml")).unwrap();
    let block: Vec<String> = settings
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    assert_eq!(
        found["texts"],
        serde_json::json!({"settings": [[0, block.concat()]]})
    );
    // A save each two steps, and of the first evaluation, the best so far; the bars of the last are those of its steps.
    let bars = found["histograms"]["loss_over_t"].as_array().unwrap();
    let at: Vec<u64> = bars.iter().map(|bars| bars[0].as_u64().unwrap()).collect();
    assert_eq!(at, [2, 3, 4, 6]);
    let (steps, _) = lines(&run);
    let height = |part: usize| {
        let of_part = steps[4..]
            .iter()
            .filter_map(|line| line["loss_by_t"][part].as_f64());
        let of_part: Vec<f64> = of_part.collect();
        of_part.iter().sum::<f64>() / of_part.len().max(1) as f64
    };
    let heights: Vec<f64> = (0..12).map(height).collect();
    assert_eq!(bars[3][2], serde_json::json!(heights));
    assert_eq!(bars[3][1][11], 4.0, "there are four time steps");
    // Each kind is on its own page.
    assert_eq!(
        found["plugins"]["images"],
        serde_json::json!(["grids/ema", "grids/raw"])
    );
    assert_eq!(found["plugins"]["text"], serde_json::json!(["settings"]));
    let scalars = found["plugins"]["scalars"].as_array().unwrap();
    assert!(
        scalars.contains(&"evaluation/loss".into()) && scalars.contains(&"loss/raw".into()),
        "{scalars:?}"
    );
}

#[test]
fn what_a_killed_start_left_and_did_not_save_is_dropped() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &[]);
    // As if killed after step 6 without having saved it, in the middle of a record.
    std::fs::remove_file(checkpoint(&run, 6)).unwrap();
    std::fs::write(run.join("checkpoints/latest"), "step-00000004.safetensors").unwrap();
    let first = events(&run).remove(0);
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() - 3]).unwrap();
    let torn = read(&python, &["--records", first.to_str().unwrap()]);
    assert!(
        torn["wrong"].as_str().unwrap().contains("truncated"),
        "{torn}"
    );
    // It does other steps 5 and 6 than before.
    train_to(&run, 8, &["--lr", "0.02"]);
    assert_eq!(events(&run).len(), 2);
    let found = read_run(&python, &run);
    assert_as_metrics(&found, &run);
    // A start that has nothing to do writes nothing, and one that is told to does not.
    train_to(&run, 8, &[]);
    train_to(&run, 9, &["--tensorboard", "false"]);
    assert_eq!(events(&run).len(), 2);
    // After it the curves go on, with a gap.
    train_to(&run, 10, &[]);
    let found = read_run(&python, &run);
    let steps: Vec<u64> = curve(&found, "loss/raw")
        .iter()
        .map(|(step, _)| *step)
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8, 10]);
}

#[test]
fn steps_that_a_rollback_leaves_behind_are_dropped() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // As in `rolling_back_lowers_the_rate_until_it_gets_past`.
    let more = "--on-bad-step rollback --lr 0.1 --save-every 50 --sample-every 100";
    let more: Vec<&str> = more.split(' ').collect();
    let said = train_to(&run, 170, &more);
    assert!(said.contains("back to step 100"), "{said}");
    assert_eq!(events(&run).len(), 1);
    let found = read_run(&python, &run);
    assert_as_metrics(&found, &run);
    assert_eq!(
        found["images"]["grids/ema"],
        serde_json::json!([[100, true], [170, true]])
    );
}

#[test]
fn a_record_that_is_damaged_is_refused() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &[]);
    let path = events(&run).remove(0);
    let sound = read(&python, &["--records", path.to_str().unwrap()]);
    assert_eq!(sound["wrong"], Value::Null);
    assert!(sound["records"].as_u64().unwrap() > 6, "{sound}");
    let mut bytes = std::fs::read(&path).unwrap();
    // In the data of the last record.
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let damaged = read(&python, &["--records", path.to_str().unwrap()]);
    assert!(
        damaged["wrong"]
            .as_str()
            .unwrap()
            .contains("failed event crc32 check"),
        "{damaged}"
    );
    assert_eq!(
        damaged["records"].as_u64(),
        Some(sound["records"].as_u64().unwrap() - 1)
    );
}

#[test]
fn events_that_cannot_be_written_end_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Files of at most 100 KiB, which is enough for all but the events of so many steps.
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]);
    command.arg(assert_cmd::cargo::cargo_bin!("ddpm"));
    command.args(arguments(&run, 500, &["--save-every", "1000"]));
    let out = command.output().unwrap();
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    assert_eq!(
        said.matches("warning: cannot write events for TensorBoard (")
            .count(),
        1,
        "{said}"
    );
    assert!(
        said.contains(" events for TensorBoard are left out"),
        "{said}"
    );
    assert!(checkpoint(&run, 500).exists());
    let Some(python) = python() else { return };
    let path = events(&run).remove(0);
    let records = read(&python, &["--records", path.to_str().unwrap()]);
    assert_eq!(records["wrong"], Value::Null);
    assert!(records["records"].as_u64().unwrap() > 50, "{records}");
}

//! Disks that are full or gone.

use std::path::Path;
use std::process::Command;

use super::tiny::{
    Watched, arguments, assert_same_end, checkpoint, leftovers, metrics, stderr, train, train_to,
    wait_until,
};

/// The program with a limit on the size of each file that it writes: more bytes are an error, as on a full disk.
fn limited(run: &Path, steps: u64, kib: u64, more: &[&str]) -> Command {
    let mut command = Command::new("bash");
    let limited = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    command.args([
        "-c",
        &limited,
        assert_cmd::cargo::cargo_bin!("ddpm").to_str().unwrap(),
    ]);
    command.args(arguments(run, steps, more));
    command
}

#[test]
fn a_full_disk_costs_no_checkpoint_and_no_whole_line() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, starved) = (dir.path().join("whole"), dir.path().join("starved"));
    train_to(&whole, 40, &[]);
    train_to(&starved, 6, &[]);
    let good = std::fs::read(checkpoint(&starved, 6)).unwrap();

    // Too little room for a checkpoint of 75 KB, and for more than some lines of metrics.
    let out = limited(&starved, 30, 2, &[]).output().unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "warning: step 8 is not saved; earlier checkpoints are untouched: a checkpoint takes"
        ),
        "{said}"
    );
    assert!(said.contains("free: "), "{said}");
    assert!(
        said.contains("warning: step 28 is not saved"),
        "it tries again: {said}"
    );
    assert!(said.contains("error: step 30 is not saved"), "{said}");
    assert!(
        said.contains("metrics.jsonl") && said.contains("written later"),
        "{said}"
    );
    assert_eq!(std::fs::read(checkpoint(&starved, 6)).unwrap(), good);
    assert_eq!(leftovers(&starved).len(), 0);
    let last = metrics(&starved).last().unwrap().0;
    assert!((6..30).contains(&last), "{last}");

    // With enough room again, the run ends as it would have without the limit.
    train_to(&starved, 40, &[]);
    assert_same_end(&whole, &starved, 40);
}

#[test]
fn strict_ends_at_the_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let out = limited(&run, 30, 20, &["--strict"]).output().unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("error: step 2 is not saved"), "{said}");
}

#[test]
fn a_folder_that_vanishes_and_comes_back_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (run, away) = (dir.path().join("run"), dir.path().join("away"));
    let mut child = Watched::spawn(train(&run, 1_000_000, &[]));
    wait_until("a checkpoint", || run.join("checkpoints/latest").exists());
    std::fs::rename(&run, &away).unwrap();
    child.wait_for("is not saved; earlier checkpoints are untouched");
    std::fs::rename(&away, &run).unwrap();
    let latest = || std::fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let before = latest();
    wait_until("the next checkpoint", || latest() != before);
    child.signal("INT");
    assert_eq!(child.code(), Some(130));
    let last = metrics(&run).last().unwrap().0;
    assert!(checkpoint(&run, last).exists());
}

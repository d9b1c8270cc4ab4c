//! Training where the system gives a process little memory.
//!
//! A test program of its own, which computes nothing: the limit is counted from what it has mapped itself.

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// Runs `ddpm train` with the demo's network at 128 px and a batch that does not fit into `room_mib` beyond the memory
/// that a process with libtorch maps.
fn train(run: &std::path::Path, room_mib: u64, flags: &str) -> Command {
    // So that this process has libtorch, and no more of it than that.
    assert!(tch::get_num_threads() > 0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mapped = status.lines().find_map(|l| l.strip_prefix("VmSize:"));
    let mapped = mapped.unwrap().trim().trim_end_matches("kB").trim();
    let limit_kib = mapped.parse::<u64>().unwrap() + 1024 * room_mib;
    let program = cargo_bin_cmd!("ddpm");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -v {limit_kib}; exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .args("train --preset demo --size 128 --steps 1 --sample-every 0".split(' '))
        .args("--builtin-images 4 --device cpu --threads 1 --batch".split(' '))
        .args(flags.split(' '))
        .arg("--run")
        .arg(run);
    shell
}

#[test]
fn memory_that_is_not_there_is_refused_and_auto_takes_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("refused");
    let said = |flags: &str| {
        let failed = train(&run, 700, flags).assert().failure();
        String::from_utf8_lossy(&failed.get_output().stderr).into_owned()
    };
    let refused = said("64");
    for part in [
        "error: a microbatch of 64 images needs ",
        " are free: the system would end this program; ",
        "should fit: --accumulate ",
        "or --batch auto",
        "or --checkpoint-blocks",
        "with --force",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(!run.exists(), "refused before anything is written");
    let forced = said("64 --force");
    for part in [
        "warning: a microbatch of 64 images needs ",
        "error: out of memory: ",
        "batch 64 in microbatches of 64",
        "should fit: --accumulate ",
        "or --batch auto",
    ] {
        assert!(forced.contains(part), "{part}: {forced}");
    }

    let file = dir.path().join("batch.toml");
    std::fs::write(&file, "[train]\nbatch = 32\n").unwrap();
    let run = dir.path().join("run");
    let flags = format!("auto --config {}", file.display());
    train(&run, 700, &flags)
        .assert()
        .success()
        .stderr(contains("--batch auto: batch 32 in ").and(contains("1 step done")));
    // The batch is unchanged, but split into parts.
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    let value = |key: &str| -> i64 {
        let line = config.lines().find_map(|l| l.strip_prefix(key));
        line.unwrap().parse().unwrap()
    };
    assert_eq!(value("batch = "), 32);
    let parts = value("accumulate = ");
    assert!((2..=16).contains(&parts), "{parts}");
}

#[test]
fn batch_auto_excludes_accumulate() {
    cargo_bin_cmd!("ddpm")
        .args("train --batch auto --accumulate 2 --run /nowhere/at/all".split(' '))
        .assert()
        .failure()
        .stderr(contains("leave one of them out"));
}

use std::path::Path;
use std::time::{Duration, Instant};

use ddpm::checkpoint::{read_checkpoint, resolve};

use super::tiny::{
    Watched, assert_same_end, checkpoint, ddpm, leftovers, metrics, stderr, train, train_to,
    wait_until,
};

/// Steps of the checkpoint that `latest` names; 0 before the first.
fn named_step(run: &Path) -> u64 {
    let name = std::fs::read_to_string(run.join("checkpoints/latest")).unwrap_or_default();
    let digits = name
        .trim_start_matches("step-")
        .trim_end_matches(".safetensors");
    digits.parse().unwrap_or(0)
}

/// The same for a run that is not being trained: the checkpoint must be readable, and of the step in its name.
fn newest_step(run: &Path) -> u64 {
    let named = named_step(run);
    if named > 0 {
        assert_eq!(
            read_checkpoint(&resolve(run).unwrap()).unwrap().meta.step,
            named
        );
    }
    named
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    const STEPS: u64 = 400;
    const KILLS: u64 = 10;
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    train_to(&whole, STEPS, &[]);
    let mut cut_writes = 0;
    for i in 0..KILLS {
        let before = newest_step(&killed);
        let mut child = Watched::spawn(train(&killed, STEPS, &[]));
        wait_until("progress", || {
            named_step(&killed) > before || before == STEPS
        });
        // Times that differ from kill to kill and from run to run.
        std::thread::sleep(Duration::from_micros(i * 1370 % 9000));
        child.child.kill().unwrap();
        child.code();
        cut_writes += leftovers(&killed).len();
        let after = newest_step(&killed);
        assert!(
            after > before || after == STEPS,
            "kill {i}: {before}, then {after}"
        );
    }
    eprintln!("{KILLS} kills, {cut_writes} files cut off");
    train_to(&killed, STEPS, &[]);
    assert_eq!(leftovers(&killed).len(), 0);
    assert_same_end(&whole, &killed, STEPS);
}

#[test]
fn usr1_saves_and_samples_now() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = Watched::spawn(train(&run, 1_000_000, &["--save-every", "1000000"]));
    wait_until("steps", || {
        run.join("metrics.jsonl").exists() && !metrics_text(&run).is_empty()
    });
    child.signal("USR1");
    wait_until("the checkpoint", || named_step(&run) > 0);
    let step = named_step(&run);
    wait_until("the grid", || {
        run.join(format!("samples/step-{step:08}-ema.png")).exists()
    });
    child.signal("TERM");
    child.wait_for("resume with: ddpm train --run");
    assert_eq!(child.code(), Some(143));
    assert!(newest_step(&run) > step);
    assert_eq!(metrics(&run).last().unwrap().0, newest_step(&run));
}

fn metrics_text(run: &Path) -> String {
    std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default()
}

#[test]
fn a_time_limit_saves_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = Watched::spawn(train(&run, 1_000_000, &["--time-limit", "1s"]));
    child.wait_for("resume with: ddpm train --run");
    assert_eq!(child.code(), Some(124));
    let step = newest_step(&run);
    assert_eq!(metrics(&run).last().unwrap().0, step);
    train_to(&run, step + 1, &[]);
}

#[test]
fn a_second_signal_exits_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // A step of more than half a minute.
    let mut command = ddpm();
    command.args([
        "train",
        "--preset",
        "demo",
        "--size",
        "64",
        "--batch",
        "512",
        "--builtin-images",
        "4",
    ]);
    command
        .args([
            "--device",
            "cpu",
            "--threads",
            "1",
            "--sample-every",
            "0",
            "--run",
        ])
        .arg(&run);
    let mut child = Watched::spawn(command);
    child.wait_for("steps to go");
    std::thread::sleep(Duration::from_millis(200));
    child.signal("INT");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        child.child.try_wait().unwrap().is_none(),
        "the first finishes the step"
    );
    let started = Instant::now();
    child.signal("INT");
    assert_eq!(child.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_process_per_run_and_a_dead_one_holds_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut first = Watched::spawn(train(&run, 1_000_000, &[]));
    wait_until("a checkpoint", || run.join("checkpoints/latest").exists());
    let second = train(&run, 1_000_000, &[]).output().unwrap();
    let holder = format!("process {}", first.child.id());
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&holder), "{}", stderr(&second));
    first.child.kill().unwrap();
    first.code();
    let done = newest_step(&run);
    train_to(&run, done + 3, &[]);
    assert!(checkpoint(&run, done + 3).exists());
}

#[test]
fn a_grid_that_takes_too_long_is_left_out_and_training_continues() {
    for network in [
        "--model unet",
        "--model unet-attention --learned-variance --sigma learned",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let flags = "train --preset demo --device cpu --threads 1 --builtin-images 4 --batch 2 --size 32 \
                     --base-width 32 --timesteps 4000 --sample-every 1 --sample-limit 1s --steps 2 --run";
        let mut command = ddpm();
        command.args(flags.split_whitespace()).arg(&run);
        let out = command.args(network.split(' ')).output().unwrap();
        let said = stderr(&out);
        assert!(out.status.success(), "{said}");
        let left_out = said.matches("is left out: it would take").count();
        assert_eq!(left_out, 2, "{said}");
        assert!(said.contains("--sample-steps"), "{said}");
        // With four steps the grid is drawn.
        let out = ddpm()
            .args(
                "train --steps 3 --sample-steps 4 --sample-limit 0s --device cpu --run".split(' '),
            )
            .arg(&run)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        assert!(run.join("samples/step-00000003-ema.png").exists());
    }
}

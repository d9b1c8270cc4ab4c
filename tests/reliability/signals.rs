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
fn the_first_signal_is_answered_at_once_and_a_second_quits() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // A step of more than half a minute.
    let mut command = ddpm();
    let flags = "train --preset demo --size 64 --batch 512 --accumulate 64 --builtin-images 4 --sample-every 0 \
                 --device cpu --threads 1 --run";
    command.args(flags.split_whitespace()).arg(&run);
    let mut child = Watched::spawn(command);
    child.wait_for("steps to go");
    std::thread::sleep(Duration::from_millis(200));
    child.signal("INT");
    child.wait_for("Ctrl-C: stopping after this step; press again to quit now");
    assert!(
        child.child.try_wait().unwrap().is_none(),
        "the first finishes the step"
    );
    let started = Instant::now();
    child.signal("INT");
    assert_eq!(child.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_closed_terminal_and_limits_save_as_sigterm_does() {
    // Under nohup this process ignores SIGHUP, and what it starts does too.
    let codes = [("HUP", 129), ("XCPU", 152), ("XFSZ", 153), ("TERM", 143)];
    for (signal, code) in codes
        .into_iter()
        .filter(|(_, code)| !is_ignored(code - 128))
    {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut child = Watched::spawn(train(&run, 1_000_000, &["--save-every", "1000000"]));
        wait_until("steps", || !metrics_text(&run).is_empty());
        child.signal(signal);
        child.wait_for(&format!("{signal}: stopping after this step"));
        if signal != "TERM" {
            // They come more than once, and nobody pressed a key.
            child.signal_if_running(signal);
        }
        child.wait_for("saved at step");
        assert_eq!(child.code(), Some(code), "{signal}");
        assert_eq!(metrics(&run).last().unwrap().0, newest_step(&run));
    }
}

/// True if this process ignores the signal.
fn is_ignored(signal: i32) -> bool {
    mask_of("/proc/self/status", "SigIgn:") >> (signal - 1) & 1 == 1
}

/// A set of signals in a `/proc/PID/status`.
fn mask_of(status: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(status).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
}

#[test]
fn nohup_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let program = train(&run, 1_000_000, &[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    shell.arg(program.get_program()).args(program.get_args());
    let mut child = Watched::spawn(shell);
    wait_until("a checkpoint", || named_step(&run) > 0);
    child.signal("HUP");
    let step = named_step(&run);
    wait_until("more steps", || named_step(&run) > step + 2);
    child.signal("TERM");
    assert_eq!(child.code(), Some(143));
}

#[test]
fn a_file_size_limit_leaves_the_checkpoints_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    let before = std::fs::read(checkpoint(&run, 4)).unwrap();
    let program = train(&run, 8, &[]);
    // In units of 512 bytes or of a KiB: room for the settings, and not for weights.
    let out = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 20; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .output()
        .unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("is not saved; earlier checkpoints are untouched"),
        "{said}"
    );
    assert_eq!(newest_step(&run), 4);
    assert!(std::fs::read(checkpoint(&run, 4)).unwrap() == before);
    assert_eq!(leftovers(&run).len(), 0);
    train_to(&run, 8, &[]);
}

/// Waits until the process answers signals, which it does in a thread.
fn wait_until_listening(child: &Watched) {
    let threads = format!("/proc/{}/task", child.child.id());
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    wait_until("the thread that listens", || {
        let mut threads = std::fs::read_dir(&threads).into_iter().flatten().flatten();
        threads.any(|thread| name(thread).is_ok_and(|name| name.trim() == "signals"))
    });
}

/// A folder of images that take a while to decode.
fn large_images(dir: &Path) -> std::path::PathBuf {
    let images = dir.join("images");
    std::fs::create_dir(&images).unwrap();
    let first = images.join("0.png");
    image::GrayImage::new(6000, 6000).save(&first).unwrap();
    for number in 1..400 {
        std::fs::hard_link(&first, images.join(format!("{number}.png"))).unwrap();
    }
    images
}

#[test]
fn decoding_stops_at_once_and_leaves_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    let images = large_images(dir.path());
    let (run, caches) = (dir.path().join("run"), dir.path().join("caches"));
    std::fs::create_dir(&caches).unwrap();
    let cache = caches.join("cache");
    let flags = [
        "--data",
        images.to_str().unwrap(),
        "--cache",
        cache.to_str().unwrap(),
    ];
    let command = |more: &[&str]| {
        let mut command = ddpm();
        let flags = flags.iter().chain(more);
        let tiny = "train --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --threads 1";
        command
            .args(tiny.split(' '))
            .args(flags)
            .arg("--run")
            .arg(&run);
        command
    };
    let nothing_is_left = || {
        assert_eq!(std::fs::read_dir(&caches).unwrap().count(), 0);
        assert!(!run.exists());
    };

    let mut child = Watched::spawn(command(&[]));
    wait_until("the cache", || {
        std::fs::read_dir(&caches).unwrap().count() > 0
    });
    child.signal("INT");
    let started = Instant::now();
    child.wait_for("Ctrl-C: stopping now");
    assert_eq!(child.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(10));
    nothing_is_left();

    let mut child = Watched::spawn(command(&["--time-limit", "1s"]));
    child.wait_for("stopped before the first step; nothing is saved");
    assert_eq!(child.code(), Some(124));
    nothing_is_left();
}

#[test]
fn sampling_stops_at_once_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 2, &[]);
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = ddpm();
        command.args("sample -n 100000 --batch 1 --device cpu --threads 1 --out".split(' '));
        command.arg(out.join("grid.png")).arg(&run);
        let mut child = Watched::spawn(command);
        wait_until_listening(&child);
        child.signal(signal);
        child.wait_for("stopping now");
        assert_eq!(child.code(), Some(code));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }
}

#[test]
fn encoding_that_is_stopped_leaves_no_pin() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // A minute of encoding.
    let flags = "train --device cpu --threads 1 --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 \
                 --timesteps 8000 --builtin-images 4 --batch 2 --steps 1 --sample-every 0 --run";
    let mut command = ddpm();
    let trained = command.args(flags.split_whitespace()).arg(&run).output();
    assert!(trained.unwrap().status.success());
    let image = dir.path().join("a.png");
    image::RgbImage::new(8, 8).save(&image).unwrap();
    let mut command = ddpm();
    command.args("encode --codebook 8192 --device cpu --threads 1 -o".split(' '));
    command.arg(dir.path().join("a.ddcm")).arg(&run).arg(&image);
    let pins = || {
        let entries = std::fs::read_dir(run.join("checkpoints")).unwrap();
        let names = entries.map(|entry| entry.unwrap().path());
        names
            .filter(|path| path.extension().is_some_and(|e| e == "pin"))
            .count()
    };
    let mut child = Watched::spawn(command);
    wait_until("the pin", || pins() == 1);
    child.signal("INT");
    child.wait_for("stopping now");
    assert_eq!(child.code(), Some(130));
    assert_eq!(pins(), 0);
}

#[test]
fn a_grid_is_given_up_at_once_and_drawn_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Minutes of sampling.
    let flags = "train --device cpu --threads 1 --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 \
                 --timesteps 4000 --builtin-images 10 --batch 4 --steps 4 --save-every 2 --sample-every 2 \
                 --sample-limit 0s --sample-images 64 --run";
    let mut command = ddpm();
    command.args(flags.split_whitespace()).arg(&run);
    let mut child = Watched::spawn(command);
    wait_until("the checkpoint", || named_step(&run) == 2);
    std::thread::sleep(Duration::from_millis(300));
    child.signal("TERM");
    let started = Instant::now();
    child.wait_for("the grid of step 2 is not drawn, as the run is stopping");
    child.wait_for("saved at step 2; resume with");
    assert_eq!(child.code(), Some(143), "the grid is still to be drawn");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!run.join("samples/step-00000002-ema.png").exists());
    train_to(&run, 4, &["--sample-steps", "2"]);
    for step in [2, 4] {
        assert!(
            run.join(format!("samples/step-0000000{step}-ema.png"))
                .exists()
        );
    }
}

#[test]
fn the_time_left_is_told_after_two_steps_and_counts_grids_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let said = train_to(&run, 6, &["--sample-every", "3"]);
    let line = said.lines().find(|line| line.contains(" left: "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("left: 4 steps of "), "{line}");
    assert!(line.contains(", 2 sample grids of perhaps "), "{line}");
    assert!(line.contains(", 3 checkpoints"), "{line}");
    assert!(!said.contains("inf img/s"), "{said}");
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

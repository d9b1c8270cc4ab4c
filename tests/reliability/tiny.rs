//! A run small enough to be killed often: a step takes some milliseconds.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for a busy machine, short enough for a test that fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program, on CPU with one thread.
pub(crate) fn ddpm() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ddpm"));
    command.env("RUST_BACKTRACE", "0");
    command
}

/// `ddpm train` of a tiny network; `more` may replace any flag but `--steps`.
pub(crate) fn train(run: &Path, steps: u64, more: &[&str]) -> Command {
    let mut command = ddpm();
    command.args(arguments(run, steps, more));
    command
}

/// The arguments of [`train`].
pub(crate) fn arguments(run: &Path, steps: u64, more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = "train --device cpu --threads 1"
        .split(' ')
        .map(str::to_owned)
        .collect();
    if !run.join("config.toml").exists() {
        let new = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 4 \
                   --builtin-images 10 --batch 4 --flip --dropout 0.1 --lr-schedule 0:1";
        all.extend(new.split_whitespace().map(str::to_owned));
        // A repeated flag is an error.
        for (flag, value) in [
            ("--save-every", "2"),
            ("--sample-every", "0"),
            ("--sample-images", "2"),
        ] {
            if !more.contains(&flag) {
                all.extend([flag.to_owned(), value.to_owned()]);
            }
        }
    }
    all.extend(["--steps".to_owned(), steps.to_string(), "--run".to_owned()]);
    all.push(run.to_str().unwrap().to_owned());
    all.extend(more.iter().map(|&s| s.to_owned()));
    all
}

/// Trains to the end, which must succeed; returns stderr.
pub(crate) fn train_to(run: &Path, steps: u64, more: &[&str]) -> String {
    let out = train(run, steps, more).output().unwrap();
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    said
}

pub(crate) fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub(crate) fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

/// Steps that there are records of.
pub(crate) fn records(run: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run.join("incidents")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.map(|n| n[5..13].parse().unwrap()).collect();
    steps.sort_unstable();
    steps
}

/// Step, loss and gradient norm of each line of metrics.jsonl; all lines must be whole.
pub(crate) fn metrics(run: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "torn: {text:?}");
    let parse = |line: &str| {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| v[key].as_f64().unwrap();
        (
            v["step"].as_u64().unwrap(),
            number("loss"),
            number("grad_norm"),
        )
    };
    text.lines().map(parse).collect()
}

/// Temporary files, which a killed write leaves.
pub(crate) fn leftovers(run: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for part in ["", "checkpoints", "samples", "incidents"] {
        let entries = std::fs::read_dir(run.join(part)).into_iter().flatten();
        let paths = entries.map(|e| e.unwrap().path());
        found
            .extend(paths.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(".tmp")));
    }
    found
}

/// Equal weights, EMA, moments and settings, byte for byte, and equal metrics.
pub(crate) fn assert_same_end(a: &Path, b: &Path, step: u64) {
    let bytes = |run: &Path| std::fs::read(checkpoint(run, step)).unwrap();
    assert!(
        bytes(a) == bytes(b),
        "the checkpoints of step {step} differ"
    );
    assert_eq!(metrics(a), metrics(b));
}

/// A process, with a way to wait for lines on its stderr.
pub(crate) struct Watched {
    pub(crate) child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Watched {
    pub(crate) fn spawn(mut command: Command) -> Watched {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| tell.send(line))
        });
        Watched {
            child,
            lines,
            seen: vec![],
        }
    }

    /// Waits for a line with `text` in it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {text:?} in {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// As `signal`, for a process that may have ended.
    pub(crate) fn signal_if_running(&self, name: &str) {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &id]).output();
        drop(kill);
    }

    /// Waits for the end; returns the exit code.
    pub(crate) fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watched {
    /// Ends the process, also when a test fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `ready`.
pub(crate) fn wait_until(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

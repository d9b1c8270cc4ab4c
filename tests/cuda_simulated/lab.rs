//! The simulated device, built once, and the program on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{libtorch, repo};

/// The folder of the simulated device; tests/simcuda/build.sh builds it if its sources changed.
pub(crate) fn simulator() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simcuda");
        let built = Command::new("bash")
            .arg(repo("tests/simcuda/build.sh"))
            .arg(&folder)
            .env("LIBTORCH", libtorch())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        folder
    })
}

/// The simulated device in place of libtorch's CUDA half.
pub(crate) fn on_simulator(command: &mut Command) -> &mut Command {
    command
        .env("LD_LIBRARY_PATH", simulator().join("torch/lib"))
        .env("OMP_NUM_THREADS", "1")
}

/// A run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    /// What it wrote to stderr.
    pub(crate) said: String,
    /// What it wrote to stdout.
    pub(crate) printed: String,
    report: Value,
}

impl Outcome {
    /// A count of the device's report.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let number = self.report[name].as_u64();
        number.unwrap_or_else(|| panic!("no {name} in {}", self.report))
    }

    /// Times that the host waited for the device.
    pub(crate) fn waits(&self) -> u64 {
        self.count("waits")
    }

    /// Waits by kind and operator, for messages.
    pub(crate) fn by_name(&self) -> &Value {
        &self.report["by_name"]
    }

    #[track_caller]
    pub(crate) fn assert_says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.said.contains(part), "no {part:?} in {}", self.said);
        }
    }
}

/// A folder of a test's own, in which the program runs; arguments are split at spaces.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: TempDir,
    runs: AtomicU32,
    memory_bytes: Option<u64>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab {
            dir: tempfile::tempdir().unwrap(),
            runs: AtomicU32::new(0),
            memory_bytes: None,
        }
    }

    /// With a device of this much memory.
    pub(crate) fn with_memory(bytes: u64) -> Lab {
        Lab {
            memory_bytes: Some(bytes),
            ..Lab::new()
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .env("RUST_BACKTRACE", "0")
            .env("OMP_NUM_THREADS", "1");
        command
    }

    /// The program on the simulated device, and the file that its report goes to.
    pub(crate) fn on_device(&self, arguments: &str) -> (Command, PathBuf) {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let report = self.path(&format!("report-{number}.json"));
        let mut command = self.command(arguments);
        on_simulator(&mut command).env("SIMCUDA_REPORT", &report);
        if let Some(bytes) = self.memory_bytes {
            command.env("SIMCUDA_MEMORY", bytes.to_string());
        }
        (command, report)
    }

    /// Runs the program on the simulated device; it may fail, but may not race, nor have libtorch warn.
    pub(crate) fn run(&self, arguments: &str) -> Outcome {
        let (mut command, report) = self.on_device(arguments);
        let outcome = outcome(&command.output().unwrap(), &report, arguments);
        assert_sound(&outcome, arguments);
        outcome
    }

    /// As [`run`](Lab::run); it must succeed.
    pub(crate) fn ok(&self, arguments: &str) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments}: {}", outcome.said);
        outcome
    }

    /// Runs the program on the CPU; it must succeed.
    pub(crate) fn on_cpu(&self, arguments: &str) {
        let out = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments}: {said}");
    }
}

/// What came of a run.
pub(crate) fn outcome(out: &Output, report: &Path, arguments: &str) -> Outcome {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let report = std::fs::read(report)
        .unwrap_or_else(|error| panic!("{arguments}: no report ({error}): {said}"));
    Outcome {
        code: out.status.code(),
        said,
        printed: String::from_utf8_lossy(&out.stdout).into_owned(),
        report: serde_json::from_slice(&report).unwrap(),
    }
}

/// No race, and no warning of libtorch, which begins with `[W` and a date.
pub(crate) fn assert_sound(outcome: &Outcome, arguments: &str) {
    let said = &outcome.said;
    assert_eq!(outcome.count("races"), 0, "{arguments}: {said}");
    let warned = said.lines().any(|line| line.starts_with("[W")) || said.contains("Warning:");
    assert!(!warned, "{arguments}: {said}");
}

//! What commands say and write besides their results: settings in images, plans, logs, JSON.

#[path = "output/messages.rs"]
mod messages;
#[path = "output/plans.rs"]
mod plans;
#[path = "output/settings.rs"]
mod settings;

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// A folder, with a run of two classes, 8 px, T = 4 and 4 steps in `run`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runs/format-3/stopped");
        for entry in walkdir::WalkDir::new(&kept) {
            let entry = entry.unwrap();
            let to = place
                .at("run")
                .join(entry.path().strip_prefix(&kept).unwrap());
            match entry.file_type().is_dir() {
                true => std::fs::create_dir_all(to).unwrap(),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = cargo_bin_cmd!("ddpm");
        command
            .current_dir(self.0.path())
            .env_remove("NO_COLOR")
            .args(line.split(' '));
        command
    }

    /// Runs a command line that succeeds.
    fn runs(&self, line: &str) -> Output {
        let out = self.command(line).output().unwrap();
        assert!(out.status.success(), "{line}: {}", said(&out));
        out
    }

    /// As [`runs`](Place::runs), on the CPU.
    fn computes(&self, line: &str) -> Output {
        self.runs(&format!("{line} --device cpu --precision f32 --threads 1"))
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_slice(&self.runs(line).stdout).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.at(name)).unwrap()
    }
}

/// What stands on stderr.
fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// What stands on stdout.
fn printed(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

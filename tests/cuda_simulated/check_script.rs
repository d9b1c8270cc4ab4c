//! scripts/gpu/check.py, which is for a GPU: its quick parts, and what it reports of a program that fails or hangs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{libtorch, python, repo};
use crate::lab::{Lab, simulator};

/// What came of it: the exit code and the report.
fn check(python: &Path, program: &Path, arguments: &str) -> (Option<i32>, String) {
    run(&mut Command::new(python), program, arguments)
}

fn run(python: &mut Command, program: &Path, arguments: &str) -> (Option<i32>, String) {
    let out = python
        .arg(repo("scripts/gpu/check.py"))
        .args(arguments.split_whitespace())
        .env("DDPM_BIN", program)
        .env("SIMCUDA_FOLDER", simulator())
        .env("LIBTORCH", libtorch())
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&out.stdout).into_owned();
    (
        out.status.code(),
        report + &String::from_utf8_lossy(&out.stderr),
    )
}

/// A program in the place of ddpm.
fn stand_in(lab: &Lab, script: &str) -> PathBuf {
    let path = lab.path("stand-in");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[track_caller]
fn assert_reports(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "no {part:?} in {report}");
    }
}

#[test]
fn its_quick_parts_are_ok() {
    let Some(python) = python() else { return };
    let program = Path::new(env!("CARGO_BIN_EXE_ddpm"));
    let parts = "--simulated doctor waits out-of-memory";
    let (code, report) = check(&python, program, parts);
    assert_eq!(code, Some(0), "{report}");
    assert_reports(
        &report,
        &[
            "**doctor**: ok",
            "**waits**: ok",
            "**out-of-memory**: ok",
            "All parts are ok",
        ],
    );
}

#[test]
fn a_part_that_fails_is_named_and_the_next_one_runs() {
    let Some(python) = python() else { return };
    let lab = Lab::new();
    let broken = stand_in(&lab, "echo broken >&2; exit 1");
    let (code, report) = check(&python, &broken, "doctor resume");
    assert_eq!(code, Some(1), "{report}");
    assert_reports(
        &report,
        &[
            "**doctor**: FAILED, exit code 1",
            "exit code 1 from: ddpm train",
            "- resume: FAILED, exit code 1",
        ],
    );
}

#[test]
fn the_deadline_stops_a_part_and_names_those_not_reached() {
    let Some(python) = python() else { return };
    let lab = Lab::new();
    let hangs = stand_in(&lab, "exec sleep 600");
    let began = Instant::now();
    let (code, report) = check(&python, &hangs, "--deadline 2 doctor resume");
    assert!(began.elapsed() < Duration::from_secs(300), "{report}");
    assert_eq!(code, Some(1), "{report}");
    assert_reports(
        &report,
        &[
            "- doctor: FAILED, stopped after 2 s",
            "- resume: not reached",
        ],
    );
}

#[test]
fn a_module_that_python_lacks_is_named() {
    let Some(python) = python() else { return };
    let mut without_packages = Command::new(python);
    without_packages.arg("-S");
    let program = Path::new(env!("CARGO_BIN_EXE_ddpm"));
    let (code, report) = run(&mut without_packages, program, "doctor");
    assert_eq!(code, Some(1), "{report}");
    assert_reports(&report, &["lacks: torch, numpy, safetensors, packaging"]);
}

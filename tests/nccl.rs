//! The part of the program that talks to NCCL: what it needs, and the backend that it makes, on stand-ins for CUDA's
//! runtime, the driver and NCCL. No GPU is needed.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{driver, driver_functions, libtorch, repo};
use tempfile::TempDir;

/// True if there is the part. There must be where NVIDIA's packages are beside libtorch, as scripts/setup.sh has them.
fn part_is_there() -> bool {
    if let Some(reason) = option_env!("DDPM_NO_NCCL") {
        assert!(!libtorch().join("../nvidia").exists(), "{reason}");
        eprintln!("skipped: {reason}");
        return false;
    }
    true
}

fn part() -> PathBuf {
    Path::new(env!("OUT_DIR")).join("nccl.so")
}

/// What a command printed, errors too.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// A driver with the stand-ins, and with stubs for the other functions of a driver that libtorch looks up.
fn stand_ins() -> TempDir {
    let source = std::fs::read_to_string(repo("tests/nccl/stand_ins.c")).unwrap();
    let others = driver_functions(&libtorch().join("lib/libcaffe2_nvrtc.so"));
    let others = others
        .iter()
        .filter(|name| !source.contains(&format!("int {name}(")));
    let stubs: String = others
        .map(|name| format!("int {name}() {{ return 100; }}\n"))
        .collect();
    driver(&(source.clone() + &stubs))
}

fn on(stand_ins: &TempDir, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env("LD_LIBRARY_PATH", stand_ins.path())
        .env("LD_PRELOAD", stand_ins.path().join("libcuda.so.1"));
    command
}

#[test]
fn the_program_needs_nothing_of_cuda_and_the_part_exports_one_function() {
    let needs = said(Command::new("readelf").args(["-d", env!("CARGO_BIN_EXE_ddpm")]));
    assert!(needs.contains("libtorch_cpu.so"), "{needs}");
    for of_cuda in ["cuda", "nccl"] {
        let needed = needs
            .lines()
            .find(|line| line.contains("NEEDED") && line.contains(of_cuda));
        assert_eq!(needed, None);
    }
    if part_is_there() {
        let exports = said(
            Command::new("nm")
                .args(["-D", "--defined-only"])
                .arg(part()),
        );
        assert!(
            exports.trim().ends_with(" T ddpm_nccl_backend") && exports.lines().count() == 1,
            "{exports}"
        );
    }
}

#[test]
fn a_group_of_one_is_connected_and_ended() {
    if !part_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("group_of_one");
    let libtorch = libtorch().canonicalize().unwrap();
    let lib = libtorch.join("lib");
    let built = said(
        Command::new("g++")
            .args(["-std=c++17", "-w", "-o"])
            .args([&program, &repo("tests/nccl/group_of_one.cpp")])
            .arg("-I")
            .arg(libtorch.join("include"))
            .arg("-I")
            .arg(libtorch.join("include/torch/csrc/api/include"))
            .arg("-L")
            .arg(&lib)
            .args(["-ltorch_cpu", "-lc10", "-l:libgomp.so.1", "-ldl"])
            .arg(format!("-Wl,-rpath,{}", lib.display())),
    );
    assert_eq!(built, "");
    let stand_ins = stand_ins();
    let group = |device: &str| {
        let mut command = on(&stand_ins, &program);
        command
            .arg(lib.join("libtorch_cuda.so"))
            .arg(part())
            .arg(device);
        command
    };
    assert_eq!(
        said(&mut group("0")),
        "NCCL connects rank 0 of 1: magic cafebeef, blocking 1, id 7\n\
         nccl, rank 0 of 1 on cuda:0, 5000 ms, store held 2 times\n\
         NCCL finalizes\n\
         NCCL destroys\n\
         store held 1 times\n"
    );
    assert_eq!(
        said(&mut group("1")),
        "no CUDA device 1 for NCCL: libtorch sees 1\n"
    );
    let fails = said(group("0").env("NCCL_FAILS", "1"));
    assert!(
        fails.contains("NCCL error in: ") && fails.ends_with("\nno interface for the network\n"),
        "{fails}"
    );
    assert!(!fails.contains("Warning"), "{fails}");
}

#[test]
fn doctor_says_that_nccl_can_be_used() {
    if !part_is_there() {
        return;
    }
    let doctor = said(on(&stand_ins(), env!("CARGO_BIN_EXE_ddpm")).arg("doctor"));
    for part in ["  cuda:0   Stand-in GPU", "\nNCCL       can be used\n"] {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
}

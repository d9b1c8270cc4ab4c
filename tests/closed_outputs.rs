//! Commands whose stdout or stderr cannot be written: nobody reads the pipe, or the disk is full.

use std::fs::File;
use std::process::{Command, ExitStatus, Output, Stdio};

fn ddpm(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command.args(args);
    command
}

/// The writing end of a pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .expect("the program ends by itself, not by a signal")
}

/// Help, which clap prints, bytes, and lines of text.
const PRINTING: [&[&str]; 3] = [
    &["train", "--help"],
    &["completions", "bash"],
    &["inspect", "tests/faults/diffusers-nested/ck.pt"],
];

#[test]
fn a_command_whose_reader_has_gone_ends_quietly() {
    for args in PRINTING {
        let output = ddpm(args).stdout(closed_pipe()).output().unwrap();
        let Output { status, stderr, .. } = output;
        assert_eq!(code(status), 141, "{args:?}");
        assert_eq!(String::from_utf8_lossy(&stderr), "", "{args:?}");
    }
}

#[test]
fn a_result_that_a_full_disk_refuses_is_an_error() {
    for args in PRINTING {
        let output = ddpm(args).stdout(full_disk()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code(output.status), 1, "{args:?}");
        let said = "error: cannot write to stdout: No space left on device";
        assert!(stderr.starts_with(said), "{args:?}: {stderr}");
    }
}

#[test]
fn messages_that_cannot_be_written_change_no_exit_code() {
    for broken in [closed_pipe, full_disk] {
        let wrong = ddpm(&["train", "--steps"]).stderr(broken()).status();
        assert_eq!(code(wrong.unwrap()), 2);
        let missing = ddpm(&["inspect", "/no/such/file"])
            .stderr(broken())
            .status();
        assert_eq!(code(missing.unwrap()), 1);
    }
}

#[test]
fn work_is_finished_whatever_becomes_of_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let run = run.to_str().unwrap();
    let out = dir.path().join("grid.png");
    let tiny = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 --timesteps 4 --batch 4 \
                --sample-images 4 --device cpu --steps 2 --run";
    let args: Vec<&str> = ["train"].into_iter().chain(tiny.split(' ')).collect();
    let trained = ddpm(&[&args[..], &[run]].concat())
        .stdout(closed_pipe())
        .stderr(closed_pipe())
        .status();
    assert_eq!(code(trained.unwrap()), 0);
    let sample = ["sample", run, "-n", "1", "--device", "cpu", "--out"];
    let sampled = ddpm(&[&sample[..], &[out.to_str().unwrap()]].concat())
        .stderr(full_disk())
        .status();
    assert_eq!(code(sampled.unwrap()), 0);
    assert!(out.is_file());
}

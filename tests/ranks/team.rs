//! Starting several ranks.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::repo;
use crate::tiny::{Watched, arguments, ddpm, stderr};

/// A port that nobody listens at now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// torchrun with `ranks` ranks on this host, which run `program`.
pub(crate) fn torchrun(ranks: u32, flags: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(repo(".venv/bin/torchrun"));
    command
        .args(["--no-python", "--nproc-per-node", &ranks.to_string()])
        .args(["--master-port", &free_port().to_string()])
        .args(flags)
        .arg("--")
        .args(program)
        .env("OMP_NUM_THREADS", "1")
        .env("RUST_BACKTRACE", "0");
    command
}

/// The program that is tested.
pub(crate) fn program() -> String {
    let path: PathBuf = assert_cmd::cargo::cargo_bin!("ddpm").into();
    path.to_str().unwrap().to_owned()
}

/// The words of `ddpm train` of a tiny network in f32.
pub(crate) fn tiny(run: &Path, steps: u64, more: &[&str]) -> Vec<String> {
    let mut all = vec![program()];
    all.extend(arguments(run, steps, more));
    all.extend(["--precision".to_owned(), "f32".to_owned()]);
    // A flag in `more` takes the place of the tiny network's own.
    for flag in ["--batch", "--multipliers"] {
        let places: Vec<usize> = (0..all.len()).filter(|i| all[*i] == flag).collect();
        if let [first, _] = places[..] {
            all.drain(first..first + 2);
        }
    }
    all
}

/// What all `ranks` ranks of `command` print and end with, each started by itself with the variables that `place` gives.
pub(crate) fn started(
    ranks: u32,
    place: impl Fn(u32) -> Vec<(&'static str, String)>,
    words: &[String],
) -> Vec<Output> {
    let spawn = |rank| {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(place(rank))
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..ranks).map(spawn).collect();
    let ended = |child: std::process::Child| child.wait_with_output().unwrap();
    children.into_iter().map(ended).collect()
}

/// The variables of torchrun's, as anybody may set them.
pub(crate) fn plain(ranks: u32, port: u16) -> impl Fn(u32) -> Vec<(&'static str, String)> {
    move |rank| {
        vec![
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", ranks.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("MASTER_ADDR", "127.0.0.1".to_owned()),
            ("MASTER_PORT", port.to_string()),
        ]
    }
}

/// Each rank by itself, to be watched.
pub(crate) fn watched(ranks: u32, words: &[String]) -> Vec<Watched> {
    let place = plain(ranks, free_port());
    let spawn = |rank| {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(place(rank))
            .env("OMP_NUM_THREADS", "1");
        Watched::spawn(command)
    };
    (0..ranks).map(spawn).collect()
}

/// Trains to the end with ranks started by themselves; all must succeed.
pub(crate) fn train_with(ranks: u32, run: &Path, steps: u64, more: &[&str]) -> String {
    let words = tiny(run, steps, more);
    let ended = started(ranks, plain(ranks, free_port()), &words);
    let said: Vec<String> = ended.iter().map(stderr).collect();
    assert!(ended.iter().all(|out| out.status.success()), "{said:#?}");
    said[0].clone()
}

/// Trains to the end with one process, in f32.
pub(crate) fn train_alone(run: &Path, steps: u64, more: &[&str]) {
    let out = ddpm().args(&tiny(run, steps, more)[1..]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
}

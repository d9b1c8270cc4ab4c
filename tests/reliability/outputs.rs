//! Outputs that cannot be written, and what a run keeps of what it said.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::tiny::{checkpoint, metrics, stderr, train, train_to, wait_until};

fn log(run: &Path) -> String {
    std::fs::read_to_string(run.join("log.txt")).unwrap_or_default()
}

/// `program` with its stderr as a shell redirects it.
fn redirected(program: &Command, to: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {to}")]);
    shell.arg(program.get_program()).args(program.get_args());
    shell
}

#[test]
fn training_goes_on_where_nobody_listens_and_its_log_has_it_all() {
    let more = ["--sample-every", "3"];
    for to in ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>&1"] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let out = redirected(&train(&run, 6, &more), to).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{to}: {}", stderr(&out));
        assert!(checkpoint(&run, 6).exists(), "{to}");
        let log = log(&run);
        for part in ["6 steps to go", "about ", "all steps are done"] {
            assert!(log.contains(part), "{to}: {part}: {log}");
        }
    }
}

#[test]
fn training_goes_on_when_its_reader_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut command = train(&run, 200, &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    // As `| head -1` does.
    drop(stderr);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(metrics(&run).len(), 200);
}

/// A terminal, and the program's end of it.
fn terminal() -> (std::fs::File, Stdio) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = std::fs::OpenOptions::new()
        .write(true)
        // Not the terminal of this process.
        .custom_flags(OFlags::NOCTTY.bits() as i32)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&theirs, size).unwrap();
    (std::fs::File::from(ours), theirs.into())
}

/// Reads until `what` was said, or to the end.
fn read_until(terminal: &mut std::fs::File, what: &str) -> String {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    // Where the other end is closed, reading fails.
    while let Ok(count @ 1..) = terminal.read(&mut part) {
        seen.extend(&part[..count]);
        if String::from_utf8_lossy(&seen).contains(what) {
            break;
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn training_goes_on_when_its_terminal_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (mut ours, theirs) = terminal();
    let mut command = train(&run, 300, &["--sample-every", "100"]);
    let mut child = command.env("TERM", "xterm").stderr(theirs).spawn().unwrap();
    drop(command);
    let seen = read_until(&mut ours, "img/s");
    assert!(
        seen.contains('\u{1b}') && seen.contains("step "),
        "{seen:?}"
    );
    drop(ours);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", log(&run));
    assert_eq!(metrics(&run).len(), 300);
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_gets_lines() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (mut ours, theirs) = terminal();
    let mut command = train(&run, 4, &["--sample-every", "2"]);
    let mut child = command.env("TERM", "dumb").stderr(theirs).spawn().unwrap();
    drop(command);
    let seen = read_until(&mut ours, "to sample more");
    assert!(
        seen.contains("step 4/4") && !seen.contains('\u{1b}'),
        "{seen:?}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_log_says_what_each_start_was_and_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("my run");
    train_to(&run, 2, &[]);
    let first = log(&run);
    let said = format!("ddpm {} as process ", env!("CARGO_PKG_VERSION"));
    assert!(first.lines().next().unwrap().contains(&said), "{first}");
    let quoted = format!("--run '{}'", run.display());
    assert!(first.lines().next().unwrap().contains(&quoted), "{first}");

    train_to(&run, 4, &[]);
    let refused = train(&run, 3, &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let second = log(&run);
    assert!(second.starts_with(&first));
    assert_eq!(second.matches("all steps are done").count(), 2, "{second}");
    // UTC, to the second.
    let (stamp, _) = second.split_once("  ").unwrap();
    assert!(stamp.len() == 23 && stamp.ends_with(" UTC"), "{stamp}");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 2, &[]);
    std::fs::remove_file(run.join("log.txt")).unwrap();
    // Opening a pipe without a reader would wait for ever.
    let made = Command::new("mkfifo").arg(run.join("log.txt")).status();
    assert!(made.unwrap().success());
    train_to(&run, 4, &[]);
    std::fs::remove_file(run.join("log.txt")).unwrap();
    std::fs::create_dir(run.join("log.txt")).unwrap();
    train_to(&run, 6, &[]);
    wait_until("the checkpoint", || checkpoint(&run, 6).exists());
}

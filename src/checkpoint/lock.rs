//! One process at a time in a run's folder.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::fs::{Locked, open_regular, open_regular_with};

/// Held for as long as a process trains a run.
///
/// The lock is the kernel's (`flock`), so it ends with the process, even a killed one: the file that
/// stays behind blocks nobody. It names the last holder.
#[derive(Debug)]
pub struct RunLock {
    _file: Locked,
    /// Why it keeps nobody out, where the file system has no locks.
    pub warning: Option<String>,
}

/// Tries to take a lock that seems to be held, and the pause before each: who looks whether it is ([`holder`]) holds it
/// for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

impl RunLock {
    /// Nobody's: for looking at a run without changing anything. It keeps nobody out.
    ///
    /// # Errors
    /// The folder of the run cannot be opened.
    pub(super) fn of_nobody(dir: &Path) -> Result<RunLock> {
        let folder = File::open(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        Ok(RunLock {
            _file: Locked::new(folder),
            warning: None,
        })
    }

    /// Takes the lock at `path`.
    ///
    /// # Errors
    /// Another process holds it, or the file cannot be made.
    pub(super) fn take(path: &Path) -> Result<RunLock> {
        let cannot = || format!("cannot lock {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = open_regular_with(path, &mut options).with_context(cannot)?;
        let mut warning = None;
        match lock(&file, || std::thread::sleep(PAUSE)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!(
                "another process is training this run ({}); wait for it, stop it, or choose another run folder",
                name_in(&file)
            ),
            // Some network file systems have no locks. Training without one beats no training.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {
                warning = Some(format!(
                    "the file system of {} has no locks; see to it that one process trains this run",
                    path.display()
                ));
            }
            Err(error) => return Err(error).with_context(cannot),
        }
        // The holder's name is a courtesy: a full disk must not end a run here.
        let _ = sign(&mut file);
        Ok(RunLock {
            _file: Locked::new(file),
            warning,
        })
    }
}

fn lock(file: &File, mut pause: impl FnMut()) -> Result<(), Errno> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => pause(),
            done => return done,
        }
    }
    Err(Errno::WOULDBLOCK)
}

/// Who holds the lock at `path`, in its own words; `None` if nobody does, or where the file system has no locks. Leaves
/// no trace.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn holder(path: &Path) -> std::io::Result<Option<String>> {
    let file = match open_regular(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // Any number of processes may look at once.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            drop(Locked::new(file));
            Ok(None)
        }
        Err(Errno::WOULDBLOCK) => Ok(Some(name_in(&file))),
        Err(_) => Ok(None),
    }
}

/// The text of a lock, which only informs; whatever it is, the lock is held.
fn name_in(file: &File) -> String {
    let mut holder = String::new();
    let _ = file.take(200).read_to_string(&mut holder);
    holder.trim().to_owned()
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let host = rustix::system::uname();
    let now = time::OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    writeln!(
        file,
        "process {} on {} since {} {hour:02}:{minute:02}:{second:02} UTC",
        std::process::id(),
        host.nodename().to_string_lossy(),
        now.date()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder_and_a_left_one_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "process 999999999 on elsewhere since long").unwrap();
        let held = RunLock::take(&path).unwrap();
        let refused = RunLock::take(&path).unwrap_err().to_string();
        let us = format!("process {}", std::process::id());
        assert!(
            refused.contains(&us) && !refused.contains("999999999"),
            "{refused}"
        );
        let found = holder(&path).unwrap().unwrap();
        assert!(found.starts_with(&us), "{found}");
        drop(held);
        assert_eq!(holder(&path).unwrap(), None);
        assert_eq!(holder(&dir.path().join("no lock")).unwrap(), None);
        let held = RunLock::take(&path).unwrap();
        // As a process that is just being started has one, until it becomes another program.
        let _copy = held._file.copy();
        drop(held);
        RunLock::take(&path).unwrap();
    }

    #[test]
    fn who_looks_at_a_lock_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "").unwrap();
        let (looks, file) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        flock(&looks, FlockOperation::NonBlockingLockShared).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        assert_eq!(lock(&file, || ()), Err(Errno::WOULDBLOCK));
        // It is gone at the second try.
        let mut looks = Some(Locked::new(looks));
        assert_eq!(lock(&file, || drop(looks.take())), Ok(()));
    }
}

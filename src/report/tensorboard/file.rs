//! The file of events of one start.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::event::Event;
use super::record;
use crate::fs::open_regular_with;

/// What the names of all such files begin with.
const PREFIX: &str = "events.out.tfevents";

/// True for the name of a file of events.
pub fn is_events_file(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A file that events are appended to, each of them whole.
#[derive(Debug)]
pub(super) struct EventsFile {
    file: File,
    path: PathBuf,
    /// Length of the whole records in it.
    len: u64,
}

impl EventsFile {
    /// Begins a new file in `folder`, which comes after all that are there: TensorBoard reads them in the order of their
    /// names.
    pub(super) fn create(folder: &Path) -> io::Result<EventsFile> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |time| time.as_secs());
        // The clock may have been set back.
        let second = now.max(newest_second(folder)?.map_or(0, |second| second + 1));
        let host = rustix::system::uname();
        let host: String = (host.nodename().to_string_lossy().chars().take(64))
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let path = folder.join(format!(
            "{PREFIX}.{second:010}.{host}.{}.0",
            std::process::id()
        ));
        let mut options = File::options();
        let file = open_regular_with(&path, options.append(true).create_new(true))?;
        let mut file = EventsFile { file, path, len: 0 };
        file.append(&[Event::FileVersion])?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends events in one write.
    ///
    /// # Errors
    /// A full disk, for example: none of them is in the file then.
    pub(super) fn append(&mut self, events: &[Event]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0.0, |time| time.as_secs_f64());
        let mut records = Vec::new();
        for event in events.iter().filter_map(|event| event.encode(now)) {
            record::append(&mut records, &event);
        }
        if let Err(error) = self.file.write_all(&records) {
            // Shrinking a file works on a full disk too.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += records.len() as u64;
        Ok(())
    }

    /// Waits until all is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The newest time in the names of files of events in a folder.
fn newest_second(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let second = name.to_str().and_then(|name| {
            let second = name
                .strip_prefix(PREFIX)?
                .strip_prefix('.')?
                .split('.')
                .next()?;
            // Others come before or after all of ours, whatever number these have.
            let ours = second.len() == 10 && second.bytes().all(|byte| byte.is_ascii_digit());
            ours.then(|| second.parse::<u64>().ok()).flatten()
        });
        newest = newest.max(second.filter(|second| *second < 9_999_999_999));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_comes_after_all_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for _ in 0..3 {
            let file = EventsFile::create(dir.path()).unwrap();
            names.push(file.path().file_name().unwrap().to_owned());
        }
        // As if the clock had been set back by years; and what nobody wrote.
        for name in ["4000000000.host.1.0", "99999999999.host.1.0", "x.1", ""] {
            std::fs::write(dir.path().join(format!("{PREFIX}.{name}")), "").unwrap();
        }
        let late = EventsFile::create(dir.path()).unwrap();
        let name = late.path().file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with("events.out.tfevents.4000000001."),
            "{name}"
        );
        names.push(name.into());
        assert!(names.is_sorted() && names.iter().all(|n| is_events_file(n.to_str().unwrap())));
        assert!(EventsFile::create(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn what_does_not_fit_leaves_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventsFile::create(dir.path()).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        // A handle that cannot be written to, as on a full disk.
        let only_read = File::open(file.path()).unwrap();
        let writable = std::mem::replace(&mut file.file, only_read);
        assert!(file.append(&[Event::Start { step: 1 }]).is_err());
        file.file = writable;
        assert_eq!(std::fs::read(file.path()).unwrap(), whole);
        file.append(&[Event::Start { step: 1 }]).unwrap();
        assert!(std::fs::read(file.path()).unwrap().starts_with(&whole));
    }
}

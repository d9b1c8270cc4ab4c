//! The checkpoints of a run.

use std::path::Path;

use serde::Serialize;

use crate::checkpoint::{BEST, every_checkpoint, is_pinned};
use crate::text;

/// A checkpoint, as a page shows it.
#[derive(Debug, Serialize)]
pub(super) struct File {
    name: String,
    step: u64,
    bytes: u64,
    marks: String,
}

/// All checkpoints of a run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// From the newest.
    pub(super) files: Vec<File>,
}

impl Checkpoints {
    pub(super) fn read(run: &Path) -> Checkpoints {
        let folder = run.join("checkpoints");
        let latest = crate::fs::read_text(&folder.join("latest"), 4096).unwrap_or_default();
        let best = std::fs::read_link(folder.join(BEST)).unwrap_or_default();
        let file = |path: std::path::PathBuf| {
            let name = path.file_name()?.to_str()?.to_owned();
            let is = |other: &str| other.trim() == name;
            let marks = [
                ("newest", is(&latest)),
                ("best", best.to_str().is_some_and(is)),
                ("kept by a pin", is_pinned(&path).unwrap_or(false)),
            ];
            let marks: Vec<&str> = marks
                .iter()
                .filter(|(_, set)| *set)
                .map(|(mark, _)| *mark)
                .collect();
            let digits: String = name
                .strip_prefix("step-")?
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            Some(File {
                step: digits.parse().ok()?,
                bytes: path.metadata().ok()?.len(),
                marks: marks.join(", "),
                name: text::printable(&name),
            })
        };
        Checkpoints {
            files: every_checkpoint(run).into_iter().filter_map(file).collect(),
        }
    }

    /// What they take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

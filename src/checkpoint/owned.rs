//! The files that nothing but training may overwrite.

use std::path::{Path, PathBuf};

use super::file::{Contents, contents_of};
use super::newest::step_of;
use crate::report::is_events_file;

/// Files and folders directly in a run's folder that belong to it. Grids in `samples/` begin with `step-`.
const OWN: [&str; 14] = [
    "config.toml",
    "pictures.tsv",
    "held_out.tsv",
    "labels.tsv",
    "skipped.tsv",
    "metrics.jsonl",
    "data.png",
    "report.html",
    "log.txt",
    "log.old.txt",
    "lock",
    "checkpoints",
    "incidents",
    "samples",
];

/// The run whose own `file` is, or would be once it is there. `file` is a path without links; `run` is a folder that is
/// or becomes a run's, whatever is in it.
pub fn run_that_owns(file: &Path, run: Option<&Path>) -> Option<PathBuf> {
    let run = run.and_then(|run| std::path::absolute(run).ok());
    let run = run.map(|run| std::fs::canonicalize(&run).unwrap_or(run));
    let folders = file.ancestors().skip(1);
    let mut owners = folders.filter(|dir| {
        let below = file.strip_prefix(dir).unwrap_or(file);
        is_own(below) && (run.as_deref() == Some(dir) || is_run(dir))
    });
    owners.next().map(Path::to_owned)
}

/// True for the path below a run's folder of one of its own files.
pub fn is_own(below: &Path) -> bool {
    let mut parts = below.iter();
    let first = parts.next().and_then(|part| part.to_str());
    let second = parts.next().and_then(|part| part.to_str());
    match first {
        Some("samples") => second.is_some_and(|grid| grid.starts_with("step-")),
        Some(name) => {
            OWN.contains(&name)
                || name.starts_with("metrics") && name.ends_with(".jsonl")
                || is_events_file(name)
        }
        None => false,
    }
}

/// True for the folder of a run, also one that has lost its settings.
pub(super) fn is_run(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).is_file();
    if has("config.toml") && (has("lock") || has("metrics.jsonl")) || has("checkpoints/latest") {
        return true;
    }
    let entries = std::fs::read_dir(dir.join("checkpoints"));
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| step_of(&entry.path()).is_some())
}

/// True for a file with all that a resume needs, in a run's folder or elsewhere.
pub fn holds_training_state(file: &Path) -> bool {
    file.is_file() && matches!(contents_of(file), Ok(Contents::Training))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_own_files_are_known_by_their_paths() {
        let own = |path: &str| is_own(Path::new(path));
        for path in [
            "config.toml",
            "metrics-after-step-00000002.jsonl",
            "events.out.tfevents.1796049000.host.4711.0",
            "samples/step-00000002-ema.png",
            "checkpoints/mine.safetensors",
        ] {
            assert!(own(path), "{path}");
        }
        for path in ["mine.png", "samples/mine.png", "events.txt", "metrics.txt"] {
            assert!(!own(path), "{path}");
        }
    }
}

//! The runs below a folder.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::checkpoint::seems_a_run;

/// Folders within folders that are searched: `runs/experiment/variant/run`.
const DEPTH: usize = 4;

/// The folder of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where it is.
    pub dir: PathBuf,
    /// True if that is a link to it.
    pub linked: bool,
}

/// The folders of runs below `folder`, up to four levels down, sorted by path; `folder` alone if it is one itself. Runs
/// within runs and hidden folders are passed over. A link is followed only where it is one to a run.
pub fn runs_below(folder: &Path) -> Vec<Found> {
    if seems_a_run(folder) {
        let dir = folder.to_owned();
        return vec![Found { dir, linked: false }];
    }
    let mut found = Vec::new();
    let mut entries = WalkDir::new(folder)
        .min_depth(1)
        .max_depth(DEPTH)
        .into_iter();
    while let Some(entry) = entries.next() {
        // What cannot be read is no run that can be shown.
        let Ok(entry) = entry else { continue };
        let kind = entry.file_type();
        if kind.is_dir() && entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.skip_current_dir();
        } else if (kind.is_dir() || kind.is_symlink()) && seems_a_run(entry.path()) {
            found.push(Found {
                dir: entry.path().to_owned(),
                linked: kind.is_symlink(),
            });
            if kind.is_dir() {
                entries.skip_current_dir();
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path) {
        std::fs::create_dir_all(dir.join("checkpoints")).unwrap();
        std::fs::write(dir.join("config.toml"), "").unwrap();
    }

    #[test]
    fn runs_are_found_below_and_not_within_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "b",
            "a/deep/run",
            "b/samples/inner",
            ".trash/old",
            "1/2/3/4/5",
        ] {
            run(&at(name));
        }
        std::fs::create_dir_all(at("images/more")).unwrap();
        std::fs::write(at("config.toml"), "").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        run(elsewhere.path());
        std::os::unix::fs::symlink(elsewhere.path(), at("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), at("images/circle")).unwrap();
        let names: Vec<(String, bool)> = runs_below(dir.path())
            .into_iter()
            .map(|found| {
                let name = found.dir.strip_prefix(dir.path()).unwrap();
                (name.to_str().unwrap().to_owned(), found.linked)
            })
            .collect();
        let wanted = [("a/deep/run", false), ("b", false), ("link", true)];
        assert_eq!(
            names,
            wanted.map(|(name, linked)| (name.to_owned(), linked))
        );
        assert_eq!(runs_below(&at("b")).len(), 1);
        assert!(runs_below(&at("images/more")).is_empty());
        assert!(runs_below(&at("missing")).is_empty());
    }
}

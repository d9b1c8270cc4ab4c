//! The runs below a folder: the newest, and the one whose name is nearest to another.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::owned::is_run;
use crate::fs::folder_of;

/// The folder that new runs are made in.
pub const RUNS: &str = "runs";

/// The run in `folder` that was trained last; `None` without one.
pub fn newest_run(folder: &Path) -> Option<PathBuf> {
    runs_in(folder).max_by_key(|run| (changed(run), run.clone()))
}

/// The run with the name nearest to that of `wanted`, beside it or in `runs`: one that begins with it, or differs in
/// at most a third of its characters; `None` without one.
pub fn nearest_run(wanted: &Path) -> Option<PathBuf> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let beside = runs_in(folder_of(wanted)).chain(runs_in(Path::new(RUNS)));
    let wanted = name(wanted);
    let distance = |run: &PathBuf| match name(run).starts_with(&wanted) {
        true => 0,
        false => strsim::osa_distance(&name(run), &wanted),
    };
    let near = beside.filter(|run| distance(run) <= wanted.chars().count().div_ceil(3));
    near.min_by_key(|run| (distance(run), run.clone()))
}

/// True for a folder that is, or seems to be, a run: also for one whose settings or checkpoints are gone, and for what a
/// start leaves that ended before it wrote any.
pub fn seems_a_run(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    is_run(folder)
        || has("lock") && (has("log.txt") || has("metrics.jsonl"))
        || has("config.toml") && folder.join("checkpoints").is_dir()
}

fn runs_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let plain = match folder == Path::new(".") {
        // As it is written on a command line.
        true => Path::new(""),
        false => folder,
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let runs = entries.map(move |entry| plain.join(entry.file_name()));
    runs.filter(|run| run.join("config.toml").exists() || run.join("checkpoints/latest").exists())
}

/// When a run was trained last.
pub fn changed(run: &Path) -> Option<SystemTime> {
    let files = ["metrics.jsonl", "checkpoints/latest", "config.toml"];
    let times = files.map(|file| std::fs::metadata(run.join(file)).ok()?.modified().ok());
    times.into_iter().max().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_newest_run_is_the_one_trained_last_and_the_nearest_one_of_like_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_run(dir.path()), None);
        assert_eq!(nearest_run(&dir.path().join("a")), None);
        let day = Duration::from_secs(86_400);
        let run = |name: &str, days: u32| {
            let run = dir.path().join(name);
            std::fs::create_dir(&run).unwrap();
            std::fs::write(run.join("config.toml"), "").unwrap();
            let metrics = std::fs::File::create(run.join("metrics.jsonl")).unwrap();
            for file in [
                metrics,
                std::fs::File::open(run.join("config.toml")).unwrap(),
            ] {
                let time = SystemTime::UNIX_EPOCH + days * day;
                file.set_times(std::fs::FileTimes::new().set_modified(time))
                    .unwrap();
            }
            run
        };
        let (flowers, faces, old) = (run("flowers", 2), run("faces", 3), run("flower-old", 1));
        std::fs::create_dir(dir.path().join("flowersx")).unwrap();
        assert_eq!(newest_run(dir.path()), Some(faces));
        let nearest = |name| nearest_run(&dir.path().join(name)).unwrap();
        assert_eq!(nearest("flwoers"), flowers);
        assert_eq!(nearest("flower_old"), old);
        assert_eq!(nearest("flower-"), old);
        assert_eq!(nearest_run(&dir.path().join("birds")), None);
    }
}

//! The checkpoints of a run, and the newest of them that can be read.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;

use super::file::read_checkpoint;
use crate::fs::open_regular;

/// Bytes of `latest` that are read; it holds a file name.
const MAX_NAME_BYTES: u64 = 256;

/// A checkpoint that cannot be used.
#[derive(Debug)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: anyhow::Error,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cannot be used: {:#}",
            self.path.display(),
            self.reason
        )
    }
}

/// Result of [`newest`].
pub(super) struct Newest<T> {
    pub(super) path: PathBuf,
    pub(super) read: T,
    pub(super) damaged: Vec<Damaged>,
}

/// The checkpoint that `latest` names, or the first before it, or after it, that `read` can read; `None` for a
/// folder without checkpoints.
///
/// # Errors
/// There are checkpoints, and none can be read; `latest` or `checkpoints` is something else than it should be.
pub(super) fn newest<T>(
    run: &Path,
    read: impl Fn(&Path) -> Result<T>,
) -> Result<Option<Newest<T>>> {
    let mut candidates = checkpoints(run)?;
    candidates.reverse();
    if let Some(latest) = latest(run)? {
        // From the newest: those that `latest` allows first.
        candidates.sort_by_key(|path| step_of(path) > step_of(&latest));
        // A name without any checkpoint left is not a damaged one.
        let named = !candidates.is_empty() || latest.exists();
        if named && candidates.first() != Some(&latest) {
            candidates.insert(0, latest);
        }
    }
    let mut damaged = vec![];
    for path in candidates {
        match read(&path) {
            Ok(read) => {
                return Ok(Some(Newest {
                    path,
                    read,
                    damaged,
                }));
            }
            Err(reason) => damaged.push(Damaged { path, reason }),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let list: String = damaged.iter().map(|d| format!("\n  {d}")).collect();
    bail!(
        "no checkpoint of {} can be read; begin another run, from its weights if you have them elsewhere:{list}",
        run.display()
    )
}

/// All checkpoints of a run, oldest first.
///
/// # Errors
/// `checkpoints` is not a folder, or cannot be read.
pub(super) fn checkpoints(run: &Path) -> Result<Vec<PathBuf>> {
    let folder = run.join("checkpoints");
    match fs::metadata(&folder) {
        Ok(found) if !found.is_dir() => bail!(
            "{} is not a folder, and the checkpoints of a run are expected there",
            folder.display()
        ),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if step_of(&path).is_some() {
            found.push(path);
        }
    }
    found.sort_by_key(|path| step_of(path));
    Ok(found)
}

/// The checkpoints of a run with their steps, from the newest; none without the folder.
pub fn by_step(run: &Path) -> Vec<(u64, PathBuf)> {
    let found = checkpoints(run).unwrap_or_default().into_iter().rev();
    found
        .filter_map(|path| Some((step_of(&path)?, path)))
        .collect()
}

/// The step in a checkpoint's name; `None` for another file.
pub fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?;
    // Not all that `parse` takes: no sign.
    let digits = step.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| step.parse().ok()).flatten()
}

/// The checkpoint that `latest` names, which may be missing; `None` without `latest`, or if it names something
/// else.
fn latest(run: &Path) -> Result<Option<PathBuf>> {
    let folder = run.join("checkpoints");
    let path = folder.join("latest");
    let read = || {
        let mut name = Vec::new();
        let file = open_regular(&path)?;
        file.take(MAX_NAME_BYTES).read_to_end(&mut name)?;
        Ok(name)
    };
    let name = match read() {
        Ok(name) => String::from_utf8_lossy(&name).into_owned(),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let named = folder.join(name.trim());
    let plain = named.parent() == Some(&folder) && step_of(&named).is_some();
    Ok(plain.then_some(named))
}

/// The checkpoint that a run goes on from, read whole, and the newer ones that cannot be read; `None` for a folder without
/// checkpoints.
///
/// # Errors
/// There are checkpoints, and none can be read.
pub fn newest_readable(run: &Path) -> Result<Option<(PathBuf, Vec<Damaged>)>> {
    let found = newest(run, |path| read_checkpoint(path).map(drop))?;
    Ok(found.map(|found| (found.path, found.damaged)))
}

/// The file that a checkpoint argument stands for: itself, or the newest readable one of a run folder.
///
/// # Errors
/// A missing file, or a folder without checkpoints.
pub fn resolve(argument: &Path) -> Result<PathBuf> {
    find(argument).map(|(path, _)| path)
}

/// As [`resolve`], with the newer checkpoints of a run folder that cannot be read and are passed over.
///
/// # Errors
/// As `resolve`.
pub fn find(argument: &Path) -> Result<(PathBuf, Vec<Damaged>)> {
    if !argument.is_dir() {
        if !argument.exists() {
            bail!("no such file: {}", argument.display());
        }
        return Ok((argument.to_owned(), Vec::new()));
    }
    newest_readable(argument)?.with_context(|| {
        format!(
            "{} is a folder without checkpoints; give a checkpoint file or a run folder",
            argument.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints");
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        dir
    }

    /// The steps that were tried, and the one that could be read.
    fn order(files: &[(&str, &str)]) -> (Vec<String>, String) {
        let dir = run(files);
        let read = |path: &Path| match std::fs::read_to_string(path)?.as_str() {
            "good" => Ok(()),
            other => bail!("{other:?}"),
        };
        let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let found = newest(dir.path(), read).unwrap().unwrap();
        let damaged = found.damaged.iter().map(|d| name(&d.path)).collect();
        (damaged, name(&found.path))
    }

    #[test]
    fn the_pointer_comes_first_then_older_ones_then_newer_ones() {
        let (s1, s2, s3) = (
            "step-01.safetensors",
            "step-02.safetensors",
            "step-03.safetensors",
        );
        let (good, bad) = ("good", "bad");
        let all = |latest, [a, b, c]: [&'static str; 3]| {
            order(&[("latest", latest), (s1, a), (s2, b), (s3, c)])
        };
        let none: [&str; 0] = [];
        assert_eq!(
            all(s3, [good; 3]),
            (none.map(str::to_owned).to_vec(), "step-03".into())
        );
        assert_eq!(all(s2, [good; 3]), (vec![], "step-02".into()));
        assert_eq!(
            all(s2, [good, bad, good]),
            (vec!["step-02".into()], "step-01".into())
        );
        assert_eq!(
            all(s2, [bad, bad, good]),
            (vec!["step-02".into(), "step-01".into()], "step-03".into())
        );
        // A torn or lost pointer, and one to a file that is gone.
        assert_eq!(all("step-0", [good; 3]), (vec![], "step-03".into()));
        assert_eq!(
            all("step-0\r2.safetensors", [good; 3]),
            (vec![], "step-03".into())
        );
        assert_eq!(
            all("step-09.safetensors", [good; 3]),
            (vec!["step-09".into()], "step-03".into())
        );
        assert_eq!(
            order(&[(s1, good), (s2, bad)]),
            (vec!["step-02".into()], "step-01".into())
        );
        assert!(newest(run(&[]).path(), |_| Ok(())).unwrap().is_none());
        let hopeless = run(&[(s1, bad)]);
        let refused = |_: &Path| -> Result<()> { bail!("torn") };
        let error = newest(hopeless.path(), refused).err().unwrap().to_string();
        assert!(
            error.contains("step-01") && error.contains("torn"),
            "{error}"
        );
    }
}

//! Atomic writing of files: whole or not at all.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `path` through a temporary file beside it: write, fsync, rename, fsync of the folder.
///
/// `write` receives the temporary file. On any error an older `path` stays unchanged and the temporary
/// file is removed.
///
/// # Errors
/// Errors of `write`, or an I/O error naming `path`.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut tempfile::NamedTempFile) -> Result<()>,
) -> Result<()> {
    let dir = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        // The tempfile crate's default is readable only by the owner.
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| {
            format!(
                "cannot write {}: no new file in {}",
                path.display(),
                dir.display()
            )
        })?;
    write(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
    let finish = || -> io::Result<()> {
        file.as_file_mut().flush()?;
        // `write` may have replaced the file under the temporary name (safetensors does): sync and
        // keep the new one, with the permissions of ours.
        std::fs::set_permissions(file.path(), file.as_file().metadata()?.permissions())?;
        std::fs::File::open(file.path())?.sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(dir)?.sync_all()
    };
    finish().with_context(|| format!("cannot write {}", path.display()))
}

/// Fails early, before long work, if [`write_atomic`] could not make a file at `path` later.
pub fn check_writable(path: &Path) -> Result<()> {
    let dir = folder_of(path);
    tempfile::tempfile_in(dir).map(drop).with_context(|| {
        format!(
            "cannot write {}: no new file in {}",
            path.display(),
            dir.display()
        )
    })
}

/// Removes temporary files that a killed [`write_atomic`] left in `dir`. Requires that no one is writing there.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        // The safetensors crate makes its own, without our dash.
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp") && entry.path().is_file() {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Free bytes for this user in the file system of `path`; `None` if unknown.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// The folder that contains `path`.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// [`write_atomic`] for bytes in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |file| Ok(file.write_all(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rubbish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |file| {
            file.write_all(b"half")?;
            anyhow::bail!("disk full")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("a.txt"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_bytes(Path::new("/no/such/folder/x"), b"").unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/folder"));
    }
}

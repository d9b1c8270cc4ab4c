//! Files are written whole or not at all, and read only if they are files, up to a bound.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, OFlags, flock};

/// Longest chain of symbolic links that is followed, as in the kernel.
const MOST_LINKS: u32 = 40;

/// Opens a file to read. Anything else in its place (a FIFO, a device, a socket, a folder) is an error at once: to open
/// or to read it could wait for ever, or never end.
///
/// # Errors
/// No such file, no permission, or not a regular file; `path` is not named, as in those of [`std::fs`].
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_regular_with(path, File::options().read(true))
}

/// As [`open_regular`], with options of the caller's: a file that they create is one.
///
/// # Errors
/// As `open_regular`.
pub fn open_regular_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Before it is opened, which some devices answer with an action.
    match std::fs::metadata(path) {
        Ok(found) => refuse_special(&found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Without waiting for the other end of a FIFO that has come meanwhile.
    let file = options
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    refuse_special(&file.metadata()?)?;
    Ok(file)
}

fn refuse_special(found: &std::fs::Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let name = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!(
        "it is {name}, and a regular file is expected there"
    )))
}

/// The bytes of a regular file of at most `max_bytes`.
///
/// # Errors
/// As [`open_regular`], a longer file, or one that cannot be read; each names `path`.
pub fn read_regular(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        // One byte more shows that there is more.
        let file = open_regular(path)?;
        file.take(max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        match bytes.len() as u64 > max_bytes {
            true => Err(io::Error::other(format!(
                "it is longer than {max_bytes} bytes"
            ))),
            false => Ok(bytes),
        }
    };
    let named = |error| naming(path, error);
    read().map_err(named)
}

/// As [`read_regular`], for a file of text.
///
/// # Errors
/// As `read_regular`, or bytes that are not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let text = String::from_utf8(read_regular(path, max_bytes)?);
    text.map_err(|_| naming(path, io::Error::other("it is not UTF-8 text")))
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot read {}: {error}", path.display()),
    )
}

/// Writes `path` through a temporary file beside it: write, fsync, rename, fsync of the folder.
///
/// `write` receives the temporary file. On any error an older `path` stays unchanged and the temporary
/// file is removed. Where `path` is a symbolic link, the file that it points to is replaced, and the link stays. A
/// device, a pipe or an open descriptor (`/dev/null`, `/dev/stdout`) is written to once `write` is done.
///
/// # Errors
/// Errors of `write`, or an I/O error naming `path`.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut tempfile::NamedTempFile) -> Result<()>,
) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let target = match Target::of(path).with_context(cannot)? {
        Target::File(target) => target,
        Target::Stream(stream) => return write_through(&stream, write).with_context(cannot),
    };
    let dir = folder_of(&target);
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        // The tempfile crate's default is readable only by the owner.
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| no_new_file(path, dir))?;
    write(&mut file).with_context(cannot)?;
    let finish = || -> io::Result<()> {
        file.as_file_mut().flush()?;
        // `write` may have replaced the file under the temporary name (safetensors does): sync and
        // keep the new one, with the permissions of ours.
        std::fs::set_permissions(file.path(), file.as_file().metadata()?.permissions())?;
        File::open(file.path())?.sync_all()?;
        file.persist(&target).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    finish().with_context(cannot)
}

/// Fails early, before long work, if [`write_atomic`] could not make a file at `path` later.
///
/// # Errors
/// A missing or read-only folder, or a folder in the file's place; each names `path`.
pub fn check_writable(path: &Path) -> Result<()> {
    let target = Target::of(path).with_context(|| format!("cannot write {}", path.display()))?;
    match target {
        Target::File(target) => {
            let dir = folder_of(&target);
            let made = tempfile::tempfile_in(dir);
            made.map(drop).with_context(|| no_new_file(path, dir))
        }
        Target::Stream(stream) => rustix::fs::access(&stream, rustix::fs::Access::WRITE_OK)
            .map_err(io::Error::from)
            .with_context(|| format!("cannot write {}", path.display())),
    }
}

fn no_new_file(path: &Path, dir: &Path) -> String {
    let (path, dir) = (path.display(), dir.display());
    format!("cannot write {path}: no new file in {dir}")
}

/// Where bytes that are written to a path end up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file to make or to replace: no link, in a folder without links.
    File(PathBuf),
    /// A device, a pipe or an open descriptor, which is written to and never replaced.
    Stream(PathBuf),
}

impl Target {
    /// Follows the links of `path`, which need not exist.
    ///
    /// # Errors
    /// A missing folder, a folder in the file's place, a circle of links.
    pub fn of(path: &Path) -> io::Result<Target> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let dir = folder_of(&path);
            let dir = std::fs::canonicalize(dir).map_err(|error| {
                io::Error::new(error.kind(), format!("folder {}: {error}", dir.display()))
            })?;
            let Some(name) = path.file_name() else {
                return Err(io::ErrorKind::IsADirectory.into());
            };
            let at = dir.join(name);
            // Links to descriptors, which name no file if they are of pipes.
            if at.starts_with("/proc") {
                return Ok(Target::Stream(at));
            }
            match std::fs::symlink_metadata(&at) {
                Ok(found) if found.is_symlink() => path = dir.join(std::fs::read_link(&at)?),
                Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                Ok(found) if !found.is_file() => return Ok(Target::Stream(at)),
                Ok(_) => return Ok(Target::File(at)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Target::File(at));
                }
                Err(error) => return Err(error),
            }
        }
        Err(rustix::io::Errno::LOOP.into())
    }

    /// True for what can be written to twice at once: a device that keeps nothing.
    pub fn is_null(&self) -> bool {
        *self == Target::Stream("/dev/null".into())
    }

    /// True for standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Target::Stream(stream) if descriptor(stream) == Some(1))
    }
}

/// The number of an open descriptor of this process, from its path without links.
fn descriptor(stream: &Path) -> Option<u32> {
    let fds = format!("/proc/{}/fd", std::process::id());
    stream.strip_prefix(fds).ok()?.to_str()?.parse().ok()
}

/// Writes to a temporary file, since a stream cannot be sought in, then all of that to the stream.
fn write_through(
    stream: &Path,
    write: impl FnOnce(&mut tempfile::NamedTempFile) -> Result<()>,
) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    write(&mut file)?;
    file.as_file_mut().flush()?;
    // `write` may have replaced the file under the temporary name.
    let mut written = File::open(file.path())?;
    // A descriptor cannot always be opened anew, and would be written from its beginning.
    let mut to: Box<dyn Write> = match descriptor(stream) {
        Some(1) => Box::new(io::stdout().lock()),
        Some(2) => Box::new(io::stderr().lock()),
        _ => Box::new(File::options().append(true).open(stream)?),
    };
    io::copy(&mut written, &mut to)?;
    Ok(to.flush()?)
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

/// Files that mean something only if this process finishes its work.
static TENTATIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Has [`remove_own_temporaries`] remove this file too, until [`keep`].
pub fn remove_on_quit(path: &Path) {
    tentative().push(path.to_owned());
}

/// Takes [`remove_on_quit`] back.
pub fn keep(path: &Path) {
    tentative().retain(|other| other != path);
}

fn tentative() -> MutexGuard<'static, Vec<PathBuf>> {
    TENTATIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the temporary files that this process is writing at the moment, for a process that ends in the middle of it.
pub fn remove_own_temporaries() {
    for path in tentative().drain(..) {
        let _ = std::fs::remove_file(path);
    }
    for path in own_temporaries() {
        let _ = std::fs::remove_file(path);
    }
}

/// The open files with the name of a temporary one that this process opened itself, for writing: what a shell redirects
/// to, and whatever is only read, is not among them.
fn own_temporaries() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let temporary = |entry: std::fs::DirEntry| {
        let about = |what| Path::new("/proc/self").join(what).join(entry.file_name());
        let info = std::fs::read_to_string(about("fdinfo")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = OFlags::from_bits_retain(u32::from_str_radix(flags.trim(), 8).ok()?);
        let target = std::fs::read_link(about("fd")).ok()?.into_os_string();
        // The safetensors crate replaces the file under our name by its own.
        let name = target.as_bytes();
        let path = Path::new(OsStr::from_bytes(
            name.strip_suffix(b" (deleted)").unwrap_or(name),
        ));
        let ours = flags.contains(OFlags::CLOEXEC) && flags.intersects(OFlags::RWMODE);
        let named = path.file_name()?.as_bytes().starts_with(b".tmp");
        (ours && named && path.is_file()).then(|| path.to_owned())
    };
    entries.flatten().filter_map(temporary).collect()
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

/// A file that is locked (`flock`), until this goes.
///
/// Closing the file would not be enough: a process that another thread is just starting has a copy of it until it becomes
/// another program, and with it the lock.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// The file, which is locked already; or not, where the file system has no locks.
    pub(crate) fn new(file: File) -> Locked {
        Locked(file)
    }

    /// Another handle of the same open file.
    #[cfg(test)]
    pub(crate) fn copy(&self) -> File {
        self.0.try_clone().unwrap()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Where there are no locks, there is none to give back.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

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
    fn only_files_that_are_being_written_here_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "old").unwrap();
        std::fs::write(dir.path().join(".tmp-input"), "theirs").unwrap();
        let _read = std::fs::File::open(dir.path().join(".tmp-input")).unwrap();
        let here = || {
            let mut found = own_temporaries();
            found.retain(|path| path.starts_with(dir.path()));
            found
        };
        assert!(here().is_empty());
        let failed = write_atomic(&path, |file| {
            assert_eq!(here(), [file.path()]);
            // Under the same name, as safetensors does.
            let other = tempfile::NamedTempFile::new_in(dir.path())?;
            assert_eq!(here().len(), 2);
            other.persist(file.path())?;
            assert_eq!(here(), [file.path()]);
            std::fs::remove_file(file.path())?;
            assert!(here().is_empty());
            Ok(())
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn only_files_are_opened_and_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let socket = dir.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, kind) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (dir.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read_regular(path, 9).unwrap_err().to_string();
            let wanted = format!(
                "cannot read {}: it is {kind}, and a regular file is expected there",
                path.display()
            );
            assert_eq!(error, wanted);
        }
        let missing = read_text(&dir.path().join("missing"), 9).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        let error = read_text(&path, 3).unwrap_err().to_string();
        assert!(
            error.ends_with("a.txt: it is longer than 3 bytes"),
            "{error}"
        );
        std::fs::write(&path, b"\xff").unwrap();
        let error = read_text(&path, 3).unwrap_err().to_string();
        assert!(error.ends_with("is not UTF-8 text"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_bytes(Path::new("/no/such/folder/x"), b"").unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/folder"));
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        std::fs::create_dir(at("below")).unwrap();
        write_bytes(&at("below/a.txt"), b"old").unwrap();
        link("below/a.txt", "one");
        link("one", "two");
        link("below/new.txt", "to-nothing");
        for (name, target) in [("two", "below/a.txt"), ("to-nothing", "below/new.txt")] {
            check_writable(&at(name)).unwrap();
            write_bytes(&at(name), b"new").unwrap();
            assert!(at(name).is_symlink());
            assert!(!at(target).is_symlink());
            assert_eq!(std::fs::read(at(target)).unwrap(), b"new");
        }
        link("circle", "circle");
        link("below", "folder");
        for (name, said) in [("circle", "links"), ("folder", "directory"), ("no/x", "no")] {
            let errors = [check_writable(&at(name)), write_bytes(&at(name), b"")];
            for error in errors {
                let error = format!("{:#}", error.unwrap_err());
                assert!(error.contains(name) && error.contains(said), "{error}");
            }
        }
    }

    #[test]
    fn a_device_or_a_pipe_is_written_to_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        for path in [Path::new("/dev/null"), &null] {
            check_writable(path).unwrap();
            write_bytes(path, b"gone").unwrap();
            assert!(Target::of(path).unwrap().is_null());
            let kind = std::fs::metadata(path).unwrap().file_type();
            assert!(kind.is_char_device());
        }
        assert!(null.is_symlink());
        assert!(Target::of(Path::new("/dev/stdout")).unwrap().is_stdout());

        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).unwrap()
        });
        write_bytes(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        let kind = std::fs::symlink_metadata(&pipe).unwrap().file_type();
        assert!(kind.is_fifo());
    }
}

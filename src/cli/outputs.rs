//! What a command reads and writes, checked before its work.
//!
//! An output never overwrites an input of its command, a file of a run, a training checkpoint, or another output. Any
//! other file that is there is replaced only with `--force`, or where its name is the command's default one. A folder
//! with the record of an interrupted sampling is for that sampling alone. Links are followed; files that exist are
//! compared by device and inode, others by their folder and name.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::out;
use super::sample::record::Record;
use crate::checkpoint::{holds_training_state, run_that_owns};
use crate::data::has_image_ending;
use crate::fs::{Target, check_writable, folder_of};
use crate::text::{plural, printable};

/// `--force`, for commands that write files.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct ForceArg {
    /// Replace files that exist; what the command reads, and the files of a run, are never replaced
    #[arg(long)]
    pub(super) force: bool,
}

/// The files of a command: name all of them, then [`check`](Outputs::check).
#[derive(Debug)]
pub(super) struct Outputs {
    force: bool,
    inputs: Vec<PathBuf>,
    outputs: Vec<Output>,
    /// The folder of a run that may not exist yet.
    run: Option<PathBuf>,
    /// An interrupted sampling may go on.
    goes_on: bool,
}

/// A file, or some, that a command writes.
#[derive(Debug)]
struct Output {
    /// As on the command line.
    flag: &'static str,
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A file with one of these endings; any with none.
    File(&'static [&'static str]),
    /// A file that is the command's to replace, of the default name or checked by its reader.
    OwnFile(&'static [&'static str]),
    /// A new or empty folder.
    Folder,
    /// A folder, perhaps with other files in it, for this number of images.
    Images(u64),
}

impl Outputs {
    /// Nothing yet; `force` allows to replace files that exist.
    pub(super) fn new(force: ForceArg) -> Outputs {
        Outputs {
            force: force.force,
            inputs: Vec::new(),
            outputs: Vec::new(),
            run: None,
            goes_on: false,
        }
    }

    /// Files or folders that the command reads. Those that do not exist are left to their readers.
    pub(super) fn reads<P: AsRef<Path>>(&mut self, paths: impl IntoIterator<Item = P>) {
        let paths = paths.into_iter().map(|path| path.as_ref().to_owned());
        self.inputs.extend(paths);
    }

    /// The folder of the run that the command begins or continues.
    pub(super) fn runs_in(&mut self, dir: Option<&Path>) {
        self.run = dir.map(Path::to_owned);
    }

    /// A file with one of these endings; with none in the list, any name will do. `default` is the name that needs no
    /// --force.
    pub(super) fn writes(
        &mut self,
        flag: &'static str,
        path: &Path,
        endings: &'static [&'static str],
        default: Option<&str>,
    ) {
        let kind = match default {
            Some(name) if path == Path::new(name) => Kind::OwnFile(endings),
            _ => Kind::File(endings),
        };
        self.push(flag, path, kind);
    }

    /// A file that is read too, by a reader that refuses those of others.
    pub(super) fn updates(&mut self, flag: &'static str, path: &Path) {
        self.push(flag, path, Kind::OwnFile(&[]));
    }

    /// A new or empty folder.
    pub(super) fn makes_folder(&mut self, flag: &'static str, dir: &Path) {
        self.push(flag, dir, Kind::Folder);
    }

    /// A folder that receives [`image_name`] of 0 to `number` - 1.
    pub(super) fn fills(&mut self, flag: &'static str, dir: &Path, number: u64) {
        self.push(flag, dir, Kind::Images(number));
    }

    /// A folder with the record of a sampling, and the images that it counts, may be filled further. The command
    /// compares the record itself.
    pub(super) fn may_go_on(&mut self) {
        self.goes_on = true;
    }

    fn push(&mut self, flag: &'static str, path: &Path, kind: Kind) {
        self.outputs.push(Output {
            flag,
            path: path.to_owned(),
            kind,
        });
    }

    /// True if an output is written to standard output, which then holds nothing else.
    fn take_stdout(&self) -> bool {
        let target = |output: &Output| Target::of(&output.path);
        (self.outputs.iter()).any(|output| target(output).is_ok_and(|target| target.is_stdout()))
    }

    /// Refuses an output on standard output where what this flag asks for `is_printed`.
    ///
    /// # Errors
    /// There is one.
    pub(super) fn prints(&self, is_printed: bool, flag: &str) -> Result<()> {
        ensure!(
            !(is_printed && self.take_stdout()),
            "{flag} writes to standard output, and so does another output; give that a name"
        );
        Ok(())
    }

    /// Prints a line of the command's result: on stdout, or on stderr if an output is written to stdout.
    pub(super) fn print(&self, line: &str) {
        match self.take_stdout() {
            true => out::say(line),
            false => out::result(line),
        }
    }

    /// Refuses what cannot be written or must not be. Nothing on disk is changed.
    ///
    /// # Errors
    /// The first output that must not be written, with the flag, the file and what to do.
    pub(super) fn check(&self) -> Result<()> {
        let mut seen: Vec<(&Output, Identity)> = Vec::new();
        for output in &self.outputs {
            let files = self.check_one(output)?;
            for (path, identity) in &files {
                let same = seen.iter().find(|(_, other)| other == identity);
                if let Some((other, _)) = same {
                    bail!(
                        "{} and {} {} are the same file; give each its own name",
                        other.name(),
                        output.flag,
                        shown(path)
                    );
                }
            }
            seen.extend(files.into_iter().map(|(_, identity)| (output, identity)));
        }
        Ok(())
    }

    /// The files that this output writes and another one might.
    fn check_one(&self, output: &Output) -> Result<Vec<(PathBuf, Identity)>> {
        match output.kind {
            Kind::File(endings) => self.check_file(output, endings, self.force),
            Kind::OwnFile(endings) => self.check_file(output, endings, true),
            Kind::Folder => {
                self.check_new_folder(output)?;
                Ok(vec![])
            }
            Kind::Images(number) => self.check_images(output, number),
        }
    }

    fn check_file(
        &self,
        output: &Output,
        endings: &[&str],
        replace: bool,
    ) -> Result<Vec<(PathBuf, Identity)>> {
        let path = &output.path;
        if self.is_made_here(folder_of(path)) {
            return Ok(vec![(path.clone(), Identity::Path(path.clone()))]);
        }
        let target = target_of(output, path)?;
        let Target::File(file) = &target else {
            ensure!(
                !endings.is_empty(),
                "{} cannot be read again; name a file",
                output.name()
            );
            check_writable(path).context(output.flag)?;
            return Ok(match target.is_null() {
                true => vec![],
                false => vec![(path.clone(), Identity::of(&target))],
            });
        };
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        ensure!(
            endings.is_empty() || endings.iter().any(|known| ending == *known),
            "{}: want a name ending in {}",
            output.name(),
            list(endings)
        );
        self.refuse_precious(output.flag, path, file)?;
        ensure!(
            replace || !file.exists(),
            "{} exists; choose another name, or replace it with --force",
            output.name()
        );
        check_writable(path).context(output.flag)?;
        Ok(vec![(path.clone(), Identity::of(&target))])
    }

    /// Refuses to overwrite what --force does not help against.
    fn refuse_precious(&self, flag: &str, path: &Path, file: &Path) -> Result<()> {
        let name = format!("{flag} {}", shown(path));
        if let Some(input) = self.input_at(file) {
            bail!(
                "{name} would overwrite {}, which this command reads; choose another name",
                shown(input)
            );
        }
        if let Some(run) = self.owner(file) {
            bail!(
                "{name} is a place for files of the run {} alone; choose a name outside of it",
                shown(&run)
            );
        }
        if let Some(input) = self.input_joined_by(file) {
            bail!(
                "{name} would be one of the images of {} from then on; choose a place outside of it",
                shown(input)
            );
        }
        ensure!(
            !holds_training_state(file),
            "{name} is a training checkpoint, which is never overwritten; choose another name"
        );
        Ok(())
    }

    /// The input that `file` is, or that it is a part of. Of a run, its own files are refused and others are not read.
    fn input_at(&self, file: &Path) -> Option<&Path> {
        let found = std::fs::metadata(file).ok()?;
        let reads = |input: &PathBuf| match std::fs::metadata(input) {
            Ok(other) if other.is_dir() => {
                let inside = std::fs::canonicalize(input).is_ok_and(|dir| file.starts_with(dir));
                inside && !input.join("config.toml").exists()
            }
            Ok(other) => inode(&found) == inode(&other),
            Err(_) => false,
        };
        let input = self.inputs.iter().find(|input| reads(input));
        input.map(PathBuf::as_path)
    }

    /// The folder of images that a new file would become a part of. Those of a network are not read for images.
    fn input_joined_by(&self, file: &Path) -> Option<&Path> {
        if !has_image_ending(file) {
            return None;
        }
        let is_network = |dir: &Path| {
            let files = ["config.toml", "config.json", "model_index.json"];
            files.iter().any(|name| dir.join(name).exists())
        };
        let joined = |input: &PathBuf| {
            let dir = std::fs::canonicalize(input);
            dir.is_ok_and(|dir| dir.is_dir() && file.starts_with(&dir) && !is_network(&dir))
        };
        let input = self.inputs.iter().find(|input| joined(input));
        input.map(PathBuf::as_path)
    }

    fn owner(&self, file: &Path) -> Option<PathBuf> {
        run_that_owns(file, self.run.as_deref())
    }

    fn check_new_folder(&self, output: &Output) -> Result<()> {
        let dir = &output.path;
        if let Ok(mut files) = std::fs::read_dir(dir) {
            ensure!(
                files.next().is_none(),
                "{} is there already, with files in it; choose a new folder",
                output.name()
            );
        }
        ensure!(
            dir.is_dir() || std::fs::symlink_metadata(dir).is_err(),
            "{} is there already, and no folder; choose another name",
            output.name()
        );
        self.check_place_of_folder(output)
    }

    fn check_images(&self, output: &Output, number: u64) -> Result<Vec<(PathBuf, Identity)>> {
        let dir = &output.path;
        ensure!(
            dir.is_dir() || !dir.exists(),
            "{} is a file; choose a folder",
            output.name()
        );
        self.check_place_of_folder(output)?;
        let goes_on = self.check_record(output)?;
        // There may be a million images: those are looked at that are there, or that another output names.
        let mut there = images_in(dir, number)?;
        for path in &there {
            if let Target::File(file) = target_of(output, path)? {
                self.refuse_precious(output.flag, path, &file)?;
            }
        }
        if let (Some(first), false) = (there.first(), self.force || goes_on) {
            bail!(
                "{} holds {} that would be overwritten, {} the first; choose another folder, or replace them with \
                 --force",
                output.name(),
                plural(there.len() as u64, "file"),
                shown(Path::new(first.file_name().unwrap_or_default()))
            );
        }
        let others = self.outputs.iter().map(|other| &other.path);
        let named = others.filter(|path| is_image_name(path, number));
        there.extend(named.map(|path| dir.join(path.file_name().unwrap_or_default())));
        let identity = |path: PathBuf| {
            let target = Target::of(&path);
            // In a folder that does not exist yet.
            let target = target.unwrap_or_else(|_| Target::File(path.clone()));
            (path, Identity::of(&target))
        };
        Ok(there.into_iter().map(identity).collect())
    }

    /// True if a sampling into this folder was interrupted, and may go on.
    fn check_record(&self, output: &Output) -> Result<bool> {
        match Record::read(&output.path) {
            found if self.goes_on => Ok(found.context(output.flag)?.is_some()),
            Ok(Some(_)) => bail!(
                "{} holds an interrupted `ddpm sample`, which goes on when it is given again; choose another folder",
                output.name()
            ),
            _ => Ok(false),
        }
    }

    /// True for the folder of another output, which is made before the first file is written.
    fn is_made_here(&self, folder: &Path) -> bool {
        let makes =
            |output: &Output| matches!(output.kind, Kind::Images(_)) && output.path == folder;
        !folder.exists() && self.outputs.iter().any(makes)
    }

    /// A folder, made or to be made, outside of a run's own.
    fn check_place_of_folder(&self, output: &Output) -> Result<()> {
        let dir = &output.path;
        let dir = &std::path::absolute(dir)?;
        let existing = dir.ancestors().find(|at| at.exists());
        let existing = existing.unwrap_or(dir);
        tempfile::tempfile_in(existing)
            .with_context(|| format!("{}: no new file in {}", output.name(), shown(existing)))?;
        let inside = std::fs::canonicalize(existing)?;
        let inside = inside.join(dir.strip_prefix(existing).unwrap_or(Path::new("")));
        if let Some(run) = self.owner(&inside.join("00000.png")) {
            bail!(
                "{} is a place for files of the run {} alone; choose a folder outside of it",
                output.name(),
                shown(&run)
            );
        }
        Ok(())
    }
}

impl Output {
    /// As on the command line.
    fn name(&self) -> String {
        format!("{} {}", self.flag, shown(&self.path))
    }
}

/// What tells files apart.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode of a file that exists.
    Inode(u64, u64),
    /// A file that does not.
    Path(PathBuf),
}

impl Identity {
    fn of(target: &Target) -> Identity {
        let (Target::File(path) | Target::Stream(path)) = target;
        match std::fs::metadata(path) {
            Ok(found) => {
                let (device, inode) = inode(&found);
                Identity::Inode(device, inode)
            }
            Err(_) => Identity::Path(path.clone()),
        }
    }
}

fn inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The file that is written, with the reason if it cannot be.
fn target_of(output: &Output, path: &Path) -> Result<Target> {
    let name = || format!("{} {}", output.flag, shown(path));
    ensure!(
        !path.is_dir(),
        "{} is a folder; choose the name of a file",
        name()
    );
    let folder = folder_of(path);
    ensure!(
        folder.is_dir(),
        "{}: there is no folder {}; make it first",
        name(),
        shown(folder)
    );
    Target::of(path).with_context(name)
}

/// A path to write to; `-` is standard output.
pub(super) fn path_or_stdout() -> impl TypedValueParser<Value = PathBuf> {
    let path = |path: PathBuf| match path.as_os_str() == "-" {
        true => "/dev/stdout".into(),
        false => path,
    };
    PathBufValueParser::new().map(path)
}

/// The name of a separate image.
pub(super) fn image_name(number: u64) -> String {
    format!("{number:05}.png")
}

/// True for the name of one of the first `number` images.
fn is_image_name(path: &Path, number: u64) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let index = name.and_then(|name| name.strip_suffix(".png")?.parse::<u64>().ok());
    index.is_some_and(|index| index < number && name == Some(&image_name(index)))
}

/// The files of a folder that the first `number` images would overwrite, sorted; none without the folder.
pub(super) fn images_in(dir: &Path, number: u64) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if dir.is_dir() {
        for entry in fs_err::read_dir(dir)? {
            let path = entry?.path();
            if is_image_name(&path, number) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// ".png", ".a or .b", ".a, .b or .c".
fn list(endings: &[&str]) -> String {
    let dotted: Vec<String> = endings.iter().map(|ending| format!(".{ending}")).collect();
    match dotted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

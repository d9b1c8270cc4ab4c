//! The images of a run: a resumed run must have the same ones.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::data::{Loaded, Manifest};
use crate::fs::write_bytes;

/// Refuses a folder that has changed: the order of images depends on all of them, so the result would be that of neither
/// folder. Built-in images depend on the settings only.
///
/// `count` is the number in the checkpoint, for runs older than the list of images.
///
/// # Errors
/// The images have changed; the message says how, and what to do.
pub(super) fn refuse_others(
    folder: &RunFolder,
    config: &RunConfig,
    data: &Loaded,
    count: u64,
) -> Result<()> {
    if config.data.folder.is_none() {
        return Ok(());
    }
    let list = folder.images_path();
    let now = data.manifest.len() as u64;
    let change = if list.exists() {
        data.manifest.differences(&Manifest::read(&list)?)
    } else {
        (count != now).then(|| format!("{now} instead of {count} images"))
    };
    if let Some(change) = change {
        let run = folder.dir().display();
        bail!(
            "the images of this run have changed: {change}. Put them back, or start a new run with its weights: ddpm train --data DIR --run NEW --init-from {run}"
        );
    }
    Ok(())
}

/// Lists the files that could not be read, each with the reason; a start prints the first few only.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn write_skipped(folder: &RunFolder, data: &Loaded) -> Result<()> {
    let line = |(path, reason): &(PathBuf, String)| {
        let path = path.to_string_lossy();
        format!("{}\t{}\n", path.escape_debug(), reason.escape_debug())
    };
    let lines: String = data.skipped.iter().map(line).collect();
    let path = folder.skipped_path();
    if lines.is_empty() && !path.exists() {
        return Ok(());
    }
    write_bytes(&path, lines.as_bytes())
}

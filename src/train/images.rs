//! The images of a run: a resumed run must have the same ones, wherever they are now.

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow, bail};

use crate::checkpoint::{Checkpoint, RunFolder};
use crate::config::RunConfig;
use crate::data::{DataError, Loaded, Manifest};
use crate::fs::write_bytes;
use crate::text::{self, printable};

/// Refuses other images than those that `checkpoint` was trained on: their order depends on all of them, so the result
/// would be that of neither data set. Where they lie, and under which names, does not matter; a new place is returned
/// as a line to show. Built-in images depend on the settings only.
///
/// Runs older than the list of images know their number only.
///
/// # Errors
/// The images have changed; the message says how, and what to do.
pub(super) fn refuse_others(
    folder: &RunFolder,
    config: &RunConfig,
    data: &Loaded,
    checkpoint: &Checkpoint,
) -> Result<Option<String>> {
    let Some(place) = &config.data.folder else {
        return Ok(None);
    };
    let list = folder.images_path();
    let now = data.manifest.len() as u64;
    let listed = list.try_exists()?;
    let change = if listed {
        let before = Manifest::read(&list)?;
        match data.manifest.same_images(&before) {
            true => None,
            false => data.manifest.differences(&before),
        }
    } else {
        let count = checkpoint.meta.images;
        (count != now).then(|| format!("{now} instead of {count} images"))
    };
    if let Some(change) = change {
        let run = text::shell(folder.dir());
        bail!(
            "the images of this run have changed: {change}. Put them back, or start a new run with its weights: ddpm train --data DIR --run NEW --init-from {run}"
        );
    }
    let before = checkpoint.meta.config.data.folder.as_ref();
    let place = place.display();
    Ok(match listed {
        true if before == config.data.folder.as_ref() => None,
        true => Some(format!("images from {place}: the same {now} as before")),
        false => Some(format!(
            "images from {place}: {now}, as many as before; they are not compared, as pictures.tsv is missing"
        )),
    })
}

/// An error in loading the images of an existing run, with what to do if they are no longer where they were.
pub(super) fn gone(error: Error, folder: &RunFolder) -> Error {
    match error.downcast_ref() {
        Some(
            DataError::NoSuchFolder { .. }
            | DataError::NotAFolder { .. }
            | DataError::NoImages { .. },
        ) => anyhow!(
            "{error}. The images of this run are not where they were: put them back, or name the folder that they are in now: ddpm train --run {} --data DIR",
            text::shell(folder.dir())
        ),
        _ => error,
    }
}

/// Lists the files that could not be read, each with the reason; a start prints the first few only.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn write_skipped(folder: &RunFolder, data: &Loaded) -> Result<()> {
    let line = |(path, reason): &(PathBuf, String)| {
        format!("{}\t{}\n", text::path(path), printable(reason))
    };
    let lines: String = data.skipped.iter().map(line).collect();
    let path = folder.skipped_path();
    if lines.is_empty() && !path.exists() {
        return Ok(());
    }
    write_bytes(&path, lines.as_bytes())
}

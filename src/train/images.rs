//! The images of a run: a resumed run must have the same ones, wherever they are now.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};

use super::Trainer;
use super::some_images::trained_on;
use crate::checkpoint::{Checkpoint, RunFolder};
use crate::config::RunConfig;
use crate::data::{DataError, Labels, Loaded, Manifest};
use crate::fs::write_bytes;
use crate::images::to_array;
use crate::report::{grid, write_png};
use crate::text::{self, printable};

/// Most pixels a side of the sheet of images, and most images a side.
const SHEET_SIDE: i64 = 1024;
const SHEET_ACROSS: i64 = 8;

/// Refuses other images than those that `checkpoint` was trained on: their order depends on all of them, so the result
/// would be that of neither data set. Where they lie, and under which names, does not matter; a new place is returned
/// as a line to show. Built-in images depend on the settings only. Images that are held out must be the same too.
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
    let held_out = refuse_others_held_out(folder, data)?;
    let Some(place) = &config.data.folder else {
        return Ok(held_out);
    };
    let list = folder.images_path();
    let now = data.manifest.len() as u64;
    let listed = list.try_exists()?;
    let change = if listed {
        changes(&data.manifest, &list)?
    } else {
        let count = checkpoint.meta.images;
        (count != now).then(|| format!("{now} instead of {count} images"))
    };
    if let Some(change) = change {
        bail!(changed("the images of this run", &change, folder));
    }
    let before = checkpoint.meta.config.data.folder.as_ref();
    let moved = match listed {
        true if before == config.data.folder.as_ref() => None,
        true => Some(format!("images from {place}: the same {now} as before")),
        false => Some(format!(
            "images from {place}: {now}, as many as before; they are not compared, as pictures.tsv is missing"
        )),
    };
    // After the images: labels of others are others.
    let labels = refuse_other_labels(folder, config, data)?;
    let said: Vec<String> = moved.into_iter().chain(held_out).chain(labels).collect();
    Ok((!said.is_empty()).then(|| said.join("\n")))
}

/// Refuses other images held out than those that the run began with: it may have been trained on some of them.
///
/// # Errors
/// As [`refuse_others`].
fn refuse_others_held_out(folder: &RunFolder, data: &Loaded) -> Result<Option<String>> {
    let Some(held_out) = &data.held_out else {
        return Ok(None);
    };
    let list = folder.held_out_path();
    if !list.try_exists()? {
        return Ok(Some(
            "the images held out are not compared with those of before, as held_out.tsv is missing"
                .to_owned(),
        ));
    }
    match changes(&held_out.manifest, &list)? {
        None => Ok(None),
        Some(change) => bail!(changed("the images held out of this run", &change, folder)),
    }
}

/// Refuses other classes, or images of other classes, than those that the run began with.
///
/// # Errors
/// As [`refuse_others`].
fn refuse_other_labels(
    folder: &RunFolder,
    config: &RunConfig,
    data: &Loaded,
) -> Result<Option<String>> {
    let matter = config.data.balance || config.model.classes().is_some();
    let list = folder.labels_path();
    let change = match (&data.labels, list.try_exists()?) {
        (None, false) => None,
        (Some(_), false) => {
            return Ok(Some(
                "the labels are not compared with those of before, as labels.tsv is missing"
                    .to_owned(),
            ));
        }
        (None, true) => Some("the images have none now".to_owned()),
        (Some(now), true) => now.differences(&Labels::read(&list)?),
    };
    match change {
        None => Ok(None),
        Some(change) if matter => bail!(changed("the labels of this run", &change, folder)),
        Some(change) => Ok(Some(format!(
            "note: the labels have changed, which play no part in this run: {change}"
        ))),
    }
}

/// How images are others than those of a list, whatever their names.
fn changes(now: &Manifest, list: &Path) -> Result<Option<String>> {
    let before = Manifest::read(list)?;
    Ok(match now.same_images(&before) {
        true => None,
        false => now.differences(&before),
    })
}

fn changed(what: &str, change: &str, folder: &RunFolder) -> String {
    let run = text::shell(folder.dir());
    format!(
        "{what} have changed: {change}. Put them back, or start a new run with its weights: ddpm train --data DIR --run NEW --init-from {run}"
    )
}

/// Lists the images of a run, their labels, and those held out.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn write_lists(folder: &RunFolder, data: &Loaded) -> Result<()> {
    data.manifest.write(&folder.images_path())?;
    if let Some(held_out) = &data.held_out {
        held_out.manifest.write(&folder.held_out_path())?;
    }
    if let Some(labels) = &data.labels {
        labels.write(&folder.labels_path())?;
    }
    write_skipped(folder, data)
}

/// Writes data.png, a sheet of images from all over the set, for the report: it shows crops, colours and what should not be there. Those of a
/// run stay the same, and so does its sheet.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn write_sheet(folder: &RunFolder, data: &Loaded) -> Result<()> {
    let path = folder.sheet_path();
    if path.exists() {
        return Ok(());
    }
    let side = data.store.pixels().size()[2..]
        .iter()
        .copied()
        .max()
        .unwrap_or(1)
        .max(1);
    let across = (SHEET_SIDE / side).clamp(2, SHEET_ACROSS);
    let images = trained_on(data, (across * across) as usize)?;
    write_png(&path, grid(to_array(&images).view()).view())
}

/// Has `trainer` draw images from all classes alike, if the settings say so.
///
/// # Errors
/// Nothing says the classes.
pub(super) fn balance(trainer: &mut Trainer, config: &RunConfig, data: &Loaded) -> Result<()> {
    if config.data.balance {
        let labels = data.labels.as_ref();
        let any = |labels: &&Labels| labels.of.iter().any(Option::is_some);
        let labels = labels.filter(any).with_context(|| {
            let why = data.why_no_labels.as_ref();
            format!(
                "`data.balance` = true: nothing says the classes of the images{}; name what does with `data.labels`, or \
                 leave it out",
                why.map_or(String::new(), |why| format!(", as {why}"))
            )
        })?;
        trainer.balance(labels);
    }
    Ok(())
}

/// An error in loading the images of an existing run, with what to do if they are no longer where they were.
pub(super) fn gone(error: Error, folder: &RunFolder) -> Error {
    match error.downcast_ref() {
        Some(
            DataError::NoSuchFolder { .. }
            | DataError::NotAFolder { .. }
            | DataError::NoSource { .. }
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
fn write_skipped(folder: &RunFolder, data: &Loaded) -> Result<()> {
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

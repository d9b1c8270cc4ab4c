//! What reading a file found, on the terminal.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tch::Device;

use super::flags::with_flags;
use super::out::say;
use crate::checkpoint::Damaged;
use crate::interop::{MissingHints, Report, Request};
use crate::pretrained::{self, Pretrained};
use crate::text::printable;

/// Loads a network and tells what was found in a file of another program, also where that is not enough to load it.
///
/// # Errors
/// As [`Pretrained::load_with`].
pub(super) fn load(argument: &Path, request: &Request, device: Device) -> Result<Pretrained> {
    let loaded = Pretrained::load_with(argument, request, device).inspect_err(tell_of_missing)?;
    warn_of_damaged(&loaded.damaged, &loaded.path);
    loaded.report.iter().for_each(tell);
    for line in &loaded.replaced {
        say(&with_flags(line));
    }
    for name in request.uses.idle(&request.hints) {
        say(&with_flags(&format!(
            "note: `hints.{name}` plays no part here"
        )));
    }
    Ok(loaded)
}

/// The file of ours that an argument means; `None` for anything else that is there.
///
/// # Errors
/// As [`pretrained::ours`].
pub(super) fn ours(argument: &Path) -> Result<Option<PathBuf>> {
    let found = pretrained::ours(argument)?;
    Ok(found.map(|(path, damaged)| {
        warn_of_damaged(&damaged, &path);
        path
    }))
}

fn warn_of_damaged(damaged: &[Damaged], taken: &Path) {
    for damaged in damaged {
        say(&format!("warning: {damaged}; taking {}", taken.display()));
    }
}

/// Tells what was found in a file that leaves too much open.
pub(super) fn tell_of_missing(error: &anyhow::Error) {
    if let Some(missing) = error.downcast_ref::<MissingHints>() {
        tell(&missing.report);
    }
}

/// Tells people what was found in a foreign file, on stderr.
pub(super) fn tell(report: &Report) {
    for fact in &report.facts {
        say(&format!(
            "  {}: {} (from {})",
            fact.what,
            printable(&fact.value),
            fact.from
        ));
    }
    for assumption in &report.assumptions {
        say(&with_flags(&format!("  assumed: {assumption}")));
    }
    for line in &report.replaced {
        say(&with_flags(&format!("  {line}")));
    }
}

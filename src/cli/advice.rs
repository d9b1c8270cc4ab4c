//! What to do with a file that a command cannot use as it is.

use std::path::Path;

use anyhow::Error;

use crate::interop::MissingHints;

/// An error of `train --init-from` about a file of another program that leaves something open. The flags of `train` are
/// the run's settings and answer nothing about a file; `ddpm import` takes the hints, and this names the whole command.
pub(super) fn to_import_first(error: Error, file: &Path, raw: bool) -> Error {
    let Some((flags, lines)) = asked(&error) else {
        return error;
    };
    let stem = file.file_stem().unwrap_or(file.as_os_str());
    let out = format!("{}-imported.safetensors", stem.to_string_lossy());
    let raw = if raw { " --raw" } else { "" };
    let (shown, quoted, out) = (
        file.display(),
        shell_word(&file.to_string_lossy()),
        shell_word(&out),
    );
    Error::msg(format!(
        "{shown} does not hold all that is needed; convert it first:\n  ddpm import {quoted}{raw}{flags} --to \
         {out}\nwith{lines}\nand start with --init-from {out}"
    ))
}

/// The flags of `import` that an error asks for, and a line for each; `None` for an error of another kind.
fn asked(error: &Error) -> Option<(String, String)> {
    let Some(missing) = error.downcast_ref::<MissingHints>() else {
        let said = format!("{error:#}");
        let request = [
            ("`request.config`", "--config FILE.toml"),
            ("`request.key`", "--key PATH"),
        ];
        let (_, flag) = request.into_iter().find(|(name, _)| said.contains(name))?;
        return Some((format!(" {flag}"), format!("\n  {flag}  {said}")));
    };
    let hints = &missing.report.missing;
    let first = |flag: &str| flag.split(" or ").next().unwrap_or(flag).to_owned();
    let flags = hints.iter().map(|hint| format!(" {}", first(&hint.flag)));
    let lines = (hints.iter()).map(|hint| format!("\n  {}  {}", hint.flag, hint.about));
    Some((flags.collect(), lines.collect()))
}

/// A word for a shell, in quotes if it needs them.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;

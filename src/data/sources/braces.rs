//! Several paths as one: `shard-{000000..000146}.tar`, `{train,val}.zip`.

use std::path::{Path, PathBuf};

use crate::data::error::DataError;

/// Most paths that one stands for.
const MAX_PATHS: usize = 100_000;

/// The paths that a path stands for, as a shell expands braces: itself, if it has none, or if there is such a file.
///
/// # Errors
/// More than 100,000 paths.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let Some(text) = path.to_str().filter(|_| !path.exists()) else {
        return Ok(vec![path.to_owned()]);
    };
    let mut done = Vec::new();
    let mut open = vec![text.to_owned()];
    while let Some(text) = open.pop() {
        match first(&text) {
            None => done.push(PathBuf::from(text)),
            // The last is taken first.
            Some(texts) => open.extend(texts.into_iter().rev()),
        }
        if done.len() + open.len() > MAX_PATHS {
            return Err(super::bad(
                path,
                format!("it stands for more than {MAX_PATHS} files"),
            ));
        }
    }
    Ok(done)
}

/// The texts for each choice of the first braces; `None` if there are none.
fn first(text: &str) -> Option<Vec<String>> {
    for (open, _) in text.match_indices('{') {
        let Some(length) = text[open..].find('}') else {
            break;
        };
        let (before, inner, after) = (
            &text[..open],
            &text[open + 1..open + length],
            &text[open + length + 1..],
        );
        if let Some(choices) = choices(inner) {
            let with = |choice: String| format!("{before}{choice}{after}");
            return Some(choices.into_iter().map(with).collect());
        }
    }
    None
}

fn choices(inner: &str) -> Option<Vec<String>> {
    if inner.contains(',') {
        return Some(inner.split(',').map(str::to_owned).collect());
    }
    let (from, to) = inner.split_once("..")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(from) || !digits(to) {
        return None;
    }
    // Zeros before a number keep its length.
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let width = match padded(from) || padded(to) {
        true => from.len().max(to.len()),
        false => 0,
    };
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    let number = |n: u64| format!("{n:0width$}");
    // One more than there may be is seen as too many.
    Some(match from <= to {
        true => (from..=to).take(MAX_PATHS + 1).map(number).collect(),
        false => (to..=from).rev().take(MAX_PATHS + 1).map(number).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Vec<String> {
        let paths = expand(Path::new(text)).unwrap();
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    #[test]
    fn braces_stand_for_several_paths() {
        assert_eq!(
            expanded("a-{008..011}.tar"),
            ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
        );
        assert_eq!(expanded("{2..0}"), ["2", "1", "0"]);
        assert_eq!(
            expanded("{a,b}/{9..10}.zip"),
            ["a/9.zip", "a/10.zip", "b/9.zip", "b/10.zip"]
        );
        for text in ["a", "a{b}", "a{", "}{", "{x..y}", "{..}", "{1..}"] {
            assert_eq!(expanded(text), [text]);
        }
        for many in ["{0..99999999999}", "{0..999}{0..999}"] {
            let error = expand(Path::new(many)).unwrap_err().to_string();
            assert!(error.contains("more than 100000"), "{error}");
        }
    }

    #[test]
    fn a_file_with_braces_in_its_name_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("{a,b}");
        std::fs::write(&path, "").unwrap();
        assert_eq!(expand(&path).unwrap(), [path]);
    }
}

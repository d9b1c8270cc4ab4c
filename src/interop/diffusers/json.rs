//! Reads small JSON files.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::knobs::MAX_BYTES;
use crate::fs::open_regular;

/// The text of a settings file of at most 1 MiB.
///
/// # Errors
/// Not there, longer, or no UTF-8.
pub(crate) fn read_json(path: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut text = String::new();
        // One byte more shows that there is more.
        let bytes = open_regular(path)?
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)?;
        ensure!(
            bytes as u64 <= MAX_BYTES,
            "it is longer than {MAX_BYTES} bytes"
        );
        Ok(text)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

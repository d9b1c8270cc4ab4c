//! Arguments that name a run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::checkpoint::{RUNS, newest_run};

/// A path, or the word `latest` for the newest run.
pub(in crate::cli) fn run_or_latest() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| resolve(path).map_err(|error| error.to_string()))
}

fn resolve(path: PathBuf) -> Result<PathBuf> {
    if path.as_os_str() != "latest" {
        return Ok(path);
    }
    let newest = newest_run(Path::new(RUNS)).context("there is no run in runs/")?;
    ensure!(
        !path.exists(),
        "it means the newest run, {}, and something here has that name too: say {0} or ./latest",
        newest.display()
    );
    Ok(newest)
}

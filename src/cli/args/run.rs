//! Arguments that name a run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::checkpoint::{RUNS, newest_run};
use crate::cli::out::say;

/// A path, or the word `latest` for the newest run.
pub(in crate::cli) fn run_or_latest() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| resolve(path).map_err(|error| error.to_string()))
}

fn resolve(path: PathBuf) -> Result<PathBuf> {
    // Paths are equal whatever slashes they end with.
    if path != Path::new("latest") {
        return Ok(path);
    }
    let newest = newest_run(Path::new(RUNS)).context("there is no run in runs/")?;
    ensure!(
        !path.exists(),
        "it means the newest run, {}, and something here has that name too: say {0} or ./latest",
        newest.display()
    );
    say(&format!("latest: {}", newest.display()));
    Ok(newest)
}

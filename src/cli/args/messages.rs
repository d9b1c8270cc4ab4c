//! Flags of all commands: how much is said, and where.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::cli::log_file::{LogFile, LogFormat};
use crate::cli::out;

/// How much is said, and where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Messages")]
pub(in crate::cli) struct MessageArgs {
    /// Show errors and results only
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        hide_short_help = true
    )]
    quiet: bool,
    /// Show more: the files that are read, versions, and the time that each part takes
    #[arg(short, long, global = true, hide_short_help = true)]
    verbose: bool,
    /// Append all messages to a file too, with the time in UTC, also those that --quiet does not show
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    log: Option<PathBuf>,
    /// Form of the lines of --log
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        requires = "log",
        hide_short_help = true
    )]
    log_format: LogFormat,
}

impl MessageArgs {
    /// Has all messages go by these flags from here on.
    ///
    /// # Errors
    /// A log that cannot be written.
    pub(in crate::cli) fn apply(&self) -> Result<()> {
        if self.quiet {
            out::quiet();
        }
        if self.verbose {
            out::verbose();
        }
        if let Some(path) = &self.log {
            out::log_to(LogFile::open(path, self.log_format)?);
        }
        Ok(())
    }
}

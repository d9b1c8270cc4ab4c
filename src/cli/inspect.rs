//! `ddpm inspect`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::checkpoint::{describe, resolve};

/// Show what is inside a checkpoint, weights file or .pt file, without loading it.
#[derive(Debug, Args)]
pub(super) struct InspectCommand {
    /// File, or run folder (its newest checkpoint)
    file: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

impl InspectCommand {
    pub(super) fn run(&self) -> Result<()> {
        let description = describe(&resolve(&self.file)?)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&description)?);
        } else {
            print!("{description}");
        }
        Ok(())
    }
}

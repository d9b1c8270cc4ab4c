//! `ddpm inspect`.

mod png_image;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::run::run_or_latest;
use super::findings::ours;
use super::flags::with_flags;
use super::out;
use crate::interop::describe;
use png_image::PngImage;

/// Show the contents of a checkpoint or weights file, and the hints that `import` needs; what a PNG image was made with.
#[derive(Debug, Args)]
pub(super) struct InspectCommand {
    /// File, run folder (its newest checkpoint), or diffusers folder; or a PNG image of `sample`
    #[arg(value_parser = run_or_latest())]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl InspectCommand {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(image) = PngImage::read(&self.file)? {
            match self.json {
                true => out::json(&serde_json::to_string_pretty(&image.to_json())?),
                false => out::lines(&image.to_string()),
            }
            return Ok(());
        }
        let file = match ours(&self.file)? {
            Some(file) => file,
            None => self.file.clone(),
        };
        let description = describe(&file)?;
        if self.json {
            out::json(&serde_json::to_string_pretty(&description)?);
        } else {
            out::lines(&with_flags(&description.to_string()));
        }
        Ok(())
    }
}

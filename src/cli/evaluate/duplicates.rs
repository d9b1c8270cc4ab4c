//! `ddpm evaluate duplicates`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::source::FolderSource;
use crate::cli::out;
use crate::config::{Background, Resize};
use crate::data::ImageSpec;
use crate::evaluate::ImageSet;
use crate::evaluate::neighbours::{THUMBNAIL_SIDE, duplicates, thumbnails};
use crate::text::plural;

/// Groups that are listed without --all.
const SHOWN: usize = 20;

/// Does a data set hold the same image twice? Groups of images that look alike.
///
/// Their centre squares are compared as thumbnails of 32x32 pixels, so that copies of other sizes, quality, and
/// names are found. Images of one folder are compared, with those in the folders below it: to find what two folders share,
/// name one that holds both.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  ddpm evaluate duplicates photos")]
pub(in crate::cli) struct DuplicatesCommand {
    /// Folder of images
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Root mean square difference of two thumbnails up to which they are the same image, in levels from 0 to 255
    #[arg(long, default_value_t = 2.0, value_name = "LEVELS", value_parser = levels)]
    within: f64,
    /// List all groups
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn levels(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(levels @ 0.0..=255.0) => Ok(levels),
        _ => Err("want 0 to 255 levels".to_owned()),
    }
}

#[derive(Serialize)]
struct Found {
    images: u64,
    within_levels: f64,
    groups: Vec<Vec<String>>,
}

impl DuplicatesCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let side = THUMBNAIL_SIDE as usize;
        let spec = ImageSpec {
            resize: Resize::Fast,
            background: Background::default(),
            ..ImageSpec::rgb(side, side)
        };
        let folder = FolderSource::open(&self.dir, Some(spec))?;
        let vectors = thumbnails(&folder)?;
        let groups = duplicates(&vectors, self.within / 255.0)?;
        let named = |group: Vec<usize>| group.into_iter().map(|i| folder.name(i)).collect();
        let found = Found {
            images: vectors.size()[0] as u64,
            within_levels: self.within,
            groups: groups.into_iter().map(named).collect(),
        };
        match self.json {
            true => out::json(&serde_json::to_string(&found)?),
            false => self.print(&found, &folder.origin()),
        }
        Ok(())
    }

    fn print(&self, found: &Found, origin: &str) {
        let more: usize = found.groups.iter().map(|group| group.len() - 1).sum();
        out::result(&format!(
            "{origin}: {} that {} there already, in {}",
            plural(more as u64, "image"),
            if more == 1 { "is" } else { "are" },
            plural(found.groups.len() as u64, "group")
        ));
        let shown = if self.all { usize::MAX } else { SHOWN };
        for group in found.groups.iter().take(shown) {
            out::result(&format!("  {}", group.join("  ")));
        }
        if found.groups.len() > shown {
            out::result(&format!(
                "  and {} more groups; --all lists them",
                found.groups.len() - shown
            ));
        }
    }
}

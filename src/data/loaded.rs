//! A loaded data set.

use std::path::PathBuf;

use anyhow::Result;
use tch::Device;

use super::{HeldOut, Labels, Manifest, PassedOver, Remarks, Store};
use crate::text::plural;

/// A data set ready for training, and information about it.
#[derive(Debug)]
pub struct Loaded {
    /// The images.
    pub store: Store,
    /// Files that could not be read, each with the reason; also those recorded in the cache.
    pub skipped: Vec<(PathBuf, String)>,
    /// Files and folders below the folder that are not read, though nothing is wrong with them.
    pub passed_over: PassedOver,
    /// What was noticed about files while they were decoded; also what is recorded in the cache.
    pub remarks: Remarks,
    /// Origin of the images, human-readable.
    pub origin: String,
    /// Name and hash of each image, in the store's order.
    pub manifest: Manifest,
    /// The class of each image, in the same order, if anything says them.
    pub labels: Option<Labels>,
    /// Why there are no labels, where there could be some, in words that follow "as".
    pub why_no_labels: Option<String>,
    /// What else there is to say of the source and its labels.
    pub(super) notices: Vec<String>,
    /// The images that are not trained on, if the settings hold some out; neither the store nor the manifest has them.
    pub held_out: Option<HeldOut>,
}

impl Loaded {
    /// What is left out besides the files that could not be read, what is odd, and the classes: a line for each kind.
    pub fn notices(&self) -> Vec<String> {
        let held_out = self.held_out.as_ref();
        let held_out = held_out.map_or(&[][..], |held_out| &held_out.notices);
        let labels = self.labels.as_ref();
        let labels = labels.map_or(vec![], |labels| labels.lines(&self.manifest));
        [
            &self.passed_over.lines(),
            &self.remarks.lines(),
            &self.notices,
            &labels[..],
            held_out,
        ]
        .concat()
    }

    /// The images that are held out, as a data set of their own; all of it, if none are.
    ///
    /// # Errors
    /// Out of memory.
    pub fn held_out_or_all(self, device: Device) -> Result<Loaded> {
        let Some(held_out) = self.held_out else {
            return Ok(self);
        };
        let count = held_out.len();
        Ok(Loaded {
            store: Store::new(held_out.pixels(0..count)?, device)?,
            origin: format!("{} held out", plural(count as u64, "image")),
            manifest: held_out.manifest,
            labels: held_out.labels,
            held_out: None,
            ..self
        })
    }
}

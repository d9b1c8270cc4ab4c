//! A folder of images, decoded in each pass.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ndarray::Array3;
use tch::Tensor;

use super::{BATCH, number};
use crate::cli::out::say;
use crate::cli::progress::DecodeProgress;
use crate::data::{ImageFolder, ImageSpec, Manifest};
use crate::evaluate::ImageSet;
use crate::text::{self, plural};

/// A folder whose images are decoded in each pass.
pub(in crate::cli) struct FolderSource {
    folder: ImageFolder,
    manifest: OnceCell<Manifest>,
}

impl FolderSource {
    /// Opens a folder, and says what of it is passed over.
    pub(in crate::cli) fn open(path: &Path, spec: Option<ImageSpec>) -> Result<FolderSource> {
        let folder = match spec {
            Some(spec) => ImageFolder::open(path, spec)?,
            None => ImageFolder::of_one_size(path)?,
        };
        folder.notices().iter().for_each(|line| say(line));
        Ok(FolderSource {
            folder,
            manifest: OnceCell::new(),
        })
    }

    /// The form of the images.
    pub(super) fn spec(&self) -> &ImageSpec {
        self.folder.spec()
    }

    /// Name of image `place`, after a pass.
    pub(in crate::cli::evaluate) fn name(&self, place: usize) -> String {
        let name = self
            .manifest
            .get()
            .and_then(|manifest| manifest.name(place));
        name.map_or_else(|| number(place), str::to_owned)
    }

    /// Image `place`, `[H, W, C]`, after a pass.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(in crate::cli::evaluate) fn image(&self, place: usize) -> Result<Array3<u8>> {
        self.folder.image(&self.name(place))
    }
}

impl ImageSet for FolderSource {
    fn chw(&self) -> [i64; 3] {
        let spec = self.folder.spec();
        [spec.channels, spec.height, spec.width].map(|n| n as i64)
    }

    fn origin(&self) -> String {
        let count = match self.manifest.get() {
            Some(manifest) => plural(manifest.len() as u64, "image"),
            None => plural(self.folder.files() as u64, "file"),
        };
        format!("{count} in {}", text::path(self.folder.dir()))
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let bar = DecodeProgress::new();
        let total = self.folder.files();
        let progress = |done| bar.set(done, total);
        let pass = self.folder.for_each(BATCH, &progress, take)?;
        bar.finish();
        // Said once, though there may be several passes.
        let count = pass.manifest.len() as u64;
        if self.manifest.set(pass.manifest).is_ok() {
            tell_of_skipped(&pass.skipped);
            pass.remarks.lines().iter().for_each(|line| say(line));
        }
        Ok(count)
    }
}

/// Names files that are left out: the first few.
pub(super) fn tell_of_skipped(skipped: &[(PathBuf, String)]) {
    const SHOWN: usize = 5;
    if skipped.is_empty() {
        return;
    }
    say(&format!(
        "warning: {} could not be read and {} left out:",
        plural(skipped.len() as u64, "file"),
        if skipped.len() == 1 { "is" } else { "are" }
    ));
    for (path, reason) in skipped.iter().take(SHOWN) {
        say(&format!("  {}: {reason}", text::path(path)));
    }
    if skipped.len() > SHOWN {
        say(&format!("  and {} more", skipped.len() - SHOWN));
    }
}

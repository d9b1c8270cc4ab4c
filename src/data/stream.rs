//! The images of a folder or another source, decoded as they are needed: for passes over more images than memory holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use ndarray::Array3;
use rayon::prelude::*;
use tch::Tensor;

use super::decode::{decode_place, size_of};
use super::entry::Entry;
use super::error::DataError;
use super::folder;
use super::listing::Listing;
use super::manifest::unescape;
use super::sources::{self, Wanted};
use super::{ImageSpec, Manifest, Remarks};
use crate::config::Sources;
use crate::text;

/// A folder of images, or another source, of which no pass keeps more than a part in memory.
#[derive(Debug)]
pub struct ImageFolder {
    dir: PathBuf,
    listing: Listing,
    spec: ImageSpec,
}

/// What a pass over a folder found.
#[derive(Debug)]
pub struct Pass {
    /// Name and hash of each image passed on, in order.
    pub manifest: Manifest,
    /// Files that could not be read, each with the reason.
    pub skipped: Vec<(PathBuf, String)>,
    /// What was noticed about files.
    pub remarks: Remarks,
}

impl ImageFolder {
    /// The images of `dir` in the form that `spec` describes, as training reads them.
    ///
    /// # Errors
    /// A missing folder, or one without images; an archive that is damaged.
    pub fn open(dir: &Path, spec: ImageSpec) -> Result<ImageFolder, DataError> {
        let wanted = Wanted {
            rules: spec.rules,
            labels: false,
        };
        Ok(ImageFolder {
            dir: dir.to_owned(),
            listing: sources::list(&Sources::from(dir), wanted)?,
            spec,
        })
    }

    /// The images of `dir` in their own size, in RGB: none is cropped or resized.
    ///
    /// # Errors
    /// As [`open`](ImageFolder::open); images of more than one size ([`DataError::MixedSizes`]).
    pub fn of_one_size(dir: &Path) -> Result<ImageFolder, DataError> {
        let mut folder = ImageFolder::open(dir, ImageSpec::rgb(1, 1))?;
        // What cannot be read is left out when it is its turn.
        let sized = |entry: &Entry| Some((entry.path(), size_of(&entry.place).ok()?));
        let entries = &folder.listing.entries;
        let sizes: Vec<_> = entries.par_iter().filter_map(sized).collect();
        let Some((first, size)) = sizes.first() else {
            return Ok(folder);
        };
        if let Some((other, other_size)) = sizes.iter().find(|(_, other)| other != size) {
            return Err(DataError::MixedSizes {
                first: first.clone(),
                first_size: *size,
                other: other.clone(),
                other_size: *other_size,
            });
        }
        folder.spec = ImageSpec::rgb(size.0, size.1);
        Ok(folder)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files that look like images.
    pub fn files(&self) -> usize {
        self.listing.entries.len()
    }

    /// The form of the images.
    pub fn spec(&self) -> &ImageSpec {
        &self.spec
    }

    /// What is left out besides files that cannot be read: a line for each kind.
    pub fn notices(&self) -> Vec<String> {
        [&self.listing.passed_over.lines()[..], &self.listing.notices].concat()
    }

    /// One image, by its name in a [`Pass::manifest`], `[height, width, channels]` u8.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn image(&self, name: &str) -> Result<Array3<u8>> {
        let name = unescape(name).context("not a name of an image")?;
        let mut entries = self.listing.entries.iter();
        let entry = entries.find(|entry| *entry.name == *name);
        let place = &entry.context("no image of this name")?.place;
        Ok(decode_place(place, &self.spec)?.pixels)
    }

    /// Passes on all images in order, at most `batch` at a time; `progress` is called with the number of files done, from
    /// any thread.
    ///
    /// # Shapes
    /// `take` receives `[some, C, H, W]` u8 on the CPU.
    ///
    /// # Errors
    /// No readable image at all, and errors of `take`.
    pub fn for_each(
        &self,
        batch: u64,
        progress: &(dyn Fn(usize) + Sync),
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<Pass> {
        let [c, h, w] = [self.spec.channels, self.spec.height, self.spec.width].map(|n| n as i64);
        let mut failed: Option<Error> = None;
        let mut take_part = |bytes: &[u8]| {
            let each = batch as usize * self.spec.bytes();
            for some in bytes.chunks(each) {
                let images = Tensor::from_slice(some).view([-1, c, h, w]);
                take(&images).map_err(|error| {
                    failed = Some(error);
                    std::io::Error::other("the images were not taken")
                })?;
            }
            Ok(())
        };
        let read = folder::load(
            &self.dir,
            &self.listing,
            &self.spec,
            progress,
            &|| false,
            &mut take_part,
        );
        if let Some(error) = failed {
            return Err(error);
        }
        let read =
            read.with_context(|| format!("cannot use the images of {}", text::path(&self.dir)))?;
        Ok(Pass {
            manifest: read.manifest,
            skipped: read.skipped,
            remarks: read.remarks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::write_png;
    use ndarray::Array3;

    fn write(dir: &Path, name: &str, height: usize, width: usize, level: u8) {
        let image =
            Array3::from_shape_fn((height, width, 3), |(y, x, c)| level + (y + x + c) as u8);
        write_png(&dir.join(name), image.view()).unwrap();
    }

    fn pass(folder: &ImageFolder, batch: u64) -> (Vec<Tensor>, Pass) {
        let mut parts = Vec::new();
        let mut take = |part: &Tensor| {
            parts.push(part.copy());
            Ok(())
        };
        let pass = folder.for_each(batch, &|_| (), &mut take).unwrap();
        (parts, pass)
    }

    #[test]
    fn images_come_in_order_whatever_the_batch() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..5 {
            write(dir.path(), &format!("{i}.png"), 3, 4, 10 * i);
        }
        std::fs::write(dir.path().join("2b.png"), "no image").unwrap();
        let folder = ImageFolder::of_one_size(dir.path()).unwrap();
        let (whole, _) = pass(&folder, 100);
        let (parts, found) = pass(&folder, 2);
        assert_eq!(whole[0].size(), [5, 3, 3, 4]);
        assert_eq!(
            parts.iter().map(|p| p.size()[0]).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        assert_eq!(Tensor::cat(&parts, 0), whole[0]);
        assert_eq!((found.manifest.len(), found.skipped.len()), (5, 1));
        let level = |image: i64| whole[0].int64_value(&[image, 0, 0, 0]);
        assert_eq!([level(0), level(4)], [0, 40]);
        let third = folder.image(found.manifest.name(2).unwrap()).unwrap();
        assert_eq!((third.dim(), third[[0, 0, 0]]), ((3, 4, 3), 20));
    }

    #[test]
    fn mixed_sizes_are_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.png", 3, 4, 0);
        write(dir.path(), "b.png", 3, 5, 0);
        let error = ImageFolder::of_one_size(dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("a.png") && error.contains("5x3"), "{error}");
        assert!(ImageFolder::open(dir.path(), ImageSpec::rgb(2, 2)).is_ok());
    }

    #[test]
    fn an_error_of_the_taker_ends_the_pass() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.png", 3, 4, 0);
        let folder = ImageFolder::of_one_size(dir.path()).unwrap();
        let error = folder.for_each(1, &|_| (), &mut |_| anyhow::bail!("full"));
        assert_eq!(error.unwrap_err().to_string(), "full");
    }
}

//! Images of an .npz file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tch::Tensor;

use super::{BATCH, IMAGES_ARRAY};
use crate::evaluate::ImageSet;
use crate::formats::npz;
use crate::text::{self, plural};

/// Images of an .npz file, read in each pass.
pub(in crate::cli::evaluate) struct ArraySource {
    path: PathBuf,
    count: u64,
    chw: [i64; 3],
}

impl ArraySource {
    pub(super) fn open(path: &Path) -> Result<ArraySource> {
        let mut file = npz::open(path)?;
        let rows = file.images(IMAGES_ARRAY)?;
        let [h, w, c] = rows.hwc().map(|n| n as i64);
        Ok(ArraySource {
            path: path.to_owned(),
            count: rows.count(),
            chw: [c, h, w],
        })
    }
}

impl ImageSet for ArraySource {
    fn chw(&self) -> [i64; 3] {
        self.chw
    }

    fn origin(&self) -> String {
        format!(
            "{} in {}",
            plural(self.count, "image"),
            text::path(&self.path)
        )
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let mut file = npz::open(&self.path)?;
        let mut rows = file.images(IMAGES_ARRAY)?;
        while let Some(images) = rows.next_images(BATCH as usize)? {
            take(&Tensor::try_from(images)?.permute([0, 3, 1, 2]).contiguous())?;
        }
        Ok(self.count)
    }
}

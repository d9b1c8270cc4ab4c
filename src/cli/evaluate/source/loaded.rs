//! A data set in memory.

use anyhow::Result;
use ndarray::{Array3, Axis};
use tch::{Device, Tensor};

use super::{BATCH, number};
use crate::data::Loaded;
use crate::evaluate::{ImageSet, Stored};
use crate::images::{to_array, to_pixels};
use crate::text::plural;

/// A data set in memory, without what is held out of it.
pub(in crate::cli::evaluate) struct LoadedSource(pub(super) Loaded);

impl LoadedSource {
    /// The data set.
    pub(in crate::cli::evaluate) fn loaded(&self) -> &Loaded {
        &self.0
    }

    /// The images that are held out of it.
    ///
    /// # Errors
    /// Out of memory.
    pub(in crate::cli::evaluate) fn held_out(&self) -> Result<Option<Stored>> {
        let Some(held_out) = &self.0.held_out else {
            return Ok(None);
        };
        let count = held_out.len();
        Ok(Some(Stored {
            pixels: held_out.pixels(0..count)?,
            origin: format!("the {} of the run", plural(count as u64, "held-out image")),
            batch: BATCH as i64,
        }))
    }

    /// Name of image `place`.
    pub(super) fn name(&self, place: usize) -> String {
        let name = self.0.manifest.name(place);
        name.map_or_else(|| number(place), str::to_owned)
    }

    /// Image `place`, `[H, W, C]`.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn image(&self, place: usize) -> Result<Array3<u8>> {
        let image = self.pixels(place as i64..place as i64 + 1)?;
        Ok(to_array(&image).index_axis_move(Axis(0), 0))
    }

    /// `[some, C, H, W]` u8 on the CPU.
    fn pixels(&self, places: std::ops::Range<i64>) -> Result<Tensor> {
        let places: Vec<i64> = places.collect();
        Ok(to_pixels(&self.0.store.batch(&places, None)?).to_device(Device::Cpu))
    }
}

impl ImageSet for LoadedSource {
    fn chw(&self) -> [i64; 3] {
        let size = self.0.store.pixels().size();
        [size[1], size[2], size[3]]
    }

    fn origin(&self) -> String {
        self.0.origin.clone()
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let count = self.0.store.len();
        for start in (0..count).step_by(BATCH as usize) {
            let end = count.min(start + BATCH);
            take(&self.pixels(start as i64..end as i64)?)?;
        }
        Ok(count)
    }
}

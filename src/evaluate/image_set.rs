//! Sets of images to measure.

use anyhow::Result;
use tch::{Device, Tensor};

/// Images of one size that are measured in one pass, some at a time, so that they need not all be in memory.
pub trait ImageSet {
    /// Channels (1 or 3), height and width of every image.
    fn chw(&self) -> [i64; 3];

    /// What they are, for people: "1,000 images from photos".
    fn origin(&self) -> String;

    /// Calls `take` with all images in order, some at a time, `[some, C, H, W]` u8 on the CPU; returns their number.
    ///
    /// # Errors
    /// Images that cannot be read or made, and errors of `take`.
    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64>;

    /// Measures all images: `measure` is called with some at a time, as `take` of [`for_each`](ImageSet::for_each) is, and
    /// `take` with what it returned, in order; returns their number. A set that processes share
    /// ([`SharedSet`](super::SharedSet)) has each measure a part of the images, and hands all that was found to each.
    ///
    /// # Shapes
    /// - `measure` returns tensors of f32 or u8, always as many of the same kinds
    ///
    /// # Errors
    /// Images that cannot be read or made, and errors of `measure` and `take`.
    fn measure(
        &self,
        measure: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
        take: &mut dyn FnMut(Vec<Tensor>) -> Result<()>,
    ) -> Result<u64> {
        self.for_each(&mut |images| take(measure(images)?))
    }
}

/// Images in one tensor.
#[derive(Debug)]
pub struct Stored {
    /// `[N, C, H, W]` u8.
    pub pixels: Tensor,
    /// What they are.
    pub origin: String,
    /// Images passed on at a time.
    pub batch: i64,
}

impl ImageSet for Stored {
    fn chw(&self) -> [i64; 3] {
        let size = self.pixels.size();
        [size[1], size[2], size[3]]
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let count = self.pixels.size()[0];
        for start in (0..count).step_by(self.batch as usize) {
            let some = self.pixels.narrow(0, start, self.batch.min(count - start));
            take(&some.to_device(Device::Cpu))?;
        }
        Ok(count as u64)
    }
}

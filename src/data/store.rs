//! The data set as one uint8 tensor.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::prefetch::Prefetcher;
use crate::images::from_pixels;
use crate::memory::available_bytes;
use crate::native;

/// Decoded images: on the training device if they fit there, else in host memory or in a mapped file, from which
/// the next batches are prefetched while a step is computed.
#[derive(Debug)]
pub struct Store {
    /// `[N, C, H, W]` u8.
    pixels: Tensor,
    device: Device,
    /// Those of them that the store is about, if not all.
    kept: Option<Vec<i64>>,
    /// The class of each of those, where a network is told it.
    classes: Option<Vec<i64>>,
    /// For images that are not on the device.
    prefetcher: Option<RefCell<Prefetcher>>,
}

/// Share of a CUDA device's free memory that images may occupy; the rest is for training.
const DEVICE_SHARE: f64 = 0.25;

impl Store {
    /// Stores decoded images and moves them to `device` if they fit.
    ///
    /// # Shapes
    /// - `pixels`: `[N, C, H, W]` u8 on CPU, N ≥ 1
    ///
    /// # Errors
    /// `pixels` of another shape or kind.
    pub fn new(pixels: Tensor, device: Device) -> Result<Store> {
        Store::place(pixels, device, false)
    }

    /// [`new`](Store::new) for the images of a mapped file, which are read only as training needs them.
    ///
    /// # Errors
    /// As [`new`](Store::new).
    pub fn mapped(pixels: Tensor, device: Device) -> Result<Store> {
        Store::place(pixels, device, true)
    }

    fn place(pixels: Tensor, device: Device, in_file: bool) -> Result<Store> {
        ensure!(
            pixels.dim() == 4 && pixels.kind() == Kind::Uint8 && pixels.size()[0] > 0,
            "a data set is a uint8 tensor [N, C, H, W] with N > 0, this is {:?} {:?}",
            pixels.kind(),
            pixels.size()
        );
        let fits = match device {
            Device::Cuda(_) => available_bytes(device)
                .is_some_and(|free| (pixels.numel() as f64) < free as f64 * DEVICE_SHARE),
            _ => !in_file,
        };
        let prefetcher = match fits {
            true => None,
            false => Some(RefCell::new(Prefetcher::start(&pixels, device)?)),
        };
        let pixels = if fits {
            pixels.to_device(device)
        } else {
            pixels
        };
        Ok(Store {
            pixels,
            device,
            kept: None,
            classes: None,
            prefetcher,
        })
    }

    /// Has the store be about these images alone, numbered from 0 in this order. The others stay where they are.
    pub(super) fn keep_only(&mut self, kept: Vec<i64>) {
        self.kept = Some(kept);
    }

    /// Gives each image its class, by which a network is trained.
    ///
    /// # Panics
    /// Another number of classes than of images.
    pub fn set_classes(&mut self, classes: Vec<i64>) {
        assert_eq!(classes.len() as u64, self.len(), "a class for each image");
        self.classes = Some(classes);
    }

    /// The classes of images, `[indices.len()]` i64 on the CPU; `None` if they have none.
    ///
    /// # Errors
    /// An index outside `0..len`.
    pub fn classes(&self, indices: &[i64]) -> Result<Option<Tensor>> {
        let Some(classes) = &self.classes else {
            return Ok(None);
        };
        let class = |index: &i64| {
            let class = usize::try_from(*index).ok().and_then(|i| classes.get(i));
            class
                .copied()
                .with_context(|| format!("there is no image {index} among {}", classes.len()))
        };
        let found: Vec<i64> = indices.iter().map(class).collect::<Result<_>>()?;
        Ok(Some(Tensor::from_slice(&found)))
    }

    /// Number of images.
    pub fn len(&self) -> u64 {
        match &self.kept {
            Some(kept) => kept.len() as u64,
            None => self.pixels.size()[0] as u64,
        }
    }

    /// Where images lie among all.
    ///
    /// # Errors
    /// An index outside `0..len`.
    fn places<'a>(&self, indices: &'a [i64]) -> Result<Cow<'a, [i64]>> {
        let Some(kept) = &self.kept else {
            return Ok(indices.into());
        };
        let place = |index: &i64| {
            let place = usize::try_from(*index).ok().and_then(|i| kept.get(i));
            place
                .copied()
                .with_context(|| format!("there is no image {index} among {}", kept.len()))
        };
        indices.iter().map(place).collect()
    }

    /// Always false: a store has at least one image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All images, `[N, C, H, W]` u8, also those that are held out: then `N` is more than [`len`](Store::len).
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// True if later batches should be announced with [`prefetch`](Store::prefetch).
    pub fn reads_ahead(&self) -> bool {
        self.prefetcher.is_some()
    }

    /// Begins to gather the images of a later [`batch`](Store::batch) in the background.
    ///
    /// # Errors
    /// Errors of gathering earlier batches.
    pub fn prefetch(&self, indices: Vec<i64>) -> Result<()> {
        match &self.prefetcher {
            Some(prefetcher) => {
                let places = self.places(&indices)?.into_owned();
                prefetcher.borrow_mut().request(places)
            }
            None => Ok(()),
        }
    }

    /// Total time that batches waited for their images to be gathered; zero if they are on the device.
    pub fn waited(&self) -> Duration {
        let waited = |prefetcher: &RefCell<Prefetcher>| prefetcher.borrow().waited;
        self.prefetcher.as_ref().map_or(Duration::ZERO, waited)
    }

    /// Images `indices` scaled to [-1, 1], those marked in `mirrored` flipped horizontally.
    ///
    /// # Shapes
    /// - `mirrored`: `[indices.len()]` bool on CPU
    /// - returns `[indices.len(), C, H, W]` f32 on the training device
    ///
    /// # Errors
    /// An index outside `0..len`, or out of memory.
    pub fn batch(&self, indices: &[i64], mirrored: Option<&Tensor>) -> Result<Tensor> {
        let indices = &*self.places(indices)?;
        let mut pixels = match &self.prefetcher {
            // From pinned memory, the copy is just queued on the device.
            Some(prefetcher) => {
                let gathered = prefetcher.borrow_mut().take(indices)?;
                gathered.f_to_device_(self.device, Kind::Uint8, true, false)?
            }
            None => {
                let indices = native::send(&Tensor::from_slice(indices), self.device)?;
                self.pixels.f_index_select(0, &indices)?
            }
        };
        if let Some(mask) = mirrored {
            let mask = native::send(mask, self.device)?.view([-1, 1, 1, 1]);
            pixels = pixels.flip([3]).where_self(&mask, &pixels);
        }
        Ok(from_pixels(&pixels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_scaled_and_flipped() {
        let pixels = Tensor::from_slice(&[0u8, 51, 102, 255]).view([2, 1, 1, 2]);
        let mirrored = Tensor::from_slice(&[true, false]);
        for place in [Store::new, Store::mapped] {
            let store = place(pixels.shallow_clone(), Device::Cpu).unwrap();
            let batch = store.batch(&[1, 0], Some(&mirrored)).unwrap().view([-1]);
            let values = Vec::<f32>::try_from(batch).unwrap();
            for (got, want) in values.iter().zip([1.0, -0.2, -1.0, -0.6]) {
                assert!((got - want).abs() < 1e-6, "{values:?}");
            }
        }
    }

    #[test]
    fn what_is_left_out_is_not_numbered() {
        let pixels = Tensor::from_slice(&[0u8, 51, 102, 255]).view([4, 1, 1, 1]);
        for place in [Store::new, Store::mapped] {
            let mut store = place(pixels.shallow_clone(), Device::Cpu).unwrap();
            store.keep_only(vec![1, 3]);
            assert_eq!(store.len(), 2);
            store.prefetch(vec![1, 0]).unwrap();
            let batch = store.batch(&[1, 0], None).unwrap().view([-1]);
            let values = Vec::<f32>::try_from(batch).unwrap();
            assert!(
                values[0] == 1.0 && (values[1] + 0.6).abs() < 1e-6,
                "{values:?}"
            );
            assert!(store.batch(&[2], None).is_err() && store.batch(&[-1], None).is_err());
        }
    }

    #[test]
    fn floats_are_refused() {
        let floats = Tensor::zeros([1, 3, 2, 2], (Kind::Float, Device::Cpu));
        assert!(Store::new(floats, Device::Cpu).is_err());
    }
}

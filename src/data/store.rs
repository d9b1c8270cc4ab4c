//! The data set as one uint8 tensor.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::native;

/// Decoded pictures, on the training device when they fit there, else in host memory.
#[derive(Debug)]
pub struct Store {
    /// `[N, C, H, W]` u8.
    pixels: Tensor,
    device: Device,
}

/// Share of a CUDA device's free memory that pictures may take; the rest is for training.
const DEVICE_SHARE: f64 = 0.25;

impl Store {
    /// Takes decoded pictures and moves them to `device` if they fit.
    ///
    /// # Shapes
    /// - `pixels`: `[N, C, H, W]` u8 on CPU, N ≥ 1
    ///
    /// # Errors
    /// Another shape or kind.
    pub fn new(pixels: Tensor, device: Device) -> Result<Store> {
        ensure!(
            pixels.dim() == 4 && pixels.kind() == Kind::Uint8 && pixels.size()[0] > 0,
            "a data set is a uint8 tensor [N, C, H, W] with N > 0, this is {:?} {:?}",
            pixels.kind(),
            pixels.size()
        );
        let fits = match device {
            Device::Cuda(index) => {
                let free = native::cuda_memory(index)?.free_bytes as f64;
                (pixels.numel() as f64) < free * DEVICE_SHARE
            }
            _ => true,
        };
        let pixels = if fits {
            pixels.to_device(device)
        } else {
            pixels
        };
        Ok(Store { pixels, device })
    }

    /// Number of pictures.
    pub fn len(&self) -> u64 {
        self.pixels.size()[0] as u64
    }

    /// Never: a store has at least one picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pictures, `[N, C, H, W]` u8.
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// Pictures `indices` scaled to [-1, 1], those marked in `mirrored` flipped left to right.
    ///
    /// # Shapes
    /// - `mirrored`: `[indices.len()]` bool on CPU
    /// - returns `[indices.len(), C, H, W]` f32 on the training device
    pub fn batch(&self, indices: &[i64], mirrored: Option<&Tensor>) -> Tensor {
        let indices = Tensor::from_slice(indices).to_device(self.pixels.device());
        let mut pixels = self.pixels.index_select(0, &indices).to_device(self.device);
        if let Some(mask) = mirrored {
            let mask = mask.to_device(self.device).view([-1, 1, 1, 1]);
            pixels = pixels.flip([3]).where_self(&mask, &pixels);
        }
        pixels.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_scaled_and_flipped() {
        let pixels = Tensor::from_slice(&[0u8, 51, 102, 255]).view([2, 1, 1, 2]);
        let store = Store::new(pixels, Device::Cpu).unwrap();
        let mirrored = Tensor::from_slice(&[true, false]);
        let batch = store.batch(&[1, 0], Some(&mirrored)).view([-1]);
        let values = Vec::<f32>::try_from(batch).unwrap();
        for (got, want) in values.iter().zip([1.0, -0.2, -1.0, -0.6]) {
            assert!((got - want).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn floats_are_refused() {
        let floats = Tensor::zeros([1, 3, 2, 2], (Kind::Float, Device::Cpu));
        assert!(Store::new(floats, Device::Cpu).is_err());
    }
}

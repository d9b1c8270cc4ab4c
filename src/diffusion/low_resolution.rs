//! The condition of super-resolution: an image of low resolution, brought to the size of x_t.

use tch::Tensor;

use crate::config::{Interpolation, UpscaleConfig};
use crate::images::{from_pixels, to_pixels};

/// Makes images of low resolution from others, and what a network is given of them.
///
/// Source: Saharia et al. 2021, SR3 <https://arxiv.org/abs/2104.07636>; the noise is that of Ho et al. 2021, Cascaded
/// Diffusion Models <https://arxiv.org/abs/2106.15282>
#[derive(Debug, Clone, Copy)]
pub struct LowResolution {
    factor: i64,
    interpolation: Interpolation,
}

impl LowResolution {
    /// Images `config.factor` times smaller.
    pub fn new(config: &UpscaleConfig) -> LowResolution {
        LowResolution {
            factor: config.factor,
            interpolation: config.interpolation,
        }
    }

    /// The images `factor` times smaller, by a cubic filter as wide as that asks for, and rounded to 256 levels: what a
    /// file would hold. Equal to Pillow's `resize` by `BICUBIC` but for its rounding between rows and columns.
    ///
    /// # Shapes
    /// - `x_0`: `[N, C, H, W]` f32 in [-1, 1]; returns `[N, C, H / factor, W / factor]` f32 in [-1, 1]
    pub fn shrink(&self, x_0: &Tensor) -> Tensor {
        let (h, w) = (x_0.size()[2], x_0.size()[3]);
        let size = [h / self.factor, w / self.factor];
        let low = x_0.internal_upsample_bicubic2d_aa(size, false, None, None);
        from_pixels(&to_pixels(&low))
    }

    /// What a network is given of images, without noise: small ones, in the size of x_t.
    ///
    /// # Shapes
    /// - `x_0`: `[N, C, H, W]` f32 in [-1, 1]; returns the same shape
    pub fn condition(&self, x_0: &Tensor) -> Tensor {
        self.enlarge(&self.shrink(x_0))
    }

    /// The images in the size of x_t. A cubic filter may go a little beyond [-1, 1].
    ///
    /// # Shapes
    /// - `low`: `[N, C, h, w]` f32; returns `[N, C, factor h, factor w]` f32
    pub fn enlarge(&self, low: &Tensor) -> Tensor {
        let (h, w) = (low.size()[2], low.size()[3]);
        let size = [h * self.factor, w * self.factor];
        match self.interpolation {
            Interpolation::Bicubic => low.internal_upsample_bicubic2d_aa(size, false, None, None),
            Interpolation::Bilinear => low.upsample_bilinear2d(size, false, None, None),
        }
    }
}

/// Low-resolution images with noise: `sqrt(1 - share²) low + share noise`, so that `share` is the noise's share of the
/// standard deviation of images that have 1.
///
/// # Shapes
/// - `low`, `noise`: `[N, C, h, w]` f32, `noise` standard normal; returns the same shape
/// - `share`: `[N]` f32 in 0..1
pub fn with_noise(low: &Tensor, share: &Tensor, noise: &Tensor) -> Tensor {
    let share = share.view([-1, 1, 1, 1]);
    let kept: Tensor = 1.0 - share.square();
    kept.sqrt() * low + share * noise
}

/// What a network takes: x_t, and behind its channels those of the condition, if there is one.
///
/// # Shapes
/// - `x_t`: `[N, C, H, W]`; `condition`: `[N, K, H, W]`; returns `[N, C + K, H, W]`
pub fn beside(x_t: &Tensor, condition: Option<&Tensor>) -> Tensor {
    match condition {
        Some(condition) => Tensor::cat(&[x_t, condition], 1),
        None => x_t.shallow_clone(),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::rng::{Stream, normal};

    fn by(factor: i64) -> LowResolution {
        LowResolution::new(&UpscaleConfig::by(factor))
    }

    #[test]
    fn a_flat_image_stays_flat_and_sizes_are_as_stated() {
        let x_0 = Tensor::full([2, 3, 8, 12], -0.6, (Kind::Float, Device::Cpu));
        let low = by(4).shrink(&x_0);
        assert_eq!(low.size(), [2, 3, 2, 3]);
        // 51 of 255, which is in file.
        assert!((&low + 0.6).abs().max().double_value(&[]) < 1e-6);
        let large = by(4).enlarge(&low);
        assert_eq!(large.size(), x_0.size());
        assert!((large + 0.6).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn a_small_image_has_the_levels_of_a_file() {
        let x_0 = normal(1, Stream::Noise, 0, &[1, 1, 16, 16], Device::Cpu) * 2.0;
        let low = by(2).shrink(&x_0);
        assert_eq!(low.size(), [1, 1, 8, 8]);
        let levels = (&low + 1.0) / 2.0 * 255.0;
        assert!((&levels - levels.round()).abs().max().double_value(&[]) < 1e-4);
        assert!(low.abs().max().double_value(&[]) <= 1.0);
    }

    #[test]
    fn noise_keeps_the_variance_of_images_that_have_one() {
        let low = normal(1, Stream::Noise, 0, &[2, 1, 200, 200], Device::Cpu);
        let noise = normal(1, Stream::Noise, 1, &[2, 1, 200, 200], Device::Cpu);
        let noisy = with_noise(&low, &Tensor::from_slice(&[0.0f32, 0.8]), &noise);
        assert_eq!(noisy.get(0), low.get(0));
        // 40,000 values: a deviation's own deviation is 1 / sqrt(80,000) = 0.0035.
        let deviation = noisy.get(1).std(true).double_value(&[]);
        assert!((deviation - 1.0).abs() < 0.015, "{deviation}");
        let along = (noisy.get(1) * noise.get(1)).mean(Kind::Float);
        assert!((along.double_value(&[]) - 0.8).abs() < 0.03);
    }
}

//! Images by number: image i of a seed is the same whatever is sampled beside it.

use std::ops::Range;

use anyhow::{Result, bail};
use tch::{Device, Tensor};

use super::{Inpaint, NoiseSource, OnStep, Process, Resampling, Sampler, repaint};

/// What to sample.
#[derive(Debug)]
pub struct Images {
    /// Where their noise comes from.
    pub noise: NoiseSource,
    /// Which images.
    pub numbers: Range<u64>,
    /// Most images at a time.
    pub batch: u64,
    /// Shape of one, `[C, H, W]`.
    pub chw: [i64; 3],
    /// Where the network lives.
    pub device: Device,
}

impl Images {
    /// The images batch by batch.
    pub fn batches(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let (end, batch) = (self.numbers.end, self.batch.max(1));
        (self.numbers.start..end)
            .step_by(batch as usize)
            .map(move |start| start..start.saturating_add(batch).min(end))
    }

    /// Draw `k` of the images `numbers`.
    pub fn draw(&self, numbers: &Range<u64>, k: u64) -> Tensor {
        self.noise.draw(numbers.clone(), k, self.chw, self.device)
    }
}

/// Samples images, batch by batch.
///
/// Noise depends on (seed, number, step) only; across batch sizes libtorch's kernels may still
/// round differently in the last bits. `on_step` is called after each reverse step of each batch.
///
/// # Shapes
/// Returns `[numbers.len(), C, H, W]` f32 on CPU, clipped to [-1, 1].
///
/// # Errors
/// Values that are not finite ([`NotFiniteAt`](super::NotFiniteAt)), with the first time step.
pub fn sample_images(
    process: &Process,
    sampler: &Sampler,
    wanted: &Images,
    on_step: &mut OnStep,
) -> Result<Tensor> {
    let start = StartFrom::Noise;
    let batch =
        |numbers: Range<u64>| sample_batch(process, sampler, &start, wanted, &numbers, on_step);
    let batches: Vec<Tensor> = wanted.batches().map(batch).collect::<Result<_>>()?;
    Ok(Tensor::cat(&batches, 0))
}

/// Where reverse chains start.
#[derive(Debug)]
pub enum StartFrom {
    /// Noise alone.
    Noise,
    /// An image `[C, H, W]` in [-1, 1], noised to the noisiest visited step.
    Image(Tensor),
    /// Noise, with a part of an image known (RePaint).
    Part(Inpaint, Resampling),
}

impl StartFrom {
    /// Network evaluations over `steps` visited steps.
    pub fn evaluations(&self, steps: usize) -> usize {
        match self {
            StartFrom::Part(_, resampling) => resampling.evaluations(steps),
            StartFrom::Noise | StartFrom::Image(_) => steps,
        }
    }
}

/// Samples one of the batches of `wanted`, the images `numbers`.
///
/// # Shapes
/// Returns `[numbers.len(), C, H, W]` f32 on CPU, clipped to [-1, 1].
///
/// # Errors
/// A part of an image, for another sampler than ddpm; values that are not finite ([`NotFiniteAt`](super::NotFiniteAt)),
/// with the first time step.
pub fn sample_batch(
    process: &Process,
    sampler: &Sampler,
    start: &StartFrom,
    wanted: &Images,
    numbers: &Range<u64>,
    on_step: &mut OnStep,
) -> Result<Tensor> {
    let mut noise = |k| wanted.draw(numbers, k);
    let first = noise(0);
    let x_0 = match (start, sampler) {
        (StartFrom::Noise, _) => sampler.run(process, first, &mut noise, on_step),
        (StartFrom::Image(x_0), _) => {
            let (signal, share) = process.steps.signal_and_noise(process.steps.len() - 1);
            let x_start = x_0 * signal + first * share;
            sampler.run(process, x_start, &mut noise, on_step)
        }
        (StartFrom::Part(known, resampling), Sampler::Ddpm(options)) => repaint(
            process,
            *options,
            *resampling,
            known,
            first,
            &mut noise,
            on_step,
        ),
        (StartFrom::Part(..), _) => bail!("a mask needs `start.sampler` = ddpm (RePaint)"),
    };
    process.check_finite()?;
    Ok(x_0.clamp(-1.0, 1.0).to_device(Device::Cpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, Sigma};
    use crate::diffusion::Schedule;
    use crate::model::Model;
    use crate::sample::{Ddpm, Denoiser, NotFiniteAt, Respaced};

    fn sample(denoiser: &Denoiser, numbers: Range<u64>, batch: u64, chw: [i64; 3]) -> Tensor {
        let mut diffusion = Preset::Demo.config().diffusion;
        diffusion.timesteps = 10;
        let steps = Respaced::all(&Schedule::new(&diffusion));
        let process = Process::new(denoiser, &steps, &diffusion, true);
        let wanted = Images {
            noise: NoiseSource::Seed(4),
            numbers,
            batch,
            chw,
            device: Device::Cpu,
        };
        let sampler = Sampler::Ddpm(Ddpm {
            sigma: Sigma::Beta,
            last_noise: true,
        });
        sample_images(&process, &sampler, &wanted, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_network_s_image_depends_on_the_batch_size_in_the_last_bits_only() {
        let mut model = Preset::Demo.config().model;
        let m = model.unet_mut();
        (m.base_width, m.norm_groups) = (8, 2);
        let net = Model::new(&model, 10, 0);
        let denoiser = |x: &Tensor, t: &Tensor| net.forward(x, t, None, false);
        let sample = |batch| sample(&denoiser, 0..5, batch, model.chw());
        let worst = f64::try_from((sample(5) - sample(2)).abs().max()).unwrap();
        // f32 sums in the order that each batch size's kernels take, over ten steps.
        assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn the_first_time_step_that_is_not_finite_is_named() {
        let mut diffusion = Preset::Demo.config().diffusion;
        diffusion.timesteps = 10;
        let steps = Respaced::all(&Schedule::new(&diffusion));
        let wanted = Images {
            noise: NoiseSource::Seed(4),
            numbers: 0..3,
            batch: 2,
            chw: [3, 8, 8],
            device: Device::Cpu,
        };
        let sampled = |at: i64, factor: f64| {
            let denoiser = |x: &Tensor, t: &Tensor| match t.int64_value(&[0]) == at {
                true => x * factor,
                false => x * 0.5,
            };
            let process = Process::new(&denoiser, &steps, &diffusion, true);
            let sampler = Sampler::Ddpm(Ddpm {
                sigma: Sigma::Beta,
                last_noise: true,
            });
            let images = sample_images(&process, &sampler, &wanted, &mut |_| ());
            images.map_err(|error| error.downcast::<NotFiniteAt>().unwrap())
        };
        assert!(sampled(10, f64::NAN).is_ok());
        // An infinite output is hidden by clipping x_0_hat, and the image would be finite.
        for factor in [f64::INFINITY, f64::NAN] {
            for (at, evaluation) in [(9, 1), (4, 6), (0, 10)] {
                let wanted = NotFiniteAt::Output { t: at, evaluation };
                assert_eq!(sampled(at, factor).unwrap_err(), wanted);
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_company() {
        let sample = |numbers, batch| sample(&|x, _| x * 0.5, numbers, batch, [3, 8, 8]);
        let all = sample(0..5, 16);
        assert_eq!(all.size(), [5, 3, 8, 8]);
        assert_eq!(all, sample(0..5, 2));
        assert_eq!(all.narrow(0, 3, 2), sample(3..5, 1));
    }
}

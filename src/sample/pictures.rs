//! Pictures by number: picture i of a seed is the same whatever is sampled beside it.

use std::ops::Range;

use tch::{Device, Tensor};

use super::{Ddpm, Denoiser, ddpm};
use crate::diffusion::Schedule;
use crate::rng::picture_noise;

/// What to sample.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// Seed of their noise.
    pub seed: u64,
    /// Which pictures of that seed.
    pub numbers: Range<u64>,
    /// Most pictures at a time.
    pub batch: u64,
    /// Shape of one, `[C, H, W]`.
    pub chw: [i64; 3],
    /// Where the network lives.
    pub device: Device,
}

/// Samples pictures, batch by batch.
///
/// Noise depends on (seed, number, step) only; across batch sizes libtorch's kernels may still
/// round differently in the last bits. `on_step` is called after each reverse step of each batch.
///
/// # Shapes
/// Returns `[numbers.len(), C, H, W]` f32 on CPU, clipped to [-1, 1].
pub fn sample_pictures(
    denoiser: &Denoiser,
    schedule: &Schedule,
    options: Ddpm,
    wanted: &Pictures,
    on_step: &mut dyn FnMut(),
) -> Tensor {
    let mut done = Vec::new();
    let mut start = wanted.numbers.start;
    while start < wanted.numbers.end {
        let numbers = start..(start + wanted.batch.max(1)).min(wanted.numbers.end);
        start = numbers.end;
        let mut noise =
            |k| picture_noise(wanted.seed, numbers.clone(), k, wanted.chw, wanted.device);
        let x_start = noise(0);
        let x_0 = ddpm(
            denoiser,
            schedule,
            options,
            x_start,
            &mut noise,
            &mut |_, _| on_step(),
        );
        done.push(x_0.clamp(-1.0, 1.0).to_device(Device::Cpu));
    }
    Tensor::cat(&done, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Prediction, Preset, Sigma};
    use crate::model::Model;

    const PLAIN: Ddpm = Ddpm {
        prediction: Prediction::Eps,
        sigma: Sigma::Beta,
        clip_x0: false,
        last_noise: true,
    };

    #[test]
    fn a_network_s_picture_depends_on_the_batch_size_in_the_last_bits_only() {
        let mut config = Preset::Demo.config();
        config.diffusion.timesteps = 10;
        let m = config.model.unet_mut();
        (m.base_width, m.norm_groups) = (8, 2);
        let net = Model::new(&config.model, 10, 0);
        let schedule = Schedule::new(&config.diffusion);
        let options = Ddpm {
            clip_x0: true,
            ..PLAIN
        };
        let sample = |batch| {
            let wanted = Pictures {
                seed: 4,
                numbers: 0..5,
                batch,
                chw: config.model.chw(),
                device: Device::Cpu,
            };
            sample_pictures(
                &|x, t| net.forward(x, t, None, false),
                &schedule,
                options,
                &wanted,
                &mut || (),
            )
        };
        let worst = f64::try_from((sample(5) - sample(2)).abs().max()).unwrap();
        // f32 sums in the order that each batch size's kernels take, over ten steps.
        assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn a_picture_does_not_depend_on_its_company() {
        let mut config = Preset::Demo.config();
        config.diffusion.timesteps = 10;
        let schedule = Schedule::new(&config.diffusion);
        let sample = |numbers: Range<u64>, batch| {
            let wanted = Pictures {
                seed: 4,
                numbers,
                batch,
                chw: [3, 8, 8],
                device: Device::Cpu,
            };
            sample_pictures(&|x, _| x * 0.5, &schedule, PLAIN, &wanted, &mut || ())
        };
        let all = sample(0..5, 16);
        assert_eq!(all.size(), [5, 3, 8, 8]);
        assert_eq!(all, sample(0..5, 2));
        assert_eq!(all.narrow(0, 3, 2), sample(3..5, 1));
    }
}

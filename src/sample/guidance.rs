//! Guidance: what a network says, pushed away from what a weaker one says.
//!
//! The weaker one is the same network without a class (classifier-free guidance, Ho & Salimans 2022,
//! <https://arxiv.org/abs/2207.12598>), or a smaller or earlier network (autoguidance, Karras et al. 2024,
//! <https://arxiv.org/abs/2406.02507>).

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How far outputs are pushed, at which time steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// The output becomes `weak + scale (strong - weak)`: 1 leaves it as it is. Ho & Salimans write w = `scale` - 1.
    pub scale: f64,
    /// The first and last time step that it is for, both included; none for all (Kynkäänniemi et al. 2024,
    /// <https://arxiv.org/abs/2404.07724>).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(i64, i64)>,
    /// 0 to 1: how far the standard deviation of the output is brought back to what it was (Lin et al. 2023,
    /// section 3.4, <https://arxiv.org/abs/2305.08891>).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rescale: f64,
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Added to no deviation: an output that is the same everywhere has none to be brought back to.
const LEAST_DEVIATION: f64 = 1e-12;

impl Guidance {
    /// The network as it is.
    pub const NONE: Self = Self {
        scale: 1.0,
        interval: None,
        rescale: 0.0,
    };

    /// Guidance of this scale, at all time steps.
    pub fn of_scale(scale: f64) -> Guidance {
        Guidance {
            scale,
            ..Guidance::NONE
        }
    }

    /// True if outputs stay as they are.
    pub fn is_none(&self) -> bool {
        self.scale == 1.0
    }

    /// Checks its numbers, for `timesteps` time steps.
    ///
    /// # Errors
    /// A scale below 0 or not finite, an interval without time steps, a share outside 0 to 1; an interval or a share
    /// without guidance.
    pub fn check(&self, timesteps: i64) -> Result<()> {
        ensure!(
            (self.scale as f32).is_finite() && self.scale >= 0.0,
            "`sampler.guidance` = {:?}: want 0 or more, and what f32 holds; 1 is the network as it is",
            self.scale
        );
        ensure!(
            (0.0..=1.0).contains(&self.rescale),
            "`sampler.guidance_rescale` = {}: want 0 to 1",
            self.rescale
        );
        if let Some((first, last)) = self.interval {
            ensure!(
                0 <= first && first <= last && last < timesteps,
                "`sampler.guidance_interval` = {first}:{last}: want two time steps of 0 to {}, the smaller first",
                timesteps - 1
            );
        }
        ensure!(
            !self.is_none() || (self.interval.is_none() && self.rescale == 0.0),
            "`sampler.guidance_interval` and `sampler.guidance_rescale` do nothing without guidance; choose a `sampler.guidance` above 1"
        );
        Ok(())
    }

    /// True if outputs are pushed at time step `t`.
    pub fn is_for(&self, t: i64) -> bool {
        let within = |(first, last): (i64, i64)| (first..=last).contains(&t);
        !self.is_none() && self.interval.is_none_or(within)
    }

    /// The guided output.
    ///
    /// # Shapes
    /// - `strong`, `weak`: `[N, C, H, W]` predictions, both of the same quantity
    /// - returns the same
    pub fn push(&self, strong: &Tensor, weak: &Tensor) -> Tensor {
        let pushed = weak.lerp(strong, self.scale);
        if self.rescale == 0.0 {
            return pushed;
        }
        let deviation = |x: &Tensor| x.std_dim([1, 2, 3].as_slice(), false, true);
        let before = deviation(&pushed).clamp_min(LEAST_DEVIATION);
        let factor = deviation(strong) / before * self.rescale + (1.0 - self.rescale);
        pushed * factor
    }
}

/// The time step of a batch whose images are all at the same one; waits for the device.
pub fn time_step(t: &Tensor) -> i64 {
    t.get(0).to_kind(Kind::Int64).int64_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn deviation(x: &Tensor, image: i64) -> f64 {
        x.get(image).std(false).double_value(&[])
    }

    #[test]
    fn outputs_are_pushed_by_the_scale_and_brought_back_by_the_share() {
        let draw = |seed| {
            let normal = || Tensor::randn([2, 3, 8, 8], (Kind::Double, Device::Cpu));
            crate::rng::seeded(seed, normal)
        };
        let (strong, weak) = (draw(1), draw(2));
        let error = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap();
        for scale in [0.0, 0.3, 1.0, 2.5] {
            let pushed = Guidance::of_scale(scale).push(&strong, &weak);
            let want = &weak + (&strong - &weak) * scale;
            assert!(error(&pushed, &want) < 1e-14, "{scale}");
        }
        let pushed = |rescale| {
            let guidance = Guidance {
                rescale,
                ..Guidance::of_scale(4.0)
            };
            guidance.push(&strong, &weak)
        };
        for image in [0, 1] {
            let (far, back) = (deviation(&pushed(0.0), image), deviation(&strong, image));
            assert!(far > 3.0 * back);
            assert!((deviation(&pushed(1.0), image) - back).abs() < 1e-12);
            let half = deviation(&pushed(0.5), image);
            assert!((half - (far + back) / 2.0).abs() < 1e-12, "{half}");
        }
        let flat = Guidance {
            rescale: 1.0,
            ..Guidance::of_scale(2.0)
        };
        let none = Tensor::zeros([1, 1, 2, 2], (Kind::Float, Device::Cpu));
        assert_eq!(flat.push(&none, &none), none);
    }

    #[test]
    fn it_is_for_its_interval_only() {
        let some = Guidance {
            interval: Some((10, 20)),
            ..Guidance::of_scale(3.0)
        };
        let at: Vec<i64> = (0..40).filter(|t| some.is_for(*t)).collect();
        assert_eq!(at, (10..=20).collect::<Vec<_>>());
        assert!(Guidance::of_scale(0.0).is_for(7) && !Guidance::NONE.is_for(7));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let of = |scale, interval, rescale| {
            let guidance = Guidance {
                scale,
                interval,
                rescale,
            };
            guidance.check(100).map_err(|error| error.to_string())
        };
        assert_eq!(of(3.0, Some((0, 99)), 0.7), Ok(()));
        assert_eq!(of(1.0, None, 0.0), Ok(()));
        for (guidance, word) in [
            (of(-1.0, None, 0.0), "`sampler.guidance`"),
            (of(f64::NAN, None, 0.0), "1 is the network as it is"),
            (of(2.0, None, 1.5), "rescale"),
            (of(2.0, Some((50, 20)), 0.0), "interval"),
            (of(2.0, Some((50, 100)), 0.0), "0 to 99"),
            (of(1.0, Some((5, 10)), 0.0), "without guidance"),
        ] {
            let error = guidance.unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}

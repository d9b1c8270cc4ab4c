//! What the server may take of a device that a training run may need, too.

use anyhow::{Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::RunConfig;
use crate::memory::{Shortage, available_bytes, catch_shortage, counted};
use crate::pretrained::{Guided, Pretrained};
use crate::report::bytes;
use crate::sample::Guidance;

/// Share of the free memory that the server takes at most, unless told otherwise.
const SHARE: f64 = 0.5;
/// Of what is free, so much stays free: what a training run takes between its steps changes.
const SPARE: f64 = 0.1;
/// What kernels take for themselves beside the tensors of an evaluation, as a factor; and x_t with what samplers keep of
/// it, in evaluations' inputs.
const BESIDE: f64 = 1.25;
const KEPT_BY_SAMPLERS: u64 = 12;

/// The limit of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    device: Device,
    /// Most bytes of weights and of an evaluation; `None` where the system does not say what is free.
    pub(super) bytes: Option<u64>,
}

impl Limit {
    /// `asked`, or half of what is free now.
    pub(super) fn new(device: Device, asked: Option<u64>) -> Limit {
        let free = || available_bytes(device).map(|free| (free as f64 * SHARE) as u64);
        Limit {
            device,
            bytes: asked.or_else(free),
        }
    }

    /// In words, for the start of the server.
    pub(super) fn describe(&self) -> String {
        let of = match self.device {
            Device::Cuda(_) => "GPU memory",
            _ => "memory",
        };
        match self.bytes {
            Some(most) => format!(
                "takes at most {} of {of} for one network at a time and its images; what needs more is refused",
                bytes(most)
            ),
            None => format!(
                "the free {of} is not known, so there is no limit on it; set one with --memory"
            ),
        }
    }

    /// Refuses a network whose weights alone are too large.
    ///
    /// # Errors
    /// They are.
    pub(super) fn check_weights(&self, config: &RunConfig) -> Result<()> {
        let values = config
            .model
            .least_parameters()
            .clamp(0, i128::from(u64::MAX / 8));
        self.check(4 * values as u64, "the weights of this network take")
    }

    /// Refuses a job that takes too much beside the weights that are loaded.
    ///
    /// # Errors
    /// It does.
    pub(super) fn check_job(&self, needs: &Needs, images: u64, is_guided: bool) -> Result<()> {
        let more = needs.of(images, is_guided);
        let most = self.bytes.unwrap_or(u64::MAX);
        ensure!(
            needs.weights.saturating_add(more) <= most,
            "this network and {images} images take about {}, and the server may take {} (--memory); ask for fewer images",
            bytes(needs.weights.saturating_add(more)),
            bytes(most)
        );
        self.check_free(more, "these images take")
    }

    fn check(&self, needed: u64, what: &str) -> Result<()> {
        let most = self.bytes.unwrap_or(u64::MAX);
        ensure!(
            needed <= most,
            "{what} {} or more, and the server may take {} (--memory)",
            bytes(needed),
            bytes(most)
        );
        self.check_free(needed, what)
    }

    fn check_free(&self, needed: u64, what: &str) -> Result<()> {
        match available_bytes(self.device) {
            Some(free) if needed as f64 > free as f64 * (1.0 - SPARE) => bail!(
                "{what} about {}, and {} are free now; other programs use the rest",
                bytes(needed),
                bytes(free)
            ),
            _ => Ok(()),
        }
    }
}

/// What a loaded network takes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) weights: u64,
    /// Most at once while one image is evaluated.
    pub(super) evaluation: u64,
    /// x_t of an image.
    image: u64,
}

impl Needs {
    /// Measured by one evaluation of the network.
    ///
    /// # Errors
    /// Not even one image fits.
    pub(super) fn measure(network: &Pretrained) -> Result<Needs> {
        let model = &network.config().model;
        let ([_, h, w], c) = (model.chw(), model.input_channels());
        let device = network.device();
        let guided = Guided::new(network, Guidance::NONE, None)?;
        let evaluate = || {
            let x = Tensor::zeros([1, c, h, w], (Kind::Float, device));
            let zeros = || Tensor::zeros([1], (Kind::Int64, device));
            let classes = model.classes().map(|_| zeros());
            drop(guided.predict(&x, &zeros(), classes.as_ref()));
            crate::device::synchronize(device);
        };
        let measured = catch_shortage(|| {
            // The first allocates what later ones reuse, which is the network's from then on.
            let first = counted(device, evaluate)?.1;
            Ok(counted(device, evaluate)?.1.max(first))
        })?;
        let evaluation = match measured {
            Ok(evaluation) => evaluation,
            Err(Shortage(said)) => {
                bail!("not even one image fits into memory; libtorch says: {said}")
            }
        };
        let values: usize = network
            .state_dict()
            .iter()
            .map(|(_, tensor)| tensor.numel())
            .sum();
        Ok(Needs {
            weights: 4 * values as u64,
            evaluation,
            image: 4 * (c * h * w) as u64,
        })
    }

    /// Beside the weights, for so many images at a time; guidance takes two evaluations of each.
    pub(super) fn of(&self, images: u64, is_guided: bool) -> u64 {
        let evaluations = images * if is_guided { 2 } else { 1 };
        let evaluation = (self.evaluation as f64 * BESIDE) as u64;
        evaluations
            .saturating_mul(evaluation)
            .saturating_add(images.saturating_mul(KEPT_BY_SAMPLERS * self.image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn what_takes_more_than_the_limit_is_refused() {
        let needs = Needs {
            weights: 100 << 20,
            evaluation: 8 << 20,
            image: 1 << 10,
        };
        assert!(needs.of(2, true) > 3 * needs.of(1, false));
        let limit = Limit::new(Device::Cpu, Some(150 << 20));
        assert!(limit.check_job(&needs, 1, false).is_ok());
        let refused = limit.check_job(&needs, 16, true).unwrap_err().to_string();
        assert!(
            refused.contains("16 images") && refused.contains("150.0 MiB"),
            "{refused}"
        );
        let config = Preset::Celebahq128.config();
        let small = Limit::new(Device::Cpu, Some(1 << 20));
        let refused = small.check_weights(&config).unwrap_err().to_string();
        assert!(
            refused.contains("weights") && refused.contains("1.0 MiB"),
            "{refused}"
        );
        assert!(
            limit.describe().contains("at most 150.0 MiB"),
            "{}",
            limit.describe()
        );
        let half = Limit::new(Device::Cpu, None).bytes.unwrap();
        assert!(half > 1 << 20);
    }
}

//! Numbers that are not finite, by image and time step.

use anyhow::Result;
use tch::{Device, Tensor};

/// A number that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is not finite (NaN or infinite) for image {image} at time step {t}, so nothing can be measured there; \
     if the network computes in bf16 or TF32, values may overflow: try `start.precision` = f32"
)]
pub struct NotFiniteFor {
    /// What it is a number of.
    pub what: &'static str,
    /// The image's number.
    pub image: u64,
    /// The time step.
    pub t: usize,
}

impl NotFiniteFor {
    /// Reads whether `what` is finite in each evaluation for each of some images; `t` says at which time step.
    ///
    /// # Shapes
    /// - `finite`: `[evaluations, images]` bool
    ///
    /// # Errors
    /// The first that is not.
    pub(super) fn refuse(
        what: &'static str,
        images: &[u64],
        finite: &Tensor,
        t: impl Fn(u64, usize) -> usize,
    ) -> Result<()> {
        let finite = finite.contiguous().view([-1]).to_device(Device::Cpu);
        let finite = Vec::<bool>::try_from(finite)?;
        let Some(first) = finite.iter().position(|finite| !finite) else {
            return Ok(());
        };
        let (evaluation, place) = (first / images.len(), first % images.len());
        let image = images[place];
        let t = t(image, evaluation);
        Err(NotFiniteFor { what, image, t }.into())
    }
}

//! What a step hands on: first its gradients, then its numbers.

use tch::{Kind, Tensor};

use crate::report::PARTS_OF_T;

/// Numbers of a step whose gradients are in the arena and not used yet.
#[derive(Debug)]
pub struct Gradients {
    /// `[2]` f32 on the device: loss, and gradient norm before clipping.
    pub loss_and_grad_norm: Tensor,
    /// `[12]` f32 on the device: the loss of images in each part of the time steps, see [`Objective::sums_by_t`](crate::diffusion::Objective::sums_by_t).
    pub sums_by_t: Tensor,
    /// Images of the batch in each part.
    pub images_by_t: [u32; PARTS_OF_T],
}

/// The result of a step, still on the device, so that the host does not wait.
#[derive(Debug)]
pub struct StepOutput {
    /// Number of the step, from 1.
    pub step: u64,
    /// `[15]` f32: loss, gradient norm before clipping, 1 if nothing was changed because this step or one before it is bad,
    /// and `sums_by_t` of [`Gradients`].
    pub numbers: Tensor,
    /// Images of the batch in each part of the time steps.
    pub images_by_t: [u32; PARTS_OF_T],
    /// Learning rate of the step.
    pub lr: f64,
}

impl Gradients {
    /// Gradients of another origin than images: no part of the time steps has any.
    ///
    /// # Shapes
    /// - `loss_and_grad_norm`: `[2]` f32
    pub fn without_parts(loss_and_grad_norm: Tensor) -> Gradients {
        let like = (Kind::Float, loss_and_grad_norm.device());
        Gradients {
            loss_and_grad_norm,
            sums_by_t: Tensor::zeros([PARTS_OF_T as i64], like),
            images_by_t: [0; PARTS_OF_T],
        }
    }
}

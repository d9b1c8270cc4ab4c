//! A network in training: weights, optimizer, average, and one step.

use anyhow::{Result, anyhow, ensure};
use tch::{Device, Kind, Tensor};

use super::{Clock, Guard, Phase};
use crate::checkpoint::History;
use crate::config::{Draws, MapLayout, Norms, RunConfig};
use crate::data::{Order, Store};
use crate::diffusion::{NoisedBatch, Objective, Schedule};
use crate::memory::{Shortage, catch_shortage};
use crate::model::Model;
use crate::native::{self, Bf16Weights, KeptFilters};
use crate::optim::{Arena, Ema, Optimizer, StepInputs, lr_multiplier, norm};
use crate::report::bytes;
use crate::rng::{Stream, batch_noise, key, normal, part_key, seeded};

/// Batches that are gathered before their step, where gathering takes time: one could be late now and then.
const STEPS_PREFETCHED: u64 = 2;

/// Everything that training changes, and all it needs to continue.
#[derive(Debug)]
pub struct Trainer {
    /// Steps done.
    pub step: u64,
    /// The network; its weights are views of `arena.params`.
    pub net: Model,
    /// Parameters and gradients.
    pub arena: Arena,
    /// Moments.
    pub optimizer: Optimizer,
    /// Average of the weights.
    pub ema: Ema,
    /// Keeps bad steps from changing anything.
    pub guard: Guard,
    /// Time of each phase of a step, while it is measured.
    pub clock: Clock,
    /// Bad steps so far; the running means live in the guard.
    pub history: History,
    /// Noise schedule.
    pub schedule: Schedule,
    objective: Objective,
    order: Order,
    config: RunConfig,
}

/// The random choices of a step, a function of (seed, step) alone.
#[derive(Debug)]
pub struct StepDraws {
    /// Numbers of the images.
    pub indices: Vec<i64>,
    /// True for mirrored images, `[B]` bool; `None` if flipping is off.
    pub mirrored: Option<Tensor>,
    /// Time steps, `[B]` i64 on CPU.
    pub t: Tensor,
}

/// A part of a step's batch.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Place of its first image in the batch.
    first: i64,
    /// Images in the batch.
    of: i64,
}

/// Numbers of a step whose gradients are in the arena and not used yet.
#[derive(Debug)]
pub struct Gradients {
    /// `[2]` f32 on the device: loss, and gradient norm before clipping.
    pub loss_and_grad_norm: Tensor,
}

/// The result of a step, still on the device, so that the host does not wait.
#[derive(Debug)]
pub struct StepOutput {
    /// Number of the step, from 1.
    pub step: u64,
    /// `[3]` f32: loss, gradient norm before clipping, and 1 if nothing was changed because this step or one
    /// before it is bad.
    pub numbers: Tensor,
    /// Learning rate of the step.
    pub lr: f64,
}

impl Trainer {
    /// A fresh network on `device`, for a data set of `images` images.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(config: &RunConfig, images: u64, device: Device) -> Result<Trainer> {
        let net = Model::new(&config.model, config.diffusion.timesteps, config.train.seed);
        let weights: usize = net.params().iter().map(|p| p.tensor.numel()).sum();
        catch_shortage(|| Trainer::around(net, config, images, device))?.map_err(|Shortage(said)| {
            anyhow!(
                "out of memory: no room for the network's weights, gradients, moments and average, {} each ({said}); end what else uses the device, or choose another or a smaller network",
                bytes(4 * weights as u64)
            )
        })
    }

    fn around(mut net: Model, config: &RunConfig, images: u64, device: Device) -> Result<Trainer> {
        net.set_checkpoint_blocks(config.train.checkpoint_blocks);
        net.set_plain_blocks(config.train.plain_blocks.unwrap_or(true));
        // On a CPU it is there already, and the arena lays it out as convolutions like it.
        if device != Device::Cpu {
            net.move_to(device)?;
        }
        let layout = config.train.layout.unwrap_or(MapLayout::Nchw);
        net.set_layout(layout);
        let arena = Arena::laid_out(&net.params(), layout)?;
        // The initial weights left holes too small for moments and average, which are one tensor each.
        native::return_freed_memory();
        let schedule = Schedule::new(&config.diffusion);
        Ok(Trainer {
            step: 0,
            optimizer: Optimizer::new(&config.optim, &arena),
            ema: Ema::new(&arena, config.optim.ema),
            guard: Guard::new(config.train.explosion_factor, device),
            clock: Clock::new(device),
            history: History::default(),
            objective: Objective::new(
                &config.diffusion,
                &schedule,
                config.model.learned_variance(),
                device,
            ),
            order: Order::new(config.train.seed, images),
            schedule,
            net,
            arena,
            config: config.clone(),
        })
    }

    /// Number of images in the data set it was made for.
    pub fn images(&self) -> u64 {
        self.order.images()
    }

    /// Splits each batch into `parts` equal microbatches from here on.
    pub(super) fn set_accumulate(&mut self, parts: i64) {
        self.config.train.accumulate = parts;
    }

    /// Draws the images and time steps of step `step`, counted from 0.
    pub fn draw(&mut self, step: u64) -> StepDraws {
        let batch = self.config.train.batch;
        let seed = self.config.train.seed;
        let indices = self.order.batch(step, batch);
        let timesteps = self.config.diffusion.timesteps;
        let mirrored = self.config.data.flip.then(|| {
            let draw = || Tensor::rand([batch], (Kind::Float, Device::Cpu)).lt(0.5);
            seeded(key(seed, Stream::Flip, step), draw)
        });
        let t = seeded(key(seed, Stream::Timestep, step), || {
            Tensor::randint(timesteps, [batch], (Kind::Int64, Device::Cpu))
        });
        StepDraws {
            indices,
            mirrored,
            t,
        }
    }

    /// One training step on `data`.
    ///
    /// # Errors
    /// An error of libtorch, most often out of memory.
    pub fn train_step(&mut self, data: &Store) -> Result<StepOutput> {
        let gradients = self.gradients(data)?;
        self.update(gradients)
    }

    /// Forward and backward of the next step: weights, moments and average are only read.
    ///
    /// # Errors
    /// As [`train_step`](Trainer::train_step).
    pub fn gradients(&mut self, data: &Store) -> Result<Gradients> {
        let draw = self.draw(self.step);
        let x_0 = data.batch(&draw.indices, draw.mirrored.as_ref())?;
        self.prefetch(data)?;
        self.clock.end_of(Phase::Images);
        let loss = self.backward(&x_0, &draw.t, self.step)?;
        let grad_norm = self.grad_norm();
        Ok(Gradients {
            loss_and_grad_norm: Tensor::stack(&[loss, grad_norm], 0),
        })
    }

    /// Has the images of the next steps gathered while this one is computed.
    fn prefetch(&mut self, data: &Store) -> Result<()> {
        if data.reads_ahead() {
            let batch = self.config.train.batch;
            for step in self.step + 1..=self.step + STEPS_PREFETCHED {
                data.prefetch(self.order.batch(step, batch))?;
            }
        }
        Ok(())
    }

    /// Clips, takes the optimizer's step and averages; nothing changes but the step number if the gradients are
    /// bad, or an earlier step was and the guard has not been released.
    ///
    /// # Errors
    /// As [`train_step`](Trainer::train_step).
    pub fn update(&mut self, gradients: Gradients) -> Result<StepOutput> {
        let numbers = gradients.loss_and_grad_norm;
        self.clip(&numbers.get(1));
        let good_before = self.good_steps();
        self.guard.check(&self.arena, &numbers);
        let multiplier =
            lr_multiplier(&self.config.optim.lr_schedule, self.step) * self.history.lr_factor;
        let inputs = StepInputs {
            adam_t: good_before + 1,
            lr_multiplier: multiplier,
        };
        self.optimizer.step(&self.arena, inputs)?;
        self.clock.end_of(Phase::Optimizer);
        self.ema.update(&self.arena);
        self.clock.end_of(Phase::Average);
        self.step += 1;
        Ok(StepOutput {
            step: self.step,
            numbers: Tensor::cat(&[numbers, self.arena.frozen.view(1)], 0),
            lr: self.config.optim.lr * multiplier,
        })
    }

    /// Steps that changed the weights.
    fn good_steps(&self) -> u64 {
        self.step - self.history.skipped.len() as u64
    }

    /// Back to before the bad step `step` (from 1), whose update was frozen with all that were queued behind it.
    pub fn rewind_to_before(&mut self, step: u64) {
        let frozen = self.step - (step - 1);
        self.step -= frozen;
        self.ema.steps -= frozen;
        self.guard.release(&self.arena, frozen);
    }

    /// Passes over the next step: the data moves on, and nothing else.
    pub fn skip(&mut self) {
        self.step += 1;
        self.history.skipped.push(self.step);
    }

    /// Gradients of the batch's loss into the arena, microbatch by microbatch; returns the loss.
    ///
    /// # Shapes
    /// - `x_0`: `[B, C, H, W]` f32 on the device; `t`: `[B]` i64
    ///
    /// # Errors
    /// As [`train_step`](Trainer::train_step).
    pub fn backward(&self, x_0: &Tensor, t: &Tensor, step: u64) -> Result<Tensor> {
        let whole = Share {
            first: 0,
            of: x_0.size()[0],
        };
        self.backward_of(x_0, t, step, whole)
    }

    /// As [`backward`](Trainer::backward) for images `first..first + B` of the batch alone: losses and gradients of all
    /// shares of a batch add up to those of the batch.
    ///
    /// # Shapes
    /// - `x_0`: `[B, C, H, W]` f32 on the device; `t`: `[B]` i64
    ///
    /// # Errors
    /// `train.draws` is not image; the share is not made of whole microbatches of the batch; as
    /// [`train_step`](Trainer::train_step).
    pub fn backward_share(
        &self,
        x_0: &Tensor,
        t: &Tensor,
        step: u64,
        first: i64,
    ) -> Result<Tensor> {
        let (images, batch) = (x_0.size()[0], self.config.train.batch);
        let micro = batch / self.config.train.accumulate;
        ensure!(
            self.config.train.draws == Draws::Image,
            "the draws of this run are those of whole batches; a share of a batch needs `train.draws` = image"
        );
        ensure!(
            first >= 0 && first + images <= batch && first % micro == 0 && images % micro == 0,
            "images {first} to {} are not whole microbatches of {micro} in a batch of {batch}; another `train.accumulate` splits it otherwise",
            first + images
        );
        self.backward_of(x_0, t, step, Share { first, of: batch })
    }

    fn backward_of(&self, x_0: &Tensor, t: &Tensor, step: u64, share: Share) -> Result<Tensor> {
        let device = self.arena.device();
        let t = native::send(t, device)?;
        let noised = self.objective.noise(x_0, t, self.eps(x_0, step, share)?);
        self.arena.zero_grad();
        self.clock.end_of(Phase::Noise);
        self.accumulate(&noised, step, share)
    }

    /// The noise of a share, in the shape of its images.
    fn eps(&self, x_0: &Tensor, step: u64, share: Share) -> Result<Tensor> {
        let (seed, device) = (self.config.train.seed, self.arena.device());
        Ok(match self.config.train.draws {
            Draws::Batch => normal(seed, Stream::Noise, step, &x_0.size(), device),
            Draws::Image => {
                let (images, c, h, w) = x_0.size4()?;
                let places = share.first as u64..(share.first + images) as u64;
                batch_noise(seed, step, places, [c, h, w], device)
            }
        })
    }

    fn accumulate(&self, noised: &NoisedBatch, step: u64, share: Share) -> Result<Tensor> {
        let images = noised.x_t.size()[0];
        let micro = (self.config.train.batch / self.config.train.accumulate).min(images);
        let device = noised.x_t.device();
        // Made of what the weights are now, and dropped before they change.
        let _in_bf16 = (self.net.in_bf16() && device.is_cuda())
            .then(|| Bf16Weights::of(&self.arena.params))
            .transpose()?;
        let mut total = Tensor::zeros([], (Kind::Float, device));
        let mut add = |start: i64| -> Result<()> {
            let part = noised.part(start, micro.min(images - start));
            total += self.microbatch(&part, share.of)?;
            Ok(())
        };
        let mut starts = (0..images).step_by(micro as usize);
        let seed = self.config.train.seed;
        match self.config.train.draws {
            Draws::Batch => seeded(key(seed, Stream::Dropout, step), || {
                starts.try_for_each(add)
            })?,
            Draws::Image => starts.try_for_each(|start| {
                let number = (share.first + start) / micro;
                let key = part_key(seed, Stream::Dropout, step, number as u64);
                seeded(key, || add(start))
            })?,
        }
        Ok(total)
    }

    /// Adds the gradients of one microbatch to the arena; returns its part of the loss of a batch of `batch` images.
    fn microbatch(&self, part: &NoisedBatch, batch: i64) -> Result<Tensor> {
        let out = self.net.forward(&part.x_t, &part.t, None, true);
        let loss = self.objective.loss(&out, part, batch);
        self.clock.end_of(Phase::Forward);
        loss.f_backward()?;
        self.clock.end_of(Phase::Backward);
        Ok(loss.detach())
    }

    /// L2 norm of the gradients in the arena, a scalar f32 on the device.
    pub fn grad_norm(&self) -> Tensor {
        norm(&self.arena.grads, self.norms())
    }

    /// How norms are added up.
    pub(super) fn norms(&self) -> Norms {
        self.config.optim.norms
    }

    fn clip(&self, grad_norm: &Tensor) {
        if let Some(largest) = self.config.optim.clip_norm {
            let factor = ((grad_norm + 1e-6).reciprocal() * largest).clamp_max(1.0);
            let _ = self.arena.grads.shallow_clone().g_mul_(&factor);
        }
    }

    /// Output of the network without dropout; see [`Model::predict`].
    pub fn predict(&self, x_t: &Tensor, t: &Tensor, kept: &KeptFilters) -> Tensor {
        self.net.predict(x_t, t, None, kept)
    }
}

#[cfg(test)]
mod tests;

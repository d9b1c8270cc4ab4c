//! A network in training: weights, optimizer, average, and one step.
//!
//! In a group, each rank computes every so many-th microbatch of the batch: rank r of W the microbatches r, r + W, r + 2 W
//! and so on. All ranks get the gradients of the whole batch, and take the optimizer's step alike.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use tch::{Device, Kind, Tensor};

use super::share::{Share, StepDraws};
use super::step::{Gradients, StepOutput};
use super::{Clock, Guard, Phase};
use crate::checkpoint::History;
use crate::config::{Draws, MapLayout, Norms, RunConfig};
use crate::data::{Labels, Order, Store};
use crate::diffusion::{LowResolution, NoisedBatch, Objective, Schedule, with_noise};
use crate::distributed::{Group, Reduce, Reducer};
use crate::memory::{Shortage, catch_shortage};
use crate::model::Model;
use crate::native::{self, Bf16Weights, KeptFilters};
use crate::optim::{Arena, Ema, Optimizer, StepInputs, lr_multiplier, norm};
use crate::report::{PARTS_OF_T, bytes};
use crate::rng::{Stream, batch_noise, condition_noise, key, normal, part_key, seeded};

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
    /// The other ranks, if the batch is shared with some.
    ranks: Option<Reducer>,
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
            ranks: None,
        })
    }

    /// Shares each batch with the ranks of a group from here on. The number of microbatches must be a multiple of theirs.
    ///
    /// # Errors
    /// Out of memory.
    pub fn join(&mut self, group: &Arc<Group>, reduce: Reduce) -> Result<()> {
        let weights: Vec<Tensor> = self.net.params().into_iter().map(|p| p.tensor).collect();
        self.ranks = Some(Reducer::new(
            Arc::clone(group),
            reduce,
            &self.arena.grads,
            &weights,
            &self.arena.starts(),
        )?);
        Ok(())
    }

    /// The ranks that batches are shared with.
    pub fn ranks(&self) -> Option<&Reducer> {
        self.ranks.as_ref()
    }

    /// Does `work` with whole batches, as a process by itself.
    pub(super) fn alone<T>(&mut self, work: impl FnOnce(&mut Trainer) -> T) -> T {
        let ranks = self.ranks.take();
        let result = work(self);
        self.ranks = ranks;
        result
    }

    /// Number of images in the data set it was made for.
    pub fn images(&self) -> u64 {
        self.order.images()
    }

    /// Draws images from all classes alike from here on.
    pub(super) fn balance(&mut self, labels: &Labels) {
        self.order = Order::balanced(self.config.train.seed, labels);
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
        let unlabelled = self.label_dropout().map(|share| {
            let draw = || Tensor::rand([batch], (Kind::Float, Device::Cpu)).lt(share);
            seeded(key(seed, Stream::LabelDropout, step), draw)
        });
        let t = seeded(key(seed, Stream::Timestep, step), || {
            Tensor::randint(timesteps, [batch], (Kind::Int64, Device::Cpu))
        });
        StepDraws {
            indices,
            mirrored,
            unlabelled,
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
        let share = self.share();
        let whole = self.draw(self.step);
        let images_by_t = whole.images_by_t(self.config.diffusion.timesteps)?;
        let draw = share.draws(&whole);
        let x_0 = data.batch(&draw.indices, draw.mirrored.as_ref())?;
        let classes = self.classes(data, &draw)?;
        self.prefetch(data, &share)?;
        self.clock.end_of(Phase::Images);
        let losses = self.backward_of(&x_0, &draw.t, classes.as_ref(), self.step, &share)?;
        let grad_norm = self.grad_norm();
        Ok(Gradients {
            loss_and_grad_norm: Tensor::stack(&[losses.get(0), grad_norm], 0),
            sums_by_t: losses.narrow(0, 1, PARTS_OF_T as i64),
            images_by_t,
        })
    }

    /// Share of the images whose class the network is not told; `None` if there are none.
    fn label_dropout(&self) -> Option<f64> {
        let conditional = self.config.conditional.as_ref()?;
        conditional.label_dropout.filter(|share| *share > 0.0)
    }

    /// The classes that the network is told, `[B]` i64 on the CPU; `None` if it has none.
    fn classes(&self, data: &Store, draw: &StepDraws) -> Result<Option<Tensor>> {
        let model = &self.config.model;
        if model.classes().is_none() {
            return Ok(None);
        }
        let classes = data.classes(&draw.indices)?;
        let classes =
            classes.context("the network is class-conditional, and the images have no classes")?;
        Ok(Some(match (&draw.unlabelled, model.null_class()) {
            (Some(unlabelled), Some(none)) => classes.masked_fill(unlabelled, none),
            _ => classes,
        }))
    }

    /// Some classes for `images` images, to try what a batch takes; `None` if the network has none.
    pub(super) fn any_classes(&self, images: i64) -> Option<Tensor> {
        let classes = self.config.model.classes();
        classes.map(|_| Tensor::zeros([images], (Kind::Int64, Device::Cpu)))
    }

    /// What is computed here of each batch.
    fn share(&self) -> Share {
        let batch = self.config.train.batch;
        match &self.ranks {
            None => Share::of_range(0, batch, batch),
            Some(ranks) => {
                let group = ranks.group();
                let micro = batch / self.config.train.accumulate;
                Share::of_rank(group.rank(), group.size(), micro, batch)
            }
        }
    }

    /// Has the images of the next steps gathered while this one is computed.
    fn prefetch(&mut self, data: &Store, share: &Share) -> Result<()> {
        if data.reads_ahead() {
            let batch = self.config.train.batch;
            for step in self.step + 1..=self.step + STEPS_PREFETCHED {
                data.prefetch(share.numbers(&self.order.batch(step, batch)))?;
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
        let Gradients {
            loss_and_grad_norm: numbers,
            sums_by_t,
            images_by_t,
        } = gradients;
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
            numbers: Tensor::cat(&[numbers, self.arena.frozen.view(1), sums_by_t], 0),
            images_by_t,
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
    /// - `classes`: `[B]` i64, for class-conditional networks
    ///
    /// # Errors
    /// As [`train_step`](Trainer::train_step).
    pub fn backward(
        &self,
        x_0: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        step: u64,
    ) -> Result<Tensor> {
        let images = x_0.size()[0];
        let share = Share::of_range(0, images, images);
        Ok(self.backward_of(x_0, t, classes, step, &share)?.get(0))
    }

    /// As [`backward`](Trainer::backward) for images `first..first + B` of the batch alone: losses and gradients of all
    /// shares of a batch add up to those of the batch.
    ///
    /// # Shapes
    /// - `x_0`: `[B, C, H, W]` f32 on the device; `t`: `[B]` i64
    /// - `classes`: `[B]` i64, for class-conditional networks
    ///
    /// # Errors
    /// `train.draws` is not image; the share is not made of whole microbatches of the batch; as
    /// [`train_step`](Trainer::train_step).
    pub fn backward_share(
        &self,
        x_0: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
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
        let share = Share::of_range(first, images, batch);
        Ok(self.backward_of(x_0, t, classes, step, &share)?.get(0))
    }

    /// Returns the loss, and then that of each part of the time steps, `[1 + 12]`.
    fn backward_of(
        &self,
        x_0: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        step: u64,
        share: &Share,
    ) -> Result<Tensor> {
        let device = self.arena.device();
        let t = native::send(t, device)?;
        let mut noised = self.objective.noise(x_0, t, self.eps(x_0, step, share)?);
        noised.classes = classes
            .map(|classes| native::send(classes, device))
            .transpose()?;
        noised.condition = self.condition(x_0, step, share)?;
        self.arena.zero_grad();
        self.clock.end_of(Phase::Noise);
        self.accumulate(&noised, step, share)
    }

    /// The noise of a share, in the shape of its images.
    fn eps(&self, x_0: &Tensor, step: u64, share: &Share) -> Result<Tensor> {
        let (seed, device) = (self.config.train.seed, self.arena.device());
        Ok(match self.config.train.draws {
            Draws::Batch => normal(seed, Stream::Noise, step, &x_0.size(), device),
            Draws::Image => {
                let (_, c, h, w) = x_0.size4()?;
                let places = share.places.iter().map(|place| *place as u64);
                batch_noise(seed, step, places, [c, h, w], device)
            }
        })
    }

    /// What a network of super-resolution is given of the images: low-resolution ones, with noise for each.
    fn condition(&self, x_0: &Tensor, step: u64, share: &Share) -> Result<Option<Tensor>> {
        let Some(upscale) = &self.config.upscale else {
            return Ok(None);
        };
        let low_resolution = LowResolution::new(upscale);
        let mut low = low_resolution.shrink(x_0);
        if upscale.noise > 0.0 {
            let (seed, device) = (self.config.train.seed, self.arena.device());
            let (_, c, h, w) = low.size4()?;
            let places = share.places.iter().map(|place| *place as u64);
            let noise = condition_noise(seed, step, places, [c, h, w], device);
            let draw = || Tensor::rand([share.of], (Kind::Float, Device::Cpu)) * upscale.noise;
            let shares = seeded(key(seed, Stream::Condition, step), draw);
            let shares = shares.index_select(0, &Tensor::from_slice(&share.places));
            low = with_noise(&low, &native::send(&shares, device)?, &noise);
        }
        Ok(Some(low_resolution.enlarge(&low)))
    }

    fn accumulate(&self, noised: &NoisedBatch, step: u64, share: &Share) -> Result<Tensor> {
        let images = noised.x_t.size()[0];
        let micro = (self.config.train.batch / self.config.train.accumulate).min(images);
        let device = noised.x_t.device();
        // Made of what the weights are now, and dropped before they change.
        let _in_bf16 = (self.net.in_bf16() && device.is_cuda())
            .then(|| Bf16Weights::of(&self.arena.params))
            .transpose()?;
        let mut total = Tensor::zeros([1 + PARTS_OF_T as i64], (Kind::Float, device));
        let part = |start: i64| {
            let part = noised.part(start, micro.min(images - start));
            self.microbatch(&part, share.of)
        };
        let starts = (0..images).step_by(micro as usize);
        let seed = self.config.train.seed;
        match self.config.train.draws {
            Draws::Batch => seeded(key(seed, Stream::Dropout, step), || -> Result<()> {
                for start in starts {
                    total += part(start)?;
                }
                Ok(())
            })?,
            Draws::Image => {
                for start in starts {
                    let number = share.places[start as usize] / micro;
                    let key = part_key(seed, Stream::Dropout, step, number as u64);
                    self.before_round(start + micro >= images)?;
                    let loss = seeded(key, || part(start))?;
                    for loss in self.after_round(loss)? {
                        total += loss;
                    }
                }
            }
        }
        self.sum(total)
    }

    fn before_round(&self, last: bool) -> Result<()> {
        match &self.ranks {
            Some(ranks) => ranks.before_round(last),
            None => Ok(()),
        }
    }

    /// The losses of a round: of this microbatch, or of those of all ranks.
    fn after_round(&self, loss: Tensor) -> Result<Vec<Tensor>> {
        let Some(ranks) = &self.ranks else {
            return Ok(vec![loss]);
        };
        let losses = ranks.after_round(loss);
        self.clock.end_of(Phase::Ranks);
        losses
    }

    /// Adds up gradients and loss over all ranks.
    fn sum(&self, total: Tensor) -> Result<Tensor> {
        let Some(ranks) = &self.ranks else {
            return Ok(total);
        };
        let total = ranks.finish(total);
        self.clock.end_of(Phase::Ranks);
        total
    }

    /// Adds the gradients of one microbatch to the arena; returns its part of the loss of a batch of `batch` images, and then
    /// the sums of the losses in each part of the time steps, `[1 + 12]`.
    fn microbatch(&self, part: &NoisedBatch, batch: i64) -> Result<Tensor> {
        let classes = part.classes.as_ref();
        let out = self.net.forward(&part.input(), &part.t, classes, true);
        let loss = self.objective.loss(&out, part, batch);
        let sums_by_t = self.objective.sums_by_t(&out, part, PARTS_OF_T as i64);
        self.clock.end_of(Phase::Forward);
        loss.f_backward()?;
        self.clock.end_of(Phase::Backward);
        Ok(Tensor::cat(&[loss.detach().view(1), sums_by_t], 0))
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

    /// Output of the network without dropout, of x_t with what is beside it; see [`Model::predict`].
    pub fn predict(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        kept: &KeptFilters,
    ) -> Tensor {
        self.net.predict(x_t, t, classes, kept)
    }
}

#[cfg(test)]
mod tests;

//! A network in training: weights, optimizer, average, and one step.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::{Clock, Guard, Phase};
use crate::checkpoint::History;
use crate::config::RunConfig;
use crate::data::{Order, Store};
use crate::diffusion::{NoisedBatch, Objective, Schedule};
use crate::model::Model;
use crate::native::{self, KeptFilters};
use crate::optim::{Arena, Ema, Optimizer, StepInputs, lr_multiplier};
use crate::rng::{Stream, key, normal, seeded};

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
        let mut net = Model::new(&config.model, config.diffusion.timesteps, config.train.seed);
        net.set_checkpoint_blocks(config.train.checkpoint_blocks);
        // On a CPU it is there already, and the arena lays it out as convolutions like it.
        if device != Device::Cpu {
            net.move_to(device)?;
        }
        let arena = Arena::new(&net.params())?;
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
        let grad_norm = self.arena.grads.norm();
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
        let device = self.arena.device();
        let seed = self.config.train.seed;
        let t = t.f_to_device_(device, Kind::Int64, true, false)?;
        let eps = normal(seed, Stream::Noise, step, &x_0.size(), device);
        let noised = self.objective.noise(x_0, t, eps);
        self.arena.zero_grad();
        self.clock.end_of(Phase::Noise);
        seeded(key(seed, Stream::Dropout, step), || {
            self.accumulate(&noised)
        })
    }

    fn accumulate(&self, noised: &NoisedBatch) -> Result<Tensor> {
        let batch = noised.x_t.size()[0];
        let micro = (self.config.train.batch / self.config.train.accumulate).min(batch);
        let mut total = Tensor::zeros([], (Kind::Float, noised.x_t.device()));
        for start in (0..batch).step_by(micro as usize) {
            let part = noised.part(start, micro.min(batch - start));
            let out = self.net.forward(&part.x_t, &part.t, None, true);
            let loss = self.objective.loss(&out, &part, batch);
            self.clock.end_of(Phase::Forward);
            loss.f_backward()?;
            self.clock.end_of(Phase::Backward);
            total += loss.detach();
        }
        Ok(total)
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
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::data::Store;
    use crate::device::Precision;

    fn tiny() -> (RunConfig, Store) {
        let mut config = Preset::Demo.config();
        let m = config.model.unet_mut();
        (m.height, m.width, m.base_width, m.norm_groups) = (8, 8, 8, 2);
        m.multipliers = vec![1, 2];
        config.train.batch = 4;
        config.data.flip = true;
        config.optim.lr_schedule = vec![(0, 1.0)];
        let pixels = Tensor::arange(6 * 3 * 64, (Kind::Int64, Device::Cpu))
            .fmod(251)
            .to_kind(Kind::Uint8);
        (
            config,
            Store::new(pixels.view([6, 3, 8, 8]), Device::Cpu).unwrap(),
        )
    }

    fn weights_after(config: &RunConfig, data: &Store, steps: u64) -> Tensor {
        let mut trainer = Trainer::new(config, data.len(), Device::Cpu).unwrap();
        for _ in 0..steps {
            trainer.train_step(data).unwrap();
        }
        trainer.arena.params.copy()
    }

    #[test]
    fn microbatches_give_the_gradients_of_the_whole_batch() {
        let (mut config, data) = tiny();
        config.model.set_dropout(0.0);
        let grads = |config: &RunConfig| {
            let mut trainer = Trainer::new(config, data.len(), Device::Cpu).unwrap();
            let draw = trainer.draw(0);
            let x_0 = data.batch(&draw.indices, draw.mirrored.as_ref()).unwrap();
            let loss = trainer.backward(&x_0, &draw.t, 0).unwrap();
            (trainer.arena.grads.copy(), f64::try_from(loss).unwrap())
        };
        let (whole, loss) = grads(&config);
        config.train.accumulate = 4;
        let (split, split_loss) = grads(&config);
        let error = f64::try_from((&whole - split).norm() / whole.norm()).unwrap();
        // f32 sums in another order.
        assert!(
            error < 1e-5 && (loss - split_loss).abs() < 1e-5 * loss,
            "{error} {loss} {split_loss}"
        );
    }

    #[test]
    fn a_step_is_a_function_of_seed_and_step() {
        let (mut config, data) = tiny();
        config.model.set_dropout(0.1);
        let once = weights_after(&config, &data, 3);
        seeded(5, || ());
        assert_eq!(once, weights_after(&config, &data, 3));
        config.train.seed = 1;
        assert_ne!(once, weights_after(&config, &data, 3));
    }

    #[test]
    fn checkpointed_blocks_train_the_same_weights() {
        let (mut config, data) = tiny();
        config.model.set_dropout(0.0);
        config.train.accumulate = 2;
        let kept = weights_after(&config, &data, 5);
        config.train.checkpoint_blocks = true;
        assert_eq!(kept, weights_after(&config, &data, 5));
    }

    #[test]
    fn checkpointed_blocks_that_are_not_fused_give_the_same_gradients() {
        let (mut config, data) = tiny();
        for (dropout, precision) in [(0.1, Precision::F32), (0.1, Precision::Bf16)] {
            config.model.set_dropout(dropout);
            let [kept, again] = [false, true].map(|checkpointed| {
                config.train.checkpoint_blocks = checkpointed;
                let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
                trainer.net.set_precision(precision);
                trainer.gradients(&data).unwrap();
                trainer.arena.grads.copy()
            });
            let error = f64::try_from((&kept - again).norm() / kept.norm()).unwrap();
            // The terms of a gradient are added in another order.
            let most = if precision == Precision::Bf16 {
                1e-2
            } else {
                1e-5
            };
            assert!(error < most, "{dropout} {precision}: {error}");
        }
    }

    #[test]
    fn images_of_a_mapped_file_train_the_same_weights() {
        let (mut config, data) = tiny();
        // Seven steps of four go through six images more than four times.
        config.train.batch = 4;
        let mapped = Store::mapped(data.pixels().shallow_clone(), Device::Cpu).unwrap();
        assert!(mapped.reads_ahead() && !data.reads_ahead());
        let steps = |data: &Store| weights_after(&config, data, 7);
        assert_eq!(steps(&data), steps(&mapped));
        assert!(data.waited().is_zero());
    }

    #[test]
    fn clipping_bounds_the_gradient() {
        let (mut config, data) = tiny();
        config.optim.clip_norm = Some(0.5);
        let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
        let output = trainer.train_step(&data).unwrap();
        let before = output.numbers.double_value(&[1]);
        let after = f64::try_from(trainer.arena.grads.norm()).unwrap();
        assert!(
            before > 0.5 && (after - 0.5).abs() < 1e-4,
            "{before} {after}"
        );
    }

    #[test]
    fn every_optimizer_lowers_the_loss() {
        use crate::config::OptimizerKind::{Adam, Adamw, Lamb};
        let (mut config, data) = tiny();
        config.data.flip = false;
        for (optimizer, lr) in [(Lamb, 1e-2), (Adam, 1e-2), (Adamw, 1e-2)] {
            config.optim.optimizer = optimizer;
            config.optim.lr = lr;
            let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
            let losses: Vec<f64> = (0..40)
                .map(|_| {
                    trainer
                        .train_step(&data)
                        .unwrap()
                        .numbers
                        .double_value(&[0])
                })
                .collect();
            let (first, last) = (losses[0], losses[30..].iter().sum::<f64>() / 10.0);
            assert!(last < 0.9 * first, "{optimizer:?}: {first} to {last}");
        }
    }
}

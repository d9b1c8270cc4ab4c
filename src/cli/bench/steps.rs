//! The steps that are timed, on random images.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::ranks::Exchange;
use crate::config::{MapLayout, OptimConfig, OptimizerKind, RunConfig};
use crate::data::Store;
use crate::device::{Chosen, synchronize};
use crate::diffusion::{Schedule, beside};
use crate::distributed::{Group, Reduce, Reducer};
use crate::model::Model;
use crate::native::KeptFilters;
use crate::rng::{Stream, normal};
use crate::sample::{Ddpm, Process, Respaced};
use crate::train::{Gradients, Phase, Trainer};

/// Work that is timed.
pub(super) trait Bench {
    /// Does it once, and waits for its end.
    fn step(&mut self) -> Result<()>;

    /// Does it `steps` times; returns milliseconds per step of each part.
    fn phases(&mut self, steps: u32) -> Result<Vec<(&'static str, f64)>>;

    /// What the last step, which took `step`, spent on other ranks; `None` if there are none, or if it is not known.
    fn exchange(&self, step: Duration) -> Option<Exchange> {
        let _ = step;
        None
    }

    /// Bytes of gradients that this rank sends in a step; `None` without other ranks.
    fn bytes_sent(&self) -> Option<u64> {
        None
    }
}

/// Images in the random data set.
const IMAGES: i64 = 256;

/// Milliseconds per step, for `steps` that took `all` together.
fn ms(all: Duration, steps: u32) -> f64 {
    all.as_secs_f64() * 1e3 / f64::from(steps)
}

fn trainer(config: &RunConfig, chosen: &Chosen, images: u64) -> Result<Trainer> {
    let mut trainer = Trainer::new(config, images, chosen.device)?;
    trainer.net.set_precision(chosen.precision);
    Ok(trainer)
}

/// Milliseconds per step of each phase that took any time, from a trainer's clock.
fn phases_of(trainer: &Trainer, steps: u32) -> Vec<(&'static str, f64)> {
    let spent = Phase::ALL.into_iter().zip(trainer.clock.stop());
    spent
        .filter(|(_, spent)| !spent.is_zero())
        .map(|(phase, spent)| (phase.name(), ms(spent, steps)))
        .collect()
}

/// A training step.
pub(super) struct Train {
    trainer: Trainer,
    data: Store,
    /// Microbatches that this process computes in a step.
    rounds: u64,
    /// True while phases are measured, over several steps.
    in_phases: bool,
}

impl Train {
    /// With a group, its ranks share each batch, as in training.
    pub(super) fn new(
        config: &RunConfig,
        chosen: &Chosen,
        ranks: Option<(&Arc<Group>, Reduce)>,
    ) -> Result<Train> {
        let [c, h, w] = config.model.chw();
        let pixels = Tensor::randint(256, [IMAGES, c, h, w], (Kind::Uint8, Device::Cpu));
        let mut data = Store::new(pixels, chosen.device)?;
        if config.model.classes().is_some() {
            data.set_classes(vec![0; IMAGES as usize]);
        }
        let mut trainer = trainer(config, chosen, data.len())?;
        if let Some((group, reduce)) = ranks {
            trainer.join(group, reduce)?;
        }
        Ok(Train {
            trainer,
            data,
            rounds: (config.train.accumulate / ranks.map_or(1, |(group, _)| group.size())) as u64,
            in_phases: false,
        })
    }

    /// The ranks whose time can be told from the host: on CUDA only the device knows it.
    fn timed_ranks(&self) -> Option<&Reducer> {
        let on_host = self.trainer.arena.device() == Device::Cpu;
        self.trainer.ranks().filter(|_| on_host)
    }
}

impl Bench for Train {
    fn step(&mut self) -> Result<()> {
        if let Some(ranks) = self.timed_ranks().filter(|_| !self.in_phases) {
            // What earlier steps have left.
            let _ = (ranks.busy(), self.trainer.clock.stop());
            self.trainer.clock.start();
        }
        let output = self.trainer.train_step(&self.data)?;
        // Reading the loss is part of a step.
        let _loss = output.numbers.double_value(&[0]);
        Ok(())
    }

    fn phases(&mut self, steps: u32) -> Result<Vec<(&'static str, f64)>> {
        self.in_phases = true;
        // What earlier steps have left.
        let _ = self.trainer.clock.stop();
        for _ in 0..steps {
            self.trainer.clock.start();
            self.step()?;
        }
        let mut phases = phases_of(&self.trainer, steps);
        phases.push(("waiting for images", ms(self.data.waited(), steps)));
        self.in_phases = false;
        Ok(phases)
    }

    fn exchange(&self, step: Duration) -> Option<Exchange> {
        let busy = self.timed_ranks()?.busy();
        let waited = self.trainer.clock.stop()[Phase::Ranks as usize];
        Some(Exchange::new(step, busy, waited))
    }

    fn bytes_sent(&self) -> Option<u64> {
        let ranks = self.trainer.ranks()?;
        Some(ranks.bytes_a_step(self.rounds))
    }
}

/// The update of a training step.
pub(super) struct Update {
    trainer: Trainer,
}

impl Update {
    pub(super) fn new(config: &RunConfig, chosen: &Chosen) -> Result<Update> {
        let trainer = trainer(config, chosen, IMAGES as u64)?;
        let mut grads = trainer.arena.grads.shallow_clone();
        grads.copy_(&normal(0, Stream::Noise, 0, &grads.size(), chosen.device));
        Ok(Update { trainer })
    }
}

impl Bench for Update {
    fn step(&mut self) -> Result<()> {
        let grad_norm = self.trainer.grad_norm();
        let loss = grad_norm.ones_like();
        let gradients = Gradients::without_parts(Tensor::stack(&[loss, grad_norm], 0));
        self.trainer.update(gradients).map(drop)
    }

    fn phases(&mut self, steps: u32) -> Result<Vec<(&'static str, f64)>> {
        for _ in 0..steps {
            self.trainer.clock.start();
            self.step()?;
        }
        Ok(phases_of(&self.trainer, steps))
    }
}

/// Least bytes that the gradient norm, the optimizer and the EMA read and write.
pub(super) fn bytes_of_update(config: &OptimConfig, net: &Model) -> u64 {
    let parameters: usize = net.params().iter().map(|p| p.tensor.numel()).sum();
    // Adam reads parameters, gradients and two moments, and writes all but the gradients. LAMB lets it write to a
    // zeroed update instead, whose norm it takes with that of the parameters, and which it scales and adds to them.
    let optimizer = match config.optimizer {
        OptimizerKind::Lamb => 7 + 1 + 2 + 2 + 3,
        OptimizerKind::Adam | OptimizerKind::Adamw => 7,
    };
    let (norm, average) = (1, 3);
    (norm + optimizer + average) * 4 * parameters as u64
}

/// One reverse step of a batch.
pub(super) struct Sample {
    net: Model,
    kept: KeptFilters,
    steps: Respaced,
    config: RunConfig,
    device: Device,
    x: Tensor,
    /// Time in the network, while it is measured.
    in_network: Cell<Option<Duration>>,
}

impl Sample {
    pub(super) fn new(config: &RunConfig, chosen: &Chosen) -> Result<Sample> {
        let mut net = Model::new(&config.model, config.diffusion.timesteps, 0);
        net.set_layout(config.train.layout.unwrap_or(MapLayout::Nchw));
        net.set_plain_blocks(config.train.plain_blocks.unwrap_or(true));
        net.move_to(chosen.device)?;
        net.set_precision(chosen.precision);
        let [c, h, w] = config.model.chw();
        let shape = [config.train.batch, c, h, w];
        Ok(Sample {
            net,
            kept: KeptFilters::new(),
            steps: Respaced::all(&Schedule::new(&config.diffusion)),
            config: config.clone(),
            device: chosen.device,
            x: normal(0, Stream::Sample, 0, &shape, chosen.device),
            in_network: Cell::new(None),
        })
    }

    fn forward(&self, x: &Tensor, t: &Tensor) -> Tensor {
        let classes = self.config.model.classes().map(|_| t.zeros_like());
        let condition = (self.config.model.condition_channels()).map(|_| x.zeros_like());
        let x = &beside(x, condition.as_ref());
        let classes = classes.as_ref();
        let Some(spent) = self.in_network.get() else {
            return self.net.predict(x, t, classes, &self.kept);
        };
        synchronize(self.device);
        let start = Instant::now();
        let out = self.net.predict(x, t, classes, &self.kept);
        synchronize(self.device);
        self.in_network.set(Some(spent + start.elapsed()));
        out
    }
}

impl Bench for Sample {
    fn step(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let sample = &self.config.sample;
        let options = Ddpm::new(sample);
        let denoiser = |x: &Tensor, t: &Tensor| self.forward(x, t);
        let diffusion = &self.config.diffusion;
        let process = Process::new(&denoiser, &self.steps, diffusion, sample.clip_x0);
        let last = self.steps.len() - 1;
        let z = normal(0, Stream::Sample, 1, &self.x.size(), self.device);
        let estimate = process.estimate(&self.x, last);
        self.x = options.step(&self.steps, &estimate, last, || z);
        Ok(())
    }

    fn phases(&mut self, steps: u32) -> Result<Vec<(&'static str, f64)>> {
        self.in_network.set(Some(Duration::ZERO));
        let start = Instant::now();
        for _ in 0..steps {
            self.step()?;
        }
        synchronize(self.device);
        let all = start.elapsed();
        let network = self.in_network.take().unwrap_or_default();
        Ok(vec![
            ("forward", ms(network, steps)),
            ("noise and sampler", ms(all - network, steps)),
        ])
    }
}

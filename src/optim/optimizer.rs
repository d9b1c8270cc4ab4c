//! LAMB, Adam and AdamW; libtorch's fused kernel does the Adam part of all three.

use anyhow::Result;
use tch::{Kind, Tensor, no_grad_guard};

use super::Arena;
use super::norms::norms_of;
use crate::config::{OptimConfig, OptimizerKind};
use crate::native::{self, AdamStep};

/// Inputs of a step besides gradients and moments.
///
/// Ours is `adam_t = step + 1` and the multiplier at `step`, with `step` counted from 0; the
/// original Keras code has a data race here, and these arguments replay either outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepInputs {
    /// Adam's own step number in its bias corrections, from 1.
    pub adam_t: u64,
    /// Factor on the learning rate.
    pub lr_multiplier: f64,
}

/// The optimizer and its moments, laid out like the arena.
#[derive(Debug)]
pub struct Optimizer {
    /// First moments, `[P]` f32.
    pub exp_avg: Tensor,
    /// Second moments, `[P]` f32.
    pub exp_avg_sq: Tensor,
    config: OptimConfig,
    /// Adam's step number on the device, as the fused kernel expects it.
    adam_t: Tensor,
    lamb: Option<Lamb>,
}

/// Buffers LAMB needs besides Adam's.
#[derive(Debug)]
struct Lamb {
    /// Adam's update, `[P]`.
    delta: Tensor,
    /// Views of `delta` and of the parameters, one for each adapted tensor. On CUDA then one of a zero, for all the
    /// others: its factor is 1.
    delta_views: Vec<Tensor>,
    param_views: Vec<Tensor>,
    /// On CUDA `delta` by rows, and the number of each row's view.
    rows: Option<(Tensor, Tensor)>,
}

impl Lamb {
    fn new(arena: &Arena, norms: bool) -> Lamb {
        let delta = arena.zeros_like();
        let [mut delta_views, mut param_views] =
            [&delta, &arena.params].map(|flat| arena.adapted_views(flat, norms));
        let rows = arena.device().is_cuda().then(|| {
            for views in [&mut delta_views, &mut param_views] {
                views.push(delta.new_zeros([1], (Kind::Float, arena.device())));
            }
            (Arena::as_rows(&delta), arena.adapted_rows(norms))
        });
        Lamb {
            delta,
            delta_views,
            param_views,
            rows,
        }
    }
}

/// Multiplies each row of `rows`, `[R, 16]`, by its factor, `factors[places]`, in one launch. Multiplying tensor by
/// tensor gives the same bits; on CUDA it is a launch for each of them, and on one thread of a CPU it is faster.
fn scale_rows(rows: &Tensor, places: &Tensor, factors: &Tensor) {
    let factors = factors.index_select(0, places).unsqueeze(1);
    let _ = rows.shallow_clone().g_mul_(&factors);
}

impl Optimizer {
    /// Zero moments for `arena`.
    pub fn new(config: &OptimConfig, arena: &Arena) -> Optimizer {
        let lamb =
            (config.optimizer == OptimizerKind::Lamb).then(|| Lamb::new(arena, config.adapt_norms));
        Optimizer {
            exp_avg: arena.zeros_like(),
            exp_avg_sq: arena.zeros_like(),
            config: config.clone(),
            adam_t: Tensor::zeros([], (Kind::Float, arena.device())),
            lamb,
        }
    }

    /// One step on `arena.params` from `arena.grads`; none if the arena is frozen.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn step(&mut self, arena: &Arena, inputs: StepInputs) -> Result<()> {
        let _guard = no_grad_guard();
        let _ = self.adam_t.fill_(inputs.adam_t as f64);
        match &self.lamb {
            Some(lamb) => self.lamb_step(lamb, arena, inputs),
            None => self.adam_step(
                &arena.params,
                arena,
                AdamStep {
                    lr: self.config.lr * inputs.lr_multiplier,
                    beta1: self.config.beta1,
                    beta2: self.config.beta2,
                    weight_decay: self.config.weight_decay,
                    eps: self.config.eps,
                    decoupled_weight_decay: self.config.optimizer == OptimizerKind::Adamw,
                },
            ),
        }
    }

    fn adam_step(&self, target: &Tensor, arena: &Arena, step: AdamStep) -> Result<()> {
        native::fused_adam(
            target,
            &arena.grads,
            &self.exp_avg,
            &self.exp_avg_sq,
            &self.adam_t,
            &arena.frozen,
            step,
        )
    }

    /// Adam on a zeroed `delta` leaves Adam's update there (zero if the arena is frozen); each tensor's update is then scaled by
    /// ‖w‖ / ‖update‖ (1 where either is zero, for biases, and for norms unless the config adapts them).
    ///
    /// Keras's Adam adds eps to sqrt(v) before the bias correction and libtorch's after it; passing
    /// eps / sqrt(1 - beta2^t) makes them the same.
    ///
    /// Source: You et al. 2020, algorithm 2 <https://arxiv.org/abs/1904.00962>
    fn lamb_step(&self, lamb: &Lamb, arena: &Arena, inputs: StepInputs) -> Result<()> {
        let c = &self.config;
        let correction2 = 1.0 - c.beta2.powf(inputs.adam_t as f64);
        let _ = lamb.delta.shallow_clone().zero_();
        self.adam_step(
            &lamb.delta,
            arena,
            AdamStep {
                lr: 1.0,
                beta1: c.beta1,
                beta2: c.beta2,
                weight_decay: 0.0,
                eps: c.eps / correction2.sqrt(),
                decoupled_weight_decay: false,
            },
        )?;
        if c.weight_decay > 0.0 {
            native::add_scaled(&lamb.delta, &arena.params, -c.weight_decay)?;
            let _ = lamb.delta.shallow_clone().g_mul_(&(1.0 - &arena.frozen));
        }
        let param_norms = norms_of(&lamb.param_views, c.norms)?;
        let delta_norms = norms_of(&lamb.delta_views, c.norms)?;
        let both = param_norms.gt(0.0).logical_and(&delta_norms.gt(0.0));
        let ratios = (&param_norms / &delta_norms).where_self(&both, &param_norms.ones_like());
        match &lamb.rows {
            Some((rows, places)) => scale_rows(rows, places, &ratios),
            None => native::foreach_mul(&lamb.delta_views, &ratios)?,
        }
        native::add_scaled(&arena.params, &lamb.delta, c.lr * inputs.lr_multiplier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::optim::Ema;
    use crate::rng::{Stream, normal};
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn tensors_scaled_by_rows_have_the_bits_of_those_scaled_one_by_one() {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        for (name, len) in [("conv", 40), ("norm", 16), ("linear", 1), ("conv_out", 33)] {
            let path = &(root / name);
            let _ = path.ones("weight", &[len]);
            let _ = path.zeros("bias", &[len]);
        }
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        for norms in [false, true] {
            let drawn = normal(0, Stream::Noise, 0, &arena.params.size(), Device::Cpu);
            let (one_by_one, by_rows) = (arena.zeros_like(), arena.zeros_like());
            for flat in [&one_by_one, &by_rows] {
                for (mut to, from) in arena.views(flat).into_iter().zip(arena.views(&drawn)) {
                    to.copy_(&from);
                }
            }
            let views = arena.adapted_views(&one_by_one, norms);
            let factors = normal(1, Stream::Noise, 0, &[views.len() as i64], Device::Cpu);
            native::foreach_mul(&views, &factors).unwrap();
            let places = arena.adapted_rows(norms);
            let with_one = Tensor::cat(&[&factors, &factors.narrow(0, 0, 1).ones_like()], 0);
            scale_rows(&Arena::as_rows(&by_rows), &places, &with_one);
            assert_eq!(by_rows, one_by_one, "{norms}");
            assert_ne!(by_rows, drawn);
        }
    }

    #[test]
    fn a_halted_arena_changes_in_nothing_and_goes_on_as_if_nothing_was() {
        for optimizer in [
            OptimizerKind::Lamb,
            OptimizerKind::Adam,
            OptimizerKind::Adamw,
        ] {
            let store = VarStore::new(Device::Cpu);
            let _ = (&store.root() / "conv").ones("weight", &[40]);
            let _ = (&store.root() / "conv").ones("bias", &[5]);
            let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
            let config = OptimConfig {
                optimizer,
                weight_decay: 0.1,
                ..Preset::Demo.config().optim
            };
            let mut optimizer = Optimizer::new(&config, &arena);
            let mut ema = Ema::new(&arena, 0.9);
            let mut step = |gradients: &Tensor, frozen: f64, adam_t| {
                let _ = arena.frozen.shallow_clone().fill_(frozen);
                arena.grads.shallow_clone().copy_(gradients);
                let inputs = StepInputs {
                    adam_t,
                    lr_multiplier: 1.0,
                };
                optimizer.step(&arena, inputs).unwrap();
                ema.update(&arena);
                let state = [
                    &arena.params,
                    &optimizer.exp_avg,
                    &optimizer.exp_avg_sq,
                    &ema.flat,
                ];
                state.map(Tensor::copy)
            };
            let gradients = normal(0, Stream::Noise, 0, &arena.grads.size(), Device::Cpu);
            let before = step(&gradients, 0.0, 1);
            let nan = Tensor::full(arena.grads.size(), f64::NAN, (Kind::Float, Device::Cpu));
            assert_eq!(
                before,
                step(&nan, 1.0, 2),
                "{optimizer:?}",
                optimizer = config.optimizer
            );
            assert_ne!(before, step(&gradients, 0.0, 2));
        }
    }
}

//! Exponential moving average of the weights.

use tch::{Tensor, no_grad};

use super::Arena;

/// `ema = momentum * ema + (1 - momentum) * w`, started at zero and bias-corrected on reading, so
/// it is a proper average from the first step on.
///
/// Source: bert4keras `extend_with_exponential_moving_average`; the correction is Kingma & Ba 2015,
/// section 3.
#[derive(Debug)]
pub struct Ema {
    /// The running sum, `[P]` f32, not corrected.
    pub flat: Tensor,
    /// Steps averaged so far.
    pub steps: u64,
    momentum: f64,
}

impl Ema {
    /// An average over zero steps.
    pub fn new(arena: &Arena, momentum: f64) -> Ema {
        Ema {
            flat: arena.zeros_like(),
            steps: 0,
            momentum,
        }
    }

    /// Takes in the weights after a step, unless the arena is frozen; the step is counted in any case.
    pub fn update(&mut self, arena: &Arena) {
        no_grad(|| {
            let weight = (1.0 - &arena.frozen) * (1.0 - self.momentum);
            let _ = self.flat.lerp_tensor_(&arena.params, &weight);
        });
        self.steps += 1;
    }

    /// The bias-corrected average; before the first step, the weights themselves.
    pub fn corrected(&self, arena: &Arena) -> Tensor {
        if self.steps == 0 {
            return arena.params.detach().copy();
        }
        no_grad(|| &self.flat / bias_correction(self.momentum, self.steps))
    }
}

/// Divisor of a running sum started at zero: `1 - momentum^steps`, accurate also where the power is close to 1.
pub fn bias_correction(momentum: f64, steps: u64) -> f64 {
    -(steps as f64 * momentum.ln()).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn the_first_average_is_the_weights_themselves() {
        let store = VarStore::new(Device::Cpu);
        let _ = store.root().ones("w", &[4]);
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        let mut ema = Ema::new(&arena, 0.9999);
        for steps in 0..3 {
            assert_eq!(ema.steps, steps);
            let mean =
                f64::try_from(ema.corrected(&arena).narrow(0, 0, 4).mean(Kind::Float)).unwrap();
            assert!((mean - 1.0).abs() < 1e-4, "{mean}");
            ema.update(&arena);
        }
        assert!((bias_correction(0.9, 2) - 0.19).abs() < 1e-15);
        assert_eq!(bias_correction(0.0, 3), 1.0);
    }
}

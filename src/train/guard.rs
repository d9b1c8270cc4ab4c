//! Telling sound steps from bad ones on the device, so that no step waits for the host.

use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::Usual;
use crate::optim::Arena;

/// Sound steps before a large number counts as an explosion: the first ones have no usual size.
const WARM_UP_STEPS: u64 = 100;

/// Steps that the running means look back on, about.
const MEMORY_STEPS: u64 = 100;

/// Keeps weights, moments and average out of reach of a bad step.
///
/// A step is bad if its loss or gradient norm is not finite, or, after the first hundred steps, more than
/// `factor` times the running geometric mean. From then on the arena is frozen, so that neither this step nor those
/// that are queued behind it change anything, until the host has read the numbers and calls
/// [`release`](Guard::release): the state is then the one before the bad step, bit for bit.
#[derive(Debug)]
pub struct Guard {
    /// Logarithm of the factor; none: explosions are let through.
    ln_factor: Option<f64>,
    /// `[2]` f32: running means of ln loss and ln gradient norm over sound steps.
    usual: Tensor,
    /// Sound steps in the means.
    seen: u64,
}

impl Guard {
    /// `factor` as in the settings: 0 for none.
    pub fn new(factor: f64, device: Device) -> Guard {
        Guard {
            ln_factor: (factor > 0.0).then(|| factor.ln()),
            usual: Tensor::zeros([2], (Kind::Float, device)),
            seen: 0,
        }
    }

    /// Halts the arena if the numbers of a step are bad; takes them into the means if not.
    ///
    /// # Shapes
    /// - `loss_and_grad_norm`: `[2]` f32
    pub fn judge(&mut self, arena: &Arena, loss_and_grad_norm: &Tensor) {
        no_grad(|| {
            // A loss of exactly zero has no logarithm.
            let ln = loss_and_grad_norm.clamp_min(1e-30).log();
            let mut bad = loss_and_grad_norm.isfinite().all().logical_not();
            if let Some(limit) = self.ln_factor.filter(|_| self.seen >= WARM_UP_STEPS) {
                let excess = (&ln - &self.usual).max();
                bad = bad.logical_or(&excess.gt(limit));
            }
            let mut frozen = arena.frozen.shallow_clone();
            frozen.copy_(&frozen.logical_or(&bad).to_kind(Kind::Float));
            let weight = 1.0 / (self.seen + 1).min(MEMORY_STEPS) as f64;
            let next = self.usual.lerp(&ln, weight);
            self.usual = self.usual.where_self(&frozen.to_kind(Kind::Bool), &next);
        });
        self.seen += 1;
    }

    /// Lets the arena change again, after `frozen` steps that were judged and changed nothing.
    pub fn release(&mut self, arena: &Arena, frozen: u64) {
        let _ = arena.frozen.shallow_clone().zero_();
        self.seen -= frozen;
    }

    /// The running means, to save; none before the first step. Waits for the device.
    pub fn usual(&self) -> Option<Usual> {
        (self.seen > 0).then(|| Usual {
            ln: [0, 1].map(|i| self.usual.double_value(&[i]) as f32),
            steps: self.seen,
        })
    }

    /// Goes on with saved running means; without, as at the first step.
    pub fn restore(&mut self, usual: Option<Usual>) {
        let Usual { ln, steps } = usual.unwrap_or_default();
        self.usual = Tensor::from_slice(&ln).to_device(self.usual.device());
        self.seen = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;

    /// Which of these (loss, gradient norm) are judged bad, each released at once.
    fn bad(factor: f64, numbers: &[[f32; 2]]) -> Vec<usize> {
        let store = VarStore::new(Device::Cpu);
        let _ = store.root().ones("w", &[1]);
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        let mut guard = Guard::new(factor, Device::Cpu);
        let mut found = vec![];
        for (i, pair) in numbers.iter().enumerate() {
            guard.judge(&arena, &Tensor::from_slice(pair));
            if arena.frozen.double_value(&[]) == 1.0 {
                found.push(i);
                guard.release(&arena, 1);
            }
        }
        found
    }

    #[test]
    fn what_is_not_finite_is_bad_from_the_first_step() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let numbers = [
            [nan, 1.0],
            [1.0, 1.0],
            [1.0, inf],
            [inf, 1.0],
            [1.0, nan],
            [2.0, 1.0],
        ];
        assert_eq!(bad(1000.0, &numbers), [0, 2, 3, 4]);
        assert_eq!(bad(0.0, &numbers), [0, 2, 3, 4]);
    }

    #[test]
    fn an_explosion_is_measured_by_what_is_usual() {
        let mut numbers = vec![[50.0, 1e6]];
        numbers.extend([[50.0, 2.0]; 150]);
        // The first is no explosion: nothing is usual yet.
        numbers.extend([
            [50.0, 1000.0],
            [50.0, 5000.0],
            [30_000.0, 2.0],
            [60_000.0, 2.0],
            [0.0, 0.0],
        ]);
        assert_eq!(bad(1000.0, &numbers), [152, 154]);
        assert_eq!(bad(0.0, &numbers), [0usize; 0]);
    }

    #[test]
    fn bad_steps_leave_the_means_alone_and_saved_means_go_on() {
        let store = VarStore::new(Device::Cpu);
        let _ = store.root().ones("w", &[1]);
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        let mut guard = Guard::new(1000.0, Device::Cpu);
        guard.judge(&arena, &Tensor::from_slice(&[8f32, 2.0]));
        let usual = guard.usual().unwrap();
        assert_eq!((usual.ln, usual.steps), ([8f32.ln(), 2f32.ln()], 1));
        guard.judge(&arena, &Tensor::from_slice(&[f32::NAN, 2.0]));
        // Queued behind the bad one: frozen still.
        guard.judge(&arena, &Tensor::from_slice(&[9f32, 3.0]));
        assert_eq!(arena.frozen.double_value(&[]), 1.0);
        guard.release(&arena, 2);
        assert_eq!(guard.usual(), Some(usual));
        let mut other = Guard::new(1000.0, Device::Cpu);
        assert_eq!(other.usual(), None);
        other.restore(Some(usual));
        assert_eq!(other.usual(), Some(usual));
        // A run from before there were means: nothing is usual yet, however large.
        other.restore(None);
        other.judge(&arena, &Tensor::from_slice(&[1e9f32, 1e9]));
        assert_eq!(arena.frozen.double_value(&[]), 0.0);
    }
}

//! Detects bad steps on the device, so that no step waits for the host.

use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::RunningStats;
use crate::optim::Arena;

/// Good steps before a large number counts as an explosion: there are no running means to compare the first with.
const WARM_UP_STEPS: u64 = 100;

/// Steps that the running means cover, about.
const MEMORY_STEPS: u64 = 100;

/// Keeps weights, moments and average out of reach of a bad step.
///
/// A step is bad if its loss or gradient norm is not finite, or, after the first hundred steps, more than
/// `factor` times the running geometric mean. From then on the arena is frozen, so that neither this step nor those
/// that are queued behind it change anything, until the host has read the numbers and calls
/// [`release`](Guard::release): the state is then the one before the bad step, bit for bit.
#[derive(Debug)]
pub struct Guard {
    /// Logarithm of the factor; `None` lets explosions through.
    ln_factor: Option<f64>,
    /// `[2]` f32: running means of ln loss and ln gradient norm over good steps.
    running_stats: Tensor,
    /// Good steps in the means.
    seen: u64,
}

impl Guard {
    /// `factor` is `explosion_factor` of the settings; 0 lets explosions through.
    pub fn new(factor: f64, device: Device) -> Guard {
        Guard {
            ln_factor: (factor > 0.0).then(|| factor.ln()),
            running_stats: Tensor::zeros([2], (Kind::Float, device)),
            seen: 0,
        }
    }

    /// Freezes the arena if the numbers of a step are bad, else adds them to the means.
    ///
    /// # Shapes
    /// - `loss_and_grad_norm`: `[2]` f32
    pub fn check(&mut self, arena: &Arena, loss_and_grad_norm: &Tensor) {
        no_grad(|| {
            // A loss of exactly zero has no logarithm.
            let ln = loss_and_grad_norm.clamp_min(1e-30).log();
            let mut bad = loss_and_grad_norm.isfinite().all().logical_not();
            if let Some(limit) = self.ln_factor.filter(|_| self.seen >= WARM_UP_STEPS) {
                let excess = (&ln - &self.running_stats).max();
                bad = bad.logical_or(&excess.gt(limit));
            }
            let mut frozen = arena.frozen.shallow_clone();
            frozen.copy_(&frozen.logical_or(&bad).to_kind(Kind::Float));
            let weight = 1.0 / (self.seen + 1).min(MEMORY_STEPS) as f64;
            let next = self.running_stats.lerp(&ln, weight);
            self.running_stats = self
                .running_stats
                .where_self(&frozen.to_kind(Kind::Bool), &next);
        });
        self.seen += 1;
    }

    /// Lets the arena change again, after `frozen` steps that were checked and changed nothing.
    pub fn release(&mut self, arena: &Arena, frozen: u64) {
        let _ = arena.frozen.shallow_clone().zero_();
        self.seen -= frozen;
    }

    /// The running means, to be saved; `None` before the first step. Waits for the device.
    pub fn running_stats(&self) -> Option<RunningStats> {
        (self.seen > 0).then(|| RunningStats {
            ln: [0, 1].map(|i| self.running_stats.double_value(&[i]) as f32),
            steps: self.seen,
        })
    }

    /// Continues from saved running means, or starts afresh without any.
    pub fn restore(&mut self, stats: Option<RunningStats>) {
        let RunningStats { ln, steps } = stats.unwrap_or_default();
        self.running_stats = Tensor::from_slice(&ln).to_device(self.running_stats.device());
        self.seen = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;

    /// Positions of the bad ones among these (loss, gradient norm), each released at once.
    fn bad(factor: f64, numbers: &[[f32; 2]]) -> Vec<usize> {
        let store = VarStore::new(Device::Cpu);
        let _ = store.root().ones("w", &[1]);
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        let mut guard = Guard::new(factor, Device::Cpu);
        let mut found = vec![];
        for (i, pair) in numbers.iter().enumerate() {
            guard.check(&arena, &Tensor::from_slice(pair));
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
    fn an_explosion_is_relative_to_the_running_means() {
        let mut numbers = vec![[50.0, 1e6]];
        numbers.extend([[50.0, 2.0]; 150]);
        // The first is not an explosion: there are no means yet.
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
        guard.check(&arena, &Tensor::from_slice(&[8f32, 2.0]));
        let stats = guard.running_stats().unwrap();
        assert_eq!((stats.ln, stats.steps), ([8f32.ln(), 2f32.ln()], 1));
        guard.check(&arena, &Tensor::from_slice(&[f32::NAN, 2.0]));
        // Queued behind the bad one: frozen still.
        guard.check(&arena, &Tensor::from_slice(&[9f32, 3.0]));
        assert_eq!(arena.frozen.double_value(&[]), 1.0);
        guard.release(&arena, 2);
        assert_eq!(guard.running_stats(), Some(stats));
        let mut other = Guard::new(1000.0, Device::Cpu);
        assert_eq!(other.running_stats(), None);
        other.restore(Some(stats));
        assert_eq!(other.running_stats(), Some(stats));
        // A run from before there were means: nothing is too large yet.
        other.restore(None);
        other.check(&arena, &Tensor::from_slice(&[1e9f32, 1e9]));
        assert_eq!(arena.frozen.double_value(&[]), 0.0);
    }
}

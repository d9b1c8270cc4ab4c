//! Time of each phase of a training step.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tch::Device;

use crate::device::synchronize;

/// A part of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Selection, gathering and scaling of images.
    Images,
    /// Drawing and adding of noise; zeroing of gradients.
    Noise,
    /// The network and the loss.
    Forward,
    /// Gradients.
    Backward,
    /// Waiting for the gradients of other ranks: what backward did not hide.
    Ranks,
    /// Norm of the gradients, clipping, the guard, the optimizer.
    Optimizer,
    /// The EMA of the weights.
    Average,
}

impl Phase {
    /// All phases, in the order of a step.
    pub const ALL: [Phase; 7] = [
        Phase::Images,
        Phase::Noise,
        Phase::Forward,
        Phase::Backward,
        Phase::Ranks,
        Phase::Optimizer,
        Phase::Average,
    ];

    /// Name in outputs.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Images => "images",
            Phase::Noise => "noise",
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Ranks => "other ranks",
            Phase::Optimizer => "optimizer",
            Phase::Average => "average",
        }
    }
}

/// Adds up the time of each phase while it is running; does nothing otherwise.
///
/// A running clock waits for the device at the end of each phase, which slows steps on CUDA.
#[derive(Debug)]
pub struct Clock {
    device: Device,
    /// Start of the present phase; `None` if the clock is not running.
    since: Cell<Option<Instant>>,
    spent: Cell<[Duration; Phase::ALL.len()]>,
}

impl Clock {
    pub(super) fn new(device: Device) -> Clock {
        Clock {
            device,
            since: Cell::new(None),
            spent: Cell::default(),
        }
    }

    /// Starts the clock, and the first phase.
    pub fn start(&self) {
        synchronize(self.device);
        self.since.set(Some(Instant::now()));
    }

    /// Ends a phase and starts the next.
    pub(super) fn end_of(&self, phase: Phase) {
        if let Some(since) = self.since.get() {
            synchronize(self.device);
            let now = Instant::now();
            let mut spent = self.spent.get();
            spent[phase as usize] += now - since;
            self.spent.set(spent);
            self.since.set(Some(now));
        }
    }

    /// Stops the clock; returns the time of each phase since the last stop, in the order of [`Phase::ALL`].
    pub fn stop(&self) -> [Duration; Phase::ALL.len()] {
        self.since.set(None);
        self.spent.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_while_the_clock_runs() {
        let clock = Clock::new(Device::Cpu);
        clock.end_of(Phase::Forward);
        assert_eq!(clock.stop(), [Duration::ZERO; 7]);
        let whole = Instant::now();
        clock.start();
        for phase in [Phase::Forward, Phase::Average, Phase::Forward] {
            std::thread::sleep(Duration::from_millis(2));
            clock.end_of(phase);
        }
        let spent = clock.stop();
        let whole = whole.elapsed();
        assert!(spent[Phase::Forward as usize] >= Duration::from_millis(4));
        assert!(spent[Phase::Average as usize] >= Duration::from_millis(2));
        assert_eq!(spent[Phase::Images as usize], Duration::ZERO);
        assert!(spent.iter().sum::<Duration>() <= whole);
    }
}

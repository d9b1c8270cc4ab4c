//! Requests to stop or to save: signals and a time limit.
//!
//! SIGINT and SIGTERM: the first asks the loop to save and stop, the second ends at once. SIGUSR1: save and sample now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// The reason for a stop before the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// SIGINT or SIGTERM.
    Signal(i32),
    /// The time limit.
    TimeLimit,
    /// [`Stop::ask`].
    Asked,
}

impl Reason {
    /// Exit code of the process: 128 + the signal, or 124 as of timeout(1).
    pub fn exit_code(self) -> u8 {
        match self {
            Reason::Signal(signal) => 128 + signal as u8,
            Reason::TimeLimit => 124,
            Reason::Asked => 0,
        }
    }
}

/// The requests received so far. Clones share them, so a kept clone can stop a run that is being trained.
///
/// The default hears of nothing but [`Stop::ask`] and [`Stop::ask_save`].
#[derive(Debug, Clone, Default)]
pub struct Stop {
    received: Arc<AtomicUsize>,
    asked: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Stop {
    /// Installs handlers of the three signals for the rest of the process, and starts the clock.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn install(time_limit: Option<Duration>) -> Result<Stop> {
        let received = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Registered first, so that the first signal finds `asked` unset.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
            flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
        }
        let save = Arc::new(AtomicBool::new(false));
        flag::register(SIGUSR1, Arc::clone(&save))?;
        Ok(Stop {
            received,
            asked: Arc::default(),
            save,
            deadline: time_limit.and_then(|limit| Instant::now().checked_add(limit)),
        })
    }

    /// Asks the run to finish its step, save and stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Asks the run to save and sample now.
    pub fn ask_save(&self) {
        self.save.store(true, Ordering::Relaxed);
    }

    /// Why to stop, if there is a reason.
    pub fn reason(&self) -> Option<Reason> {
        match self.received.load(Ordering::Relaxed) {
            0 => {
                let late = self.deadline.is_some_and(|at| Instant::now() >= at);
                if self.asked.load(Ordering::Relaxed) {
                    Some(Reason::Asked)
                } else {
                    late.then_some(Reason::TimeLimit)
                }
            }
            signal => Some(Reason::Signal(signal as i32)),
        }
    }

    /// True after SIGUSR1: save and sample now.
    pub fn save_asked(&self) -> bool {
        self.save.load(Ordering::Relaxed)
    }

    /// Clears the request of SIGUSR1.
    pub fn clear_save_request(&self) {
        self.save.store(false, Ordering::Relaxed);
    }
}

//! The answer to Ctrl-C and to other signals that end a program: training finishes its step and saves, and everything
//! else ends at once, as it has nothing to lose.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::out::say;
use crate::train::{Reason, Stop, quit};

/// The requests of this process's signals.
static STOP: OnceLock<Stop> = OnceLock::new();

/// True from the first step of a training run on.
static TRAINING: AtomicBool = AtomicBool::new(false);

/// Listens from here on.
///
/// # Errors
/// The system refuses a handler or a thread.
pub(super) fn listen() -> Result<()> {
    let stop = Stop::default();
    stop.listen(answer)?;
    // Once per process.
    let _ = STOP.set(stop);
    Ok(())
}

/// The requests so far and to come.
pub(super) fn stop() -> Stop {
    STOP.get().cloned().unwrap_or_default()
}

/// From now on a step is finished and saved first.
pub(super) fn training_begins() {
    TRAINING.store(true, Ordering::Relaxed);
}

fn answer(reason: Reason) {
    if TRAINING.load(Ordering::Relaxed) {
        say(&format!(
            "{reason}: stopping after this step; press again to quit now"
        ));
        return;
    }
    say(&format!("{reason}: stopping now"));
    if let Reason::Signal(signal) = reason {
        quit(signal);
    }
}

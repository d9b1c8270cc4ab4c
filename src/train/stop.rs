//! SIGINT and SIGTERM: the first asks the loop to save and stop, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Signals received so far.
#[derive(Debug, Clone)]
pub struct Stop {
    received: Arc<AtomicUsize>,
}

impl Stop {
    /// Takes over both signals for the rest of the process.
    pub fn install() -> Result<Stop> {
        let received = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Registered first, so that the first signal finds `asked` unset.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
            flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
        }
        Ok(Stop { received })
    }

    /// The signal to stop for, if one came.
    pub fn signal(&self) -> Option<i32> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

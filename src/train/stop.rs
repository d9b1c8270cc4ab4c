//! Requests to stop or to save: signals and a time limit.
//!
//! Five signals ask the loop to finish its step, save and stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is
//! gone), SIGXCPU and SIGXFSZ (the limits of processor time and of file size). SIGUSR1: save and sample now.
//!
//! A second SIGINT or SIGTERM ends the process at once. The others never do, as nobody presses them twice: a closing
//! terminal sends SIGHUP more than once, SIGXCPU comes every second, and SIGXFSZ with every write. Where these three
//! are ignored when the process starts, as nohup ignores SIGHUP, they stay ignored.

use std::fs::read_to_string;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::fs::remove_own_temporaries;

/// Time in which signals count as one request, where one may come as several.
const REPEATS_WITHIN: Duration = Duration::from_secs(5);

/// The reason for a stop before the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// SIGINT, SIGTERM, SIGHUP, SIGXCPU or SIGXFSZ.
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

/// Numbers of the reasons that are no signal, when ranks tell each other.
const TIME_LIMIT: i64 = 1000;
const ASKED: i64 = 1001;

impl Reason {
    /// A reason as a number above 0, for other ranks; of two, the larger counts.
    pub(super) fn to_number(self) -> i64 {
        match self {
            Reason::Signal(signal) => i64::from(signal),
            Reason::TimeLimit => TIME_LIMIT,
            Reason::Asked => ASKED,
        }
    }

    /// The reason of a number; `None` for 0.
    pub(super) fn of_number(number: i64) -> Option<Reason> {
        match number {
            0 => None,
            TIME_LIMIT => Some(Reason::TimeLimit),
            ASKED => Some(Reason::Asked),
            signal => Some(Reason::Signal(signal as i32)),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Signal(SIGINT) => write!(f, "Ctrl-C"),
            Reason::Signal(signal) => write!(f, "{}", signal_name(*signal).unwrap_or("a signal")),
            Reason::TimeLimit => write!(f, "the time limit"),
            Reason::Asked => write!(f, "request"),
        }
    }
}

/// The requests received so far. Clones share them, so a kept clone can stop a run that is being trained.
///
/// The default hears of nothing but [`Stop::ask`] and [`Stop::ask_save`].
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<Asked>,
    deadline: Option<Instant>,
}

#[derive(Debug, Default)]
struct Asked {
    /// 0, or the signal.
    signal: AtomicUsize,
    stop: AtomicBool,
    save: AtomicBool,
    /// True if one request may come as several signals.
    repeats: AtomicBool,
}

impl Stop {
    /// Listens to the signals for the rest of the process, and starts the clock.
    ///
    /// # Errors
    /// As [`listen`](Stop::listen).
    pub fn install(time_limit: Option<Duration>) -> Result<Stop> {
        let stop = Stop::default();
        stop.listen(|_| ())?;
        Ok(stop.with_time_limit(time_limit))
    }

    /// The same requests, and one to stop after `limit`, from now on.
    pub fn with_time_limit(mut self, limit: Option<Duration>) -> Stop {
        self.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        self
    }

    /// Takes a second SIGINT or SIGTERM soon after the first for the same request: torchrun hands on to its ranks what a
    /// terminal or a job scheduler has sent to all of them already.
    pub fn expect_repeats(&self) {
        self.asked.repeats.store(true, Ordering::Relaxed);
    }

    /// Takes the six signals over for the rest of the process. `answer` is called with the first one that asks to stop,
    /// at once and in a thread of its own, whatever the process is busy with.
    ///
    /// # Errors
    /// The system refuses a handler or a thread.
    pub fn listen(&self, answer: impl Fn(Reason) + Send + 'static) -> Result<()> {
        // While the thread below is answering, and perhaps waits for a terminal, the handler itself ends the process. This is
        // registered first: after the signal has reached the thread, it would take that answer for an earlier one's.
        let answering = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&answering))?;
        }
        let limits = [SIGHUP, SIGXCPU, SIGXFSZ];
        let heeded = limits.into_iter().filter(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(heeded.chain([SIGINT, SIGTERM, SIGUSR1]))
            .context("cannot listen to signals")?;
        let asked = Arc::clone(&self.asked);
        let hear = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                if signal == SIGUSR1 {
                    asked.save.store(true, Ordering::Relaxed);
                    continue;
                }
                let before = asked.signal.load(Ordering::Relaxed) as i32;
                let pressed = matches!(signal, SIGINT | SIGTERM);
                let repeats = asked.repeats.load(Ordering::Relaxed);
                let soon = first.get_or_insert_with(Instant::now).elapsed() < REPEATS_WITHIN;
                if before != 0 && repeats && soon {
                    continue;
                }
                if pressed && matches!(before, SIGINT | SIGTERM | SIGHUP) {
                    quit(signal);
                }
                if before == 0 || (pressed && before != signal) {
                    asked.signal.store(signal as usize, Ordering::Relaxed);
                    answering.store(!repeats, Ordering::Relaxed);
                    answer(Reason::Signal(signal));
                    answering.store(false, Ordering::Relaxed);
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(hear).context("cannot listen to signals")?;
        Ok(())
    }

    /// Asks the run to finish its step, save and stop.
    pub fn ask(&self) {
        self.asked.stop.store(true, Ordering::Relaxed);
    }

    /// Asks the run to save and sample now.
    pub fn ask_save(&self) {
        self.asked.save.store(true, Ordering::Relaxed);
    }

    /// Why to stop, if there is a reason.
    pub fn reason(&self) -> Option<Reason> {
        self.reason_after(Duration::ZERO)
    }

    /// As [`reason`](Stop::reason), once the device has done what is `queued` on it: a CUDA device is behind the host, and
    /// the time limit is over when its steps are done, not when they are given to it.
    pub fn reason_after(&self, queued: Duration) -> Option<Reason> {
        match self.asked.signal.load(Ordering::Relaxed) {
            0 => {
                let left = |at: Instant| at.saturating_duration_since(Instant::now());
                let late = self.deadline.is_some_and(|at| left(at) <= queued);
                if self.asked.stop.load(Ordering::Relaxed) {
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
        self.asked.save.load(Ordering::Relaxed)
    }

    /// Clears the request of SIGUSR1.
    pub fn clear_save_request(&self) {
        self.asked.save.store(false, Ordering::Relaxed);
    }
}

/// Ends the process now, with exit code 128 + `signal`. Files that are being written are removed; what they were to
/// replace stays as it was.
pub fn quit(signal: i32) -> ! {
    remove_own_temporaries();
    signal_hook::low_level::exit(128 + signal)
}

/// True if this process ignores `signal`; a handler of our own counts as heeding it.
fn is_ignored(signal: i32) -> bool {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_shared_and_a_signal_names_itself() {
        let stop = Stop::default();
        let kept = stop.clone();
        assert_eq!(stop.reason(), None);
        kept.ask();
        assert_eq!(stop.reason(), Some(Reason::Asked));
        let late = Stop::default().with_time_limit(Some(Duration::ZERO));
        assert_eq!(late.reason(), Some(Reason::TimeLimit));
        let hour = Duration::from_secs(3600);
        let later = Stop::default().with_time_limit(Some(hour));
        assert_eq!(later.reason(), None);
        assert_eq!(later.reason_after(hour), Some(Reason::TimeLimit));
        assert_eq!(Stop::default().reason_after(hour), None);
        let codes = [SIGINT, SIGTERM, SIGHUP, SIGXCPU, SIGXFSZ].map(|signal| {
            let reason = Reason::Signal(signal);
            (reason.to_string(), reason.exit_code())
        });
        let want = [
            ("Ctrl-C", 130),
            ("SIGTERM", 143),
            ("SIGHUP", 129),
            ("SIGXCPU", 152),
            ("SIGXFSZ", 153),
        ];
        assert_eq!(codes, want.map(|(name, code)| (name.to_owned(), code)));
    }
}

//! Signs of life. Each rank counts up a key of its own, and watches that of the next rank; whoever misses a sign for too
//! long says so in the store, where all ranks look. So each sees a few keys, however many ranks there are. Ranks of one host
//! see each other's processes too, and miss one at once: a collective of Gloo does not always notice.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::RankLost;
use crate::native::KeyStore;

/// Time between two signs.
const EVERY: Duration = Duration::from_millis(500);

/// Value of the key of a rank that has nothing more to do.
pub(super) const LEFT: &[u8] = b"left";

/// Key that says which rank was lost or failed, and why, in a line of text.
pub(super) const FAILED: &str = "failed";

/// The key of a rank.
pub(super) fn key_of(rank: u32) -> String {
    format!("beat/{rank}")
}

type OnLoss = Box<dyn FnOnce() + Send>;

/// The thread that gives this rank's signs and watches for the others.
#[derive(Debug)]
pub(super) struct Heart {
    state: Arc<Mutex<State>>,
    limit: Duration,
    server: String,
}

struct State {
    lost: Option<String>,
    /// What to do when a rank is lost.
    on_loss: Option<OnLoss>,
    /// The last time that the store answered.
    last: Instant,
    leaving: bool,
}

impl State {
    fn lose(&mut self, lost: String) {
        self.lost = Some(lost);
        if let Some(work) = self.on_loss.take() {
            work();
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("lost", &self.lost).finish()
    }
}

/// Whom a heart beats for, and whom it watches.
pub(super) struct Watch {
    pub(super) own: u32,
    pub(super) next: u32,
    /// What to call the next rank.
    pub(super) next_name: String,
    /// Other ranks on this host, whose processes this one can see: number, process, and what to call them.
    pub(super) here: Vec<(u32, u32, String)>,
    /// Longest time without a sign.
    pub(super) limit: Duration,
    /// What to call the store.
    pub(super) server: String,
}

impl Heart {
    /// Begins to beat, on `keys`, a connection that nobody else uses.
    pub(super) fn start(keys: KeyStore, watch: Watch) -> Result<Heart> {
        let state = Arc::new(Mutex::new(State {
            lost: None,
            on_loss: None,
            last: Instant::now(),
            leaving: false,
        }));
        let heart = Heart {
            state: Arc::clone(&state),
            limit: watch.limit,
            server: watch.server.clone(),
        };
        let thread = thread::Builder::new().name("signs of life".to_owned());
        thread
            .spawn(move || beat(&keys, &watch, &state))
            .context("cannot start the thread that gives signs of life")?;
        Ok(heart)
    }

    /// Does `work` when a rank is lost, beside whatever this process waits for.
    pub(super) fn on_loss(&self, work: impl FnOnce() + Send + 'static) {
        lock(&self.state).on_loss = Some(Box::new(work));
    }

    /// # Errors
    /// [`RankLost`]: a rank is gone or has failed, or the store does not answer.
    pub(super) fn check(&self) -> Result<()> {
        let state = lock(&self.state);
        if let Some(lost) = &state.lost {
            return Err(RankLost(lost.clone()).into());
        }
        let silent = state.last.elapsed();
        if !state.leaving && silent > self.limit + EVERY {
            let silent = silent.as_secs();
            return Err(
                RankLost(format!("{} is gone: no answer for {silent} s", self.server)).into(),
            );
        }
        Ok(())
    }

    /// Says that this rank goes, and nobody need miss it; returns when it is said, or after a second.
    pub(super) fn leave(&self) {
        lock(&self.state).leaving = true;
        let until = Instant::now() + 2 * EVERY;
        while Instant::now() < until && Arc::strong_count(&self.state) > 1 {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beat(keys: &KeyStore, watch: &Watch, state: &Mutex<State>) {
    let mut seen: Option<(Vec<u8>, Instant)> = None;
    for count in 0_u64.. {
        let leaving = lock(state).leaving;
        let sign = match leaving {
            true => LEFT.to_vec(),
            false => count.to_string().into_bytes(),
        };
        match round(keys, watch, &sign, &mut seen) {
            Ok(lost) => {
                let mut state = lock(state);
                state.last = Instant::now();
                if let Some(lost) = lost {
                    // This rank knows, and whoever serves the store may go.
                    state.lose(lost);
                    drop(state);
                    let _ = keys.set(&key_of(watch.own), LEFT);
                    return;
                }
            }
            Err(error) => {
                lock(state).lose(format!("{} is gone: {error:#}", watch.server));
                return;
            }
        }
        if leaving {
            return;
        }
        let until = Instant::now() + EVERY;
        while Instant::now() < until && !lock(state).leaving {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// True for a process of this host that is gone, or that only its parent has not asked for yet.
fn has_ended(process: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
        return true;
    };
    // The state follows the name, which stands in brackets and may hold any.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('Z' | 'X'))
}

/// One sign, and a look at the next rank's; returns what is wrong.
fn round(
    keys: &KeyStore,
    watch: &Watch,
    sign: &[u8],
    seen: &mut Option<(Vec<u8>, Instant)>,
) -> Result<Option<String>> {
    keys.set(&key_of(watch.own), sign)?;
    if let Some(failed) = keys.get(FAILED)? {
        return Ok(Some(String::from_utf8_lossy(&failed).into_owned()));
    }
    for (rank, process, name) in &watch.here {
        // A rank says that it leaves before it ends.
        if has_ended(*process) && keys.get(&key_of(*rank))?.as_deref() != Some(LEFT) {
            let lost = format!("{name} is gone: its process has ended");
            keys.set(FAILED, lost.as_bytes())?;
            return Ok(Some(lost));
        }
    }
    let Some(now) = keys.get(&key_of(watch.next))? else {
        return Ok(None);
    };
    match seen {
        Some((before, since)) if *before == now && now != LEFT => {
            let silent = since.elapsed();
            if silent > watch.limit {
                let lost = format!(
                    "{} is gone: no sign of life for {} s",
                    watch.next_name,
                    silent.as_secs()
                );
                keys.set(FAILED, lost.as_bytes())?;
                return Ok(Some(lost));
            }
        }
        _ => *seen = Some((now, Instant::now())),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_it_is_killed_though_nobody_asks() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(!has_ended(child.id()) && !has_ended(std::process::id()));
        child.kill().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !has_ended(child.id()) {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(has_ended(child.id()));
    }
}

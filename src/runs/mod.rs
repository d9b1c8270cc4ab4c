//! Runs seen from outside: their state, and what may be pruned.
//!
//! - `standing`: how a run stands, read from its files in a moment and without a trace, while it is trained too
//! - `find`: the runs below a folder; `size`: what a folder takes on the disk

mod find;
mod size;
mod standing;

pub use find::{Found, runs_below};
pub use size::disk_bytes;
pub use standing::{Best, SMOOTHED_STEPS, Standing, State};

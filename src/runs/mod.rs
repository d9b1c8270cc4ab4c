//! Runs seen from outside: their state, what may be pruned, and their reports.
//!
//! - `standing`: how a run stands, read from its files in a moment and without a trace, while it is trained too
//! - `page`: the report of runs, an HTML file; `curves`: their metrics in few points
//! - `prune`: what of a run is not needed, and its removal
//! - `find`: the runs below a folder; `size`: what a folder takes on the disk

mod curves;
mod find;
mod page;
mod prune;
mod size;
mod standing;

pub use curves::{Columns, Curves, PartOfRun};
pub use find::{Found, runs_below};
pub use page::{Over, Reported, report};
pub use prune::{Pruning, Reason, Unneeded};
pub use size::disk_bytes;
pub use standing::{Best, SMOOTHED_STEPS, Standing, State};

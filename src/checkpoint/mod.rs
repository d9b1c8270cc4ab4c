//! This program's own files: what a run saves and resumes from.
//!
//! - `file`: a training checkpoint or plain weights, with the config they belong to; `checksum` seals it
//! - `origin`: the program that weights came from, if it was another
//! - `run_folder`: the files of a run; `newest`: its checkpoints; `resumable`: what it takes to go on; `lock`: one
//!   process at a time; `owned`: what no output may overwrite; `pins`: what keeps a checkpoint from being removed; `best`: the
//!   best step by `evaluations`;
//!   `runs`: runs by name and age
//! - `fingerprint`: the identity of a network; `calibration`: a measurement of one
//!
//! Every file is untrusted.

mod best;
mod calibration;
mod checksum;
mod evaluations;
mod file;
mod fingerprint;
mod lock;
mod newest;
mod origin;
mod owned;
mod pins;
mod resumable;
mod run_folder;
mod runs;

pub use best::BEST;
pub use calibration::Calibration;
pub use evaluations::Evaluations;
pub use file::{
    Checkpoint, Contents, History, Meta, RunningStats, Weights, is_ours, read_checkpoint,
    read_meta, write_checkpoint,
};
pub use fingerprint::fingerprint;
pub use lock::RunLock;
pub use newest::{Damaged, by_step, find, newest_readable, resolve, step_of};
pub use origin::{AttentionOrder, Family, Origin};
pub use owned::{holds_training_state, is_own, run_that_owns};
pub use pins::{Pin, every_checkpoint, in_a_run, is_pinned, pinned_for};
pub use resumable::{Resumable, unsaved_steps};
pub use run_folder::RunFolder;
pub use runs::{RUNS, changed, nearest_run, newest_run, seems_a_run};

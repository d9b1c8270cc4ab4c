//! This program's own files: what a run saves and resumes from.
//!
//! - `file`: a training checkpoint or plain weights, with the config they belong to; `checksum` seals it
//! - `origin`: the program that weights came from, if it was another
//! - `run_folder`: the files of a run; `lock`: one process at a time; `owned`: what no output may overwrite;
//!   `pins`: what keeps a checkpoint from being removed
//! - `fingerprint`: the identity of a network; `calibration`: a measurement of one
//!
//! Every file is untrusted.

mod calibration;
mod checksum;
mod file;
mod fingerprint;
mod lock;
mod origin;
mod owned;
mod pins;
mod run_folder;

pub use calibration::Calibration;
pub use file::{
    Checkpoint, Contents, History, Meta, RunningStats, Weights, is_ours, read_checkpoint,
    write_checkpoint,
};
pub use fingerprint::fingerprint;
pub use lock::RunLock;
pub use origin::{AttentionOrder, Family, Origin};
pub use owned::{holds_training_state, run_that_owns};
pub use pins::{Pin, every_checkpoint, in_a_run, pinned_for};
pub use run_folder::{Damaged, Resumable, RunFolder, find, resolve};

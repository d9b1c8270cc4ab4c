//! This program's own files: what a run saves and resumes from.
//!
//! - `file`: a training checkpoint or plain weights, with the config they belong to; `checksum` seals it
//! - `origin`: the program that weights came from, if it was another
//! - `run_folder`: the files of a run; `lock`: one process at a time
//! - `fingerprint`: the identity of a network; `calibration`: a measurement of one
//!
//! Every file is untrusted.

mod calibration;
mod checksum;
mod file;
mod fingerprint;
mod lock;
mod origin;
mod run_folder;

pub use calibration::Calibration;
pub use file::{
    Checkpoint, Contents, History, Meta, RunningStats, Weights, is_ours, read_checkpoint,
    write_checkpoint,
};
pub use fingerprint::fingerprint;
pub use lock::RunLock;
pub use origin::{AttentionOrder, Family, Origin};
pub use run_folder::{Damaged, Resumable, RunFolder, find, resolve};

//! Files with weights: what a run saves, what PyTorch reads and writes.
//!
//! - `safetensors`: the container of everything this program writes
//! - `file`: a training checkpoint or plain weights with the config they belong to
//! - `run_folder`: the files of a run; `lock`: one process at a time
//! - `fingerprint`: the identity of a network; `calibration`: what was measured of one
//! - `source`: any file of weights as one tree of keys; `hdf5`: Keras' container
//! - `import`: other programs' networks, in both directions
//! - `ddcm`: pictures as the indices of their noise
//! - `pt`, `pickle`, `pt_write`: PyTorch's own format, read by an interpreter that can run nothing
//!
//! Every file that is read is untrusted.

mod calibration;
mod checksum;
pub mod ddcm;
mod describe;
mod dtypes;
mod error;
mod file;
mod fingerprint;
mod hdf5;
pub mod host_tensor;
pub mod import;
mod lock;
pub mod pickle;
pub mod pt;
pub mod pt_write;
mod run_folder;
pub mod safetensors;
pub mod source;
mod torch_file;

pub use calibration::Calibration;
pub use describe::{Description, describe};
pub use error::CheckpointError;
pub use file::{
    Checkpoint, Contents, History, Meta, Usual, Which, is_ours, read_checkpoint, write_checkpoint,
};
pub use fingerprint::fingerprint;
pub use lock::RunLock;
pub use run_folder::{Damaged, Resumable, RunFolder, resolve};
pub use torch_file::{read_state_dict, write_state_dict};

#[cfg(test)]
mod tests_live_pt;

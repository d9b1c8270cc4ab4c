//! Byte layouts of files of weights and codes, without their meaning; all files are untrusted.
//!
//! - `safetensors`: the container of everything this program writes
//! - `pt`, `pickle`: PyTorch's own format, read by an interpreter that can run nothing; `pt::write` writes it
//! - `hdf5`: the container of Keras
//! - `weights_file`: any of these as one tree of keys; `state_dict`: plain `state_dict`s by file name
//! - `npz`: arrays of NumPy
//! - `ddcm`: images as the indices of their noise
//! - `finite`: values that are NaN or infinite
//! - `host_tensor`, `dtypes`: tensors in host memory, and the names of their types

pub mod ddcm;
pub(crate) mod dtypes;
mod error;
pub(crate) mod finite;
pub(crate) mod hdf5;
pub mod host_tensor;
pub mod npz;
pub mod pickle;
pub mod pt;
pub mod safetensors;
pub(crate) mod state_dict;
pub mod weights_file;

pub use error::CheckpointError;
pub use finite::NotFinite;
pub use state_dict::{read_state_dict, write_state_dict};

#[cfg(test)]
mod tests_live_pt;

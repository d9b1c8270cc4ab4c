//! Train and sample denoising diffusion models, on libtorch.
//!
//! # Reading order
//!
//! 1. [`config`]: every setting, and the presets
//! 2. [`model`]: the networks; [`diffusion`]: schedule, q_sample, loss
//! 3. [`optim`]: the flat parameter arena, LAMB/Adam, EMA
//! 4. [`train`]: the loop, top to bottom; [`sample`]: one sampler a file
//! 5. [`data`]: folder of images to one uint8 tensor; [`checkpoint`]: files
//!
//! Data flows one way: `main` → [`cli`] → {[`train`], [`sample`]} → {[`model`], [`diffusion`],
//! [`optim`], [`data`], [`checkpoint`], [`report`]} → {[`native`], [`images`], [`rng`], [`mod@fs`], [`device`], [`memory`]}.

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod formats;
pub mod fs;
pub mod images;
pub mod interop;
pub mod memory;
pub mod model;
pub mod native;
pub mod optim;
mod pretrained;
pub mod report;
pub mod rng;
pub mod sample;
mod text;
pub mod train;

// What public functions take and return; another version would be other types.
pub use {ndarray, tch};

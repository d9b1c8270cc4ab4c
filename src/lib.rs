//! Train denoising diffusion models and sample from them, on libtorch.
//!
//! # Sampling
//!
//! [`Pretrained`] is a network with its settings, from a run folder, a checkpoint, or a file of another program:
//!
//! ```no_run
//! use ddpm::Pretrained;
//! use ddpm::ndarray::Array4;
//! use ddpm::sample::SamplerKind;
//!
//! let pretrained = Pretrained::load("runs/NAME")?;
//! let images: Array4<u8> = pretrained // [N, H, W, C], 0 to 255
//!     .sampler(SamplerKind::DpmPp2m)
//!     .steps(20)
//!     .sample(16, 7)?; // 16 images of seed 7
//! # let _ = images;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Training
//!
//! A preset holds all settings; [`train::Start`] says the rest of how a run begins:
//!
//! ```no_run
//! use ddpm::checkpoint::RunFolder;
//! use ddpm::config::Preset;
//! use ddpm::train::{Start, train};
//!
//! let mut config = Preset::Demo.config();
//! config.data.folder = Some("photos".into());
//! config.train.steps = 10_000;
//! train(Start {
//!     folder: RunFolder::new("runs/photos".into()),
//!     ..Start::new(config)
//! })?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! It trains in silence and takes over no signals: [`train::Observer`] hears of the progress, and a [`train::Stop`] asks the
//! run to stop. `examples/` has whole programs, and `docs/library.md` what a crate needs to build and start with this one.
//!
//! # Rooms
//!
//! Imports go down this list only (`scripts/check_rooms.py` checks it):
//!
//! 1. [`cli`]: the commands of the program, and all that is printed
//! 2. [`serve`]: a local page to watch runs and to try networks
//! 3. [`pretrained`]: a network with its settings, from any file
//! 4. [`train`]: the loop, read top to bottom, and what is done between steps
//! 5. [`runs`]: runs seen from outside: their state, what may be pruned, their reports
//! 6. [`interop`]: other programs' checkpoints, in both directions
//! 7. [`checkpoint`]: this program's own files, run folders and locks
//! 8. [`evaluate`]: one measure of a network or of its images a file
//! 9. [`sample`]: one sampler a file, each a loop over x_t
//! 10. [`optim`]: the flat parameter arena, LAMB and Adam, EMA
//! 11. [`diffusion`]: schedule, q_sample, loss
//! 12. [`model`]: the networks
//! 13. [`data`]: from a folder of images to one uint8 tensor
//! 14. [`config`]: every setting, and the presets
//! 15. [`report`]: metrics.jsonl, grids and animations
//! 16. [`formats`]: byte layouts, all untrusted
//! 17. [`images`], [`rng`], [`device`], [`memory`], [`distributed`]: rooms that know nothing of each other
//! 18. [`native`]: the C++ shim and its safe face
//! 19. [`mod@fs`], `text`: leaves
//!
//! A newcomer reads [`config`], then [`model`] and [`diffusion`], then [`fn@train::train`]. The ideas that all of it leans on
//! are in `docs/design.md`.

// Printing can fail, and must not panic: `cli::out` is the one place that prints.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod distributed;
pub mod evaluate;
pub mod formats;
pub mod fs;
pub mod images;
pub mod interop;
pub mod memory;
pub mod model;
pub mod native;
pub mod optim;
pub mod pretrained;
pub mod report;
pub mod rng;
pub mod runs;
pub mod sample;
pub mod serve;
mod text;
pub mod train;

pub use pretrained::Pretrained;
// A dependent's tensors and arrays must be those of the same versions.
pub use {ndarray, tch};

//! Other programs' checkpoints: recognised by content, read without guessing, written back.
//!
//! - `foreign`: a file, understood; `view`, `views`: the `state_dict`s in it; `averages`, `dotless`: those of averages
//! - `keys`: the names and shapes in a file, all that recognising needs
//! - `registry`: the code bases that are known; a file or folder for each: its signature, what can be inferred, its layout
//! - `attention_unet`: what the code bases with Ho et al.'s U-Net share
//! - `settings`: what a file was found to describe
//! - `layout`: one table from their tensors to ours, used in both directions; `forms` does it to values; `export` writes
//! - `hints`, `null_class`, `published`, `upscale`: what a file does not say; `uses`: what of it a caller needs; `report`: what
//!   was found, assumed and lacks
//! - `inspect`: any file of weights, ours too, described

mod attention_unet;
mod averages;
mod diffusers;
mod dotless;
mod export;
#[cfg(test)]
mod fixtures;
mod foreign;
mod forms;
mod hints;
mod inspect;
mod keras;
mod keys;
mod layout;
mod lucidrains;
mod null_class;
mod openai;
mod pesser;
mod published;
mod registry;
mod report;
mod settings;
mod upscale;
mod uses;
mod view;
mod views;
mod w86763777;

pub use export::{in_layout, write_family_pt, write_family_safetensors, write_pipeline};
pub use foreign::{Foreign, Request};
pub use hints::{Hints, Known};
pub use inspect::{Description, describe};
pub use keys::Keys;
pub use layout::{Channels, Entry, Form, QkvOrder};
pub use published::KnownShape;
pub use report::{Fact, MissingHint, MissingHints, Report};
pub use settings::Settings;
pub use uses::Uses;

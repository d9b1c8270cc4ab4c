//! Other programs' checkpoints: recognised by content, read without guessing, written back.
//!
//! - `foreign`: a file, understood; `views`: the `state_dict`s in it
//! - `keys`: the names and shapes in a file, all that recognising needs
//! - `families/`: one file a code base: its signature, what can be inferred, and its layout
//! - `layout`: one table from their tensors to ours, used in both directions; `forms` does it to values; `write` writes
//! - `hints`, `known`: what a file does not say; `report`: what was found, assumed and lacks

mod families;
mod foreign;
mod forms;
mod hints;
mod keys;
pub mod known;
mod layout;
mod report;
mod views;
mod write;

pub use families::{Family, Origin, Settings};
pub use foreign::{Foreign, Request};
pub use hints::{AttentionOrder, Hints};
pub use keys::Keys;
pub use layout::{Channels, Entry, Form, QkvOrder};
pub use report::{Fact, MissingHint, Report};
pub use write::{in_layout, write_family_pt, write_family_safetensors, write_pipeline};

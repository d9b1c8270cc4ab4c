//! Images: found, decoded and resized once into one u8 tensor that training reads.
//!
//! Order: `spec` (the wanted form) → `listing` (which files) → `folder` (all of them, by `decode`, `jpeg` and `resize`:
//! one file to bytes) or `faces` (the built-in data set) → `manifest` (names and hashes) → `cache` (decoded tensor on
//! disk) → `store` (the tensor on its device, batches; `prefetch` gathers them from a mapped file). Some
//! may be set `apart`, to be `held_out`.
//!
//! A file that cannot be read, for whatever reason and at whatever moment, is left out and listed; it never ends a run.
//! What is `passed_over`, and `remarks` on what is not, are said at each start. Memory for decoding is bounded: see
//! `decode`.

mod apart;
mod budget;
mod cache;
mod decode;
mod error;
mod faces;
mod folder;
mod held_out;
mod jpeg;
mod listing;
mod load;
mod loaded;
mod manifest;
mod order;
mod passed_over;
mod prefetch;
mod remarks;
mod resize;
mod spec;
mod store;
mod stream;

pub use decode::{Decoded, Oddity, decode, upright_size};
pub use error::DataError;
pub use held_out::HeldOut;
pub use load::{file_bytes, load, load_until};
pub use loaded::Loaded;
pub use manifest::Manifest;
pub use order::Order;
pub use passed_over::PassedOver;
pub use remarks::{Remark, Remarks};
pub use resize::cv2_bilinear;
pub use spec::ImageSpec;
pub use store::Store;
pub use stream::{ImageFolder, Pass};

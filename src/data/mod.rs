//! Images: found, decoded and resized once into one u8 tensor that training reads.
//!
//! Order: `spec` (the wanted form) → `folder` (which files) → `decode`, `jpeg` and `resize` (one file to
//! bytes) or `faces` (the built-in data set) → `manifest` (names and hashes) → `cache` (decoded tensor
//! on disk) → `store` (the tensor on its device, batches; `prefetch` gathers them from a mapped file).
//!
//! A file that cannot be read, for whatever reason and at whatever moment, is left out and listed;
//! it never ends a run. Memory for decoding is bounded: see `decode`.

mod budget;
mod cache;
mod decode;
mod error;
mod faces;
mod folder;
mod jpeg;
mod load;
mod manifest;
mod order;
mod prefetch;
mod resize;
mod spec;
mod store;

pub use decode::{decode, upright_size};
pub use error::DataError;
pub use load::{Loaded, file_bytes, load};
pub use manifest::Manifest;
pub use order::Order;
pub use resize::cv2_bilinear;
pub use spec::ImageSpec;
pub use store::Store;

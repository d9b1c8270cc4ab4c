//! Images: found, decoded and resized once into one u8 tensor that training reads.
//!
//! Order: `spec` (the wanted form) → `sources` (folders, archives and files of bare pixels; `listing` finds the files of
//! a folder) → `entry` (an image in one of them; `archive` reads its bytes) → `folder` (all of them, by `decode`, `jpeg`
//! and `resize`: one image to bytes) or `faces` (the built-in data set) → `manifest` (names and hashes) → `cache`
//! (decoded tensor on disk) → `labels` (the class of each) → `store` (the tensor on its device, batches; `prefetch`
//! gathers them from a mapped file). Some may be set `apart`, to be `held_out`.
//!
//! A file that cannot be read, for whatever reason and at whatever moment, is left out and listed; it never ends a run.
//! What is `passed_over`, and `remarks` on what is not, are said at each start. Memory for decoding is bounded: see
//! `decode`.

mod apart;
mod archive;
mod budget;
mod cache;
mod decode;
mod entry;
mod error;
mod faces;
mod folder;
mod held_out;
mod jpeg;
mod labels;
mod listing;
mod load;
mod loaded;
mod manifest;
mod order;
mod original_sizes;
mod passed_over;
mod prefetch;
mod remarks;
mod resize;
mod sources;
mod spec;
mod store;
mod stream;

pub use decode::{Decoded, Oddity, decode, decode_bytes, upright_size};
pub use error::DataError;
pub use held_out::HeldOut;
pub use labels::Labels;
pub(crate) use listing::has_image_ending;
pub use load::{file_bytes, load, load_until};
pub use loaded::Loaded;
pub use manifest::Manifest;
pub use order::Order;
pub use original_sizes::original_sizes;
pub use passed_over::PassedOver;
pub use remarks::{Remark, Remarks};
pub use resize::cv2_bilinear;
pub use spec::ImageSpec;
pub use store::Store;
pub use stream::{ImageFolder, Pass};

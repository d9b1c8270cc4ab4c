//! Groups of flags, one file a group, that commands flatten into their own.

pub(super) mod batch;
pub(super) mod class;
pub(super) mod compute;
pub(super) mod ddcm;
pub(super) mod foreign;
pub(super) mod group;
pub(super) mod image_in;
pub(super) mod image_out;
pub(super) mod load;
pub(super) mod messages;
mod model;
pub(super) mod network;
pub(super) mod preset_table;
pub(super) mod run;
pub(super) mod sampler;
pub(super) mod settings;
pub(super) mod start;
pub(super) mod trajectory;
pub(super) mod upscaling;
pub(super) mod values;

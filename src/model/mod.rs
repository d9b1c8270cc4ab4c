//! The denoisers and their layers, on tch's `nn` paths, so that parameter names are the
//! `state_dict` keys of the PyTorch reference in `scripts/reference/`.

mod block;
mod cost;
mod layers;
mod params;
mod unet;

pub use cost::Cost;
pub use layers::group_norm;
pub use params::{Param, StateDictError, load_state_dict, params_of};
pub use unet::UNet;

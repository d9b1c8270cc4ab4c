//! The denoisers and their layers, on tch's `nn` paths, so that parameter names are `state_dict` keys:
//! those of the PyTorch reference in `scripts/reference/` (Keras-DDPM's three networks), of diffusers'
//! `UNet2DModel`, of lucidrains' U-Net.
//!
//! [`Model`] is one of them, chosen by the settings.

mod block;
mod cost;
mod gau;
mod layers;
mod lucidrains;
mod params;
mod unet;
mod unet_attention;
mod unet_concat;

use anyhow::Result;
use tch::{Device, Tensor};

pub use cost::Cost;
pub use gau::Gau;
pub use layers::group_norm;
pub use lucidrains::LucidrainsUNet;
pub use params::{Param, StateDictError, load_state_dict, params_of};
pub use unet::UNet;
pub use unet_attention::AttentionUNet;
pub use unet_concat::ConcatUNet;

use crate::config::ModelConfig;

/// A denoiser.
#[derive(Debug)]
pub enum Model {
    /// Keras-DDPM's simplified U-Net.
    Unet(UNet),
    /// The U-Net with attention.
    UnetAttention(AttentionUNet),
    /// lucidrains' U-Net.
    Lucidrains(LucidrainsUNet),
    /// Keras-DDPM's U-Net with concatenated skips.
    UnetConcat(ConcatUNet),
    /// Keras-DDPM's Gated Attention Units over patches.
    Gau(Gau),
}

impl Model {
    /// Builds the network on CPU with initial weights drawn from `seed`, for t in `0..timesteps`.
    pub fn new(config: &ModelConfig, timesteps: i64, seed: u64) -> Model {
        match config {
            ModelConfig::Unet(m) => Model::Unet(UNet::new(m, timesteps, seed)),
            ModelConfig::UnetAttention(m) => Model::UnetAttention(AttentionUNet::new(m, seed)),
            ModelConfig::Lucidrains(m) => Model::Lucidrains(LucidrainsUNet::new(m, seed)),
            ModelConfig::UnetConcat(m) => Model::UnetConcat(ConcatUNet::new(m, timesteps, seed)),
            ModelConfig::Gau(m) => Model::Gau(Gau::new(m, timesteps, seed)),
        }
    }

    /// The bare network's output for noised pictures.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64, for networks that are told a class and for no others
    /// - returns `[N, C, H, W]`, or `[N, 2C, H, W]` where the variance is learned
    ///
    /// # Panics
    /// With other shapes, or values outside their ranges.
    pub fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        match self {
            Model::Unet(net) => net.forward(x_t, t, train),
            Model::UnetAttention(net) => net.forward(x_t, t, classes, train),
            Model::Lucidrains(net) => net.forward(x_t, t, train),
            Model::UnetConcat(net) => net.forward(x_t, t, train),
            Model::Gau(net) => net.forward(x_t, t, train),
        }
    }

    /// Parameters in creation order.
    pub fn params(&self) -> Vec<Param> {
        match self {
            Model::Unet(net) => net.params(),
            Model::UnetAttention(net) => net.params(),
            Model::Lucidrains(net) => net.params(),
            Model::UnetConcat(net) => net.params(),
            Model::Gau(net) => net.params(),
        }
    }

    /// Moves all tensors to `device`.
    ///
    /// # Errors
    /// Out of memory there.
    pub fn move_to(&mut self, device: Device) -> Result<()> {
        match self {
            Model::Unet(net) => net.move_to(device),
            Model::UnetAttention(net) => net.move_to(device),
            Model::Lucidrains(net) => net.move_to(device),
            Model::UnetConcat(net) => net.move_to(device),
            Model::Gau(net) => net.move_to(device),
        }
    }

    /// Cost of one `height` × `width` picture.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        match self {
            Model::Unet(net) => net.cost(height, width),
            Model::UnetAttention(net) => net.cost(height, width),
            Model::Lucidrains(net) => net.cost(height, width),
            Model::UnetConcat(net) => net.cost(height, width),
            Model::Gau(net) => net.cost(height, width),
        }
    }
}

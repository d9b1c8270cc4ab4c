//! Keras-DDPM's network without convolutions: Gated Attention Units over the patches of an image.

mod cost;
mod positions;
#[cfg(test)]
mod tests;
mod unit;

use anyhow::Result;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use self::positions::Positions;
use self::unit::GatedAttentionUnit;
use super::classes::ClassTable;
use super::layers::{RmsNorm, TimeTable, linear, linear_weight};
use super::params::{Param, move_params, params_of};
use crate::config::{GauConfig, class_rows, input_channels};
use crate::rng::{Stream, key, seeded};

/// Predicts the noise in `x_t`, or another target it was trained for.
#[derive(Debug)]
pub struct Gau {
    patch_in: Tensor,
    time_embedding: TimeTable,
    layers: Vec<GatedAttentionUnit>,
    norm_out: RmsNorm,
    patch_out: Tensor,
    classes: Option<ClassTable>,
    patch: i64,
    key_width: i64,
    store: VarStore,
}

impl Gau {
    /// Builds the network on CPU with initial weights drawn from `seed`. The time embedding has `timesteps` rows.
    pub fn new(config: &GauConfig, timesteps: i64, seed: u64) -> Gau {
        seeded(key(seed, Stream::Init, 0), || Gau::draw(config, timesteps))
    }

    fn draw(config: &GauConfig, timesteps: i64) -> Gau {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let (width, values) = (config.base_width, config.patch_values());
        let inputs = input_channels(config.channels, config.condition_channels)
            * config.patch
            * config.patch;
        let layers = root / "layers";
        // Fields are initialised in the order written here, which is the original's; it has no classes.
        Gau {
            patch_in: linear_weight(&(root / "patch_in"), inputs, width),
            time_embedding: TimeTable::trainable(&(root / "time_embedding"), timesteps, width),
            layers: (0..config.layers)
                .map(|i| GatedAttentionUnit::new(&(&layers / i), config))
                .collect(),
            norm_out: RmsNorm::new(&(root / "norm_out"), width, config.norm_eps),
            patch_out: linear_weight(&(root / "patch_out"), width, values),
            classes: class_rows(config.classes, config.null_class)
                .map(|rows| ClassTable::new(root, rows, width).uniform()),
            patch: config.patch,
            key_width: config.key_width,
            store,
        }
    }

    /// The network's raw output: eps_hat, x_0_hat or v_hat, as it was trained.
    ///
    /// A patch's values are ordered channel, row, column, as in a convolution's weight; the original orders
    /// them row, column, channel.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32, and behind its channels those of the condition, if the network has one, H and W
    ///   multiples of the patch size; returns the same shape
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64 below the number of rows of the class embedding, for class-conditional networks
    ///
    /// # Panics
    /// With other shapes, or `t` outside `0..T`; unless `classes` is given exactly for class-conditional networks.
    ///
    /// Source: Keras-DDPM, `ddpm-gau.py`
    pub fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        // [N, values of a patch, rows, columns]
        let patches = x_t.pixel_unshuffle(self.patch);
        let (images, _, rows, columns) = patches.size4().expect("four dimensions");
        let positions = Positions::new(rows, columns, self.key_width, x_t.device());

        let tokens = patches.flatten(2, 3).transpose(1, 2);
        let t_emb = self.time_embedding.forward(t);
        let t_emb = ClassTable::add(self.classes.as_ref(), t_emb, classes);
        let mut x = linear(&tokens, &self.patch_in, None) + t_emb.unsqueeze(1);
        for layer in &self.layers {
            x = layer.forward(&x, &positions, train);
        }
        let out = linear(&self.norm_out.forward(&x), &self.patch_out, None);
        let size = [images, out.size()[2], rows, columns];
        out.transpose(1, 2).reshape(size).pixel_shuffle(self.patch)
    }

    /// Parameters in creation order.
    pub fn params(&self) -> Vec<Param> {
        params_of(&self.store)
    }

    /// Moves all tensors to `device`.
    ///
    /// # Errors
    /// Out of memory on `device`.
    pub fn move_to(&mut self, device: Device) -> Result<()> {
        move_params(&self.params(), device)
    }
}

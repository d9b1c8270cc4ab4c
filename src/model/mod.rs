//! Denoising networks and their layers, built on tch's `nn` paths so that parameter names are `state_dict`
//! keys: of the PyTorch reference in `scripts/reference/` (Keras-DDPM's three networks), of diffusers'
//! `UNet2DModel`, or of lucidrains' U-Net.
//!
//! [`Model`] is any one of them, chosen by the settings.

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
use tch::{Device, Kind, Tensor};

use block::Form;
pub use cost::Cost;
pub use gau::Gau;
pub use layers::group_norm;
pub use lucidrains::LucidrainsUNet;
pub use params::{Param, StateDictError, load_state_dict, params_of};
pub use unet::UNet;
pub use unet_attention::AttentionUNet;
pub use unet_concat::ConcatUNet;

use crate::config::{MapLayout, ModelConfig};
use crate::device::Precision;
use crate::native::{Bf16, KeptFilters};

/// A denoising network.
#[derive(Debug)]
pub struct Model {
    network: Network,
    bf16: bool,
    checkpoints: bool,
    layout: MapLayout,
    plain_blocks: bool,
}

#[derive(Debug)]
enum Network {
    Unet(UNet),
    UnetAttention(AttentionUNet),
    Lucidrains(LucidrainsUNet),
    UnetConcat(ConcatUNet),
    Gau(Gau),
}

impl Model {
    /// Builds the network on CPU with initial weights drawn from `seed`, for t in `0..timesteps`.
    pub fn new(config: &ModelConfig, timesteps: i64, seed: u64) -> Model {
        let network = match config {
            ModelConfig::Unet(m) => Network::Unet(UNet::new(m, timesteps, seed)),
            ModelConfig::UnetAttention(m) => Network::UnetAttention(AttentionUNet::new(m, seed)),
            ModelConfig::Lucidrains(m) => Network::Lucidrains(LucidrainsUNet::new(m, seed)),
            ModelConfig::UnetConcat(m) => Network::UnetConcat(ConcatUNet::new(m, timesteps, seed)),
            ModelConfig::Gau(m) => Network::Gau(Gau::new(m, timesteps, seed)),
        };
        Model {
            network,
            bf16: false,
            checkpoints: false,
            layout: MapLayout::Nchw,
            plain_blocks: false,
        }
    }

    /// Sets the layout of maps on CUDA, before the network is moved there: its convolutions' weights then lie likewise.
    pub fn set_layout(&mut self, layout: MapLayout) {
        self.layout = layout;
    }

    /// True if maps are channels last on `device` only because of the layout that was set.
    fn puts_channels_last(&self, device: Device) -> bool {
        device.is_cuda() && self.layout == MapLayout::Nhwc
    }

    /// Sets the precision of computations; `Auto` is f32. The precision of f32 products on CUDA is a setting of the
    /// process ([`choose`](crate::device::choose)).
    pub fn set_precision(&mut self, precision: Precision) {
        self.bf16 = precision == Precision::Bf16;
        self.set_form();
    }

    /// True if the network computes in bf16.
    pub fn in_bf16(&self) -> bool {
        self.bf16
    }

    /// Switches activation checkpointing: training keeps only the input of each residual block and recomputes the rest
    /// in the backward pass. Only the simplified U-Net has it; no effect on other networks.
    pub fn set_checkpoint_blocks(&mut self, on: bool) {
        self.checkpoints = on && matches!(self.network, Network::Unet(_));
        self.set_form();
    }

    /// Switches the residual blocks of the simplified U-Net on CUDA back to separate operations. Without it, each is
    /// one operation in bf16 and with checkpointing, which keeps less for the backward pass; in f32 that would take
    /// more operators. No effect elsewhere.
    pub fn set_plain_blocks(&mut self, on: bool) {
        self.plain_blocks = on;
        self.set_form();
    }

    fn set_form(&mut self) {
        if let Network::Unet(net) = &mut self.network {
            net.set_form(Form {
                checkpointed: self.checkpoints,
                plain: self.plain_blocks,
                in_bf16: self.bf16,
            });
        }
    }

    /// The network's raw output for noised images: eps_hat, x_0_hat or v_hat, as it was trained.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64, for class-conditional networks and only for them
    /// - returns `[N, C, H, W]` f32, or `[N, 2C, H, W]` with a learned variance
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
        // Weights are cast to bf16 at most once per forward pass; the backward pass follows its kinds.
        let casting = self.bf16.then(|| Bf16::begin(x_t.device()));
        let casting = casting.transpose().expect("autocast can be switched on");
        let x_t = &match self.puts_channels_last(x_t.device()) {
            true => params::channels_last(x_t),
            false => x_t.shallow_clone(),
        };
        let out = match &self.network {
            Network::Unet(net) => net.forward(x_t, t, train),
            Network::UnetAttention(net) => net.forward(x_t, t, classes, train),
            Network::Lucidrains(net) => net.forward(x_t, t, train),
            Network::UnetConcat(net) => net.forward(x_t, t, train),
            Network::Gau(net) => net.forward(x_t, t, train),
        };
        drop(casting);
        out.to_kind(Kind::Float)
    }

    /// The same without dropout and gradients. Weights must not change while `kept` is in use: it caches the forms that
    /// are derived from them in bf16.
    ///
    /// # Panics
    /// As [`forward`](Model::forward).
    pub fn predict(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        kept: &KeptFilters,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        kept.during(|| self.forward(x_t, t, classes, false))
    }

    /// Parameters in creation order.
    pub fn params(&self) -> Vec<Param> {
        match &self.network {
            Network::Unet(net) => net.params(),
            Network::UnetAttention(net) => net.params(),
            Network::Lucidrains(net) => net.params(),
            Network::UnetConcat(net) => net.params(),
            Network::Gau(net) => net.params(),
        }
    }

    /// Moves all tensors to `device`.
    ///
    /// # Errors
    /// Out of memory on `device`.
    pub fn move_to(&mut self, device: Device) -> Result<()> {
        match &mut self.network {
            Network::Unet(net) => net.move_to(device),
            Network::UnetAttention(net) => net.move_to(device),
            Network::Lucidrains(net) => net.move_to(device),
            Network::UnetConcat(net) => net.move_to(device),
            Network::Gau(net) => net.move_to(device),
        }?;
        if self.puts_channels_last(device) {
            params::put_channels_last(&self.params());
        }
        Ok(())
    }

    /// Cost of one `height` × `width` image.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        match &self.network {
            Network::Unet(net) => net.cost(height, width),
            Network::UnetAttention(net) => net.cost(height, width),
            Network::Lucidrains(net) => net.cost(height, width),
            Network::UnetConcat(net) => net.cost(height, width),
            Network::Gau(net) => net.cost(height, width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelKind;

    const KINDS: [ModelKind; 5] = [
        ModelKind::Unet,
        ModelKind::UnetAttention,
        ModelKind::Lucidrains,
        ModelKind::UnetConcat,
        ModelKind::Gau,
    ];

    fn small(kind: ModelKind) -> ModelConfig {
        let mut model = kind.config([3, 32, 32]);
        match &mut model {
            ModelConfig::Unet(m) => (m.base_width, m.norm_groups) = (16, 4),
            ModelConfig::UnetAttention(m) => {
                (m.base_width, m.norm_groups, m.widths) = (16, 4, vec![16, 16, 32, 32]);
                (m.time_channels, m.time_width) = (16, 32);
            }
            ModelConfig::Lucidrains(m) => (m.base_width, m.init_width) = (8, 8),
            ModelConfig::UnetConcat(m) => (m.base_width, m.norm_groups) = (8, 4),
            ModelConfig::Gau(m) => {
                (m.base_width, m.units, m.key_width, m.layers) = (64, 128, 32, 4);
            }
        }
        model
    }

    fn error(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).norm() / b.norm()).unwrap()
    }

    /// x_t and t of `n` images, at most two.
    fn batch(n: i64) -> (Tensor, Tensor) {
        let drawn = || Tensor::randn([n, 3, 32, 32], (Kind::Float, Device::Cpu));
        let t = Tensor::from_slice(&[3i64, 70]).narrow(0, 0, n);
        (crate::rng::seeded(3, drawn), t)
    }

    /// The output, and all gradients in one row.
    fn outcome(net: &Model) -> (Tensor, Tensor) {
        let (x, t) = batch(2);
        let params: Vec<Tensor> = net.params().into_iter().map(|p| p.tensor).collect();
        let out = net.forward(&x, &t, None, false);
        assert_eq!(out.kind(), Kind::Float);
        let loss = (&out - x).square().sum(Kind::Float);
        let grads = Tensor::run_backward(&[loss], &params, false, false);
        let rows: Vec<Tensor> = grads.iter().map(|g| g.reshape([-1])).collect();
        (out.detach(), Tensor::cat(&rows, 0))
    }

    #[test]
    fn bf16_is_f32_with_fewer_digits_in_every_network() {
        for kind in KINDS {
            let mut net = Model::new(&small(kind), 100, 0);
            let exact = outcome(&net);
            net.set_precision(Precision::Bf16);
            let rounded = outcome(&net);
            let (out, grads) = (error(&rounded.0, &exact.0), error(&rounded.1, &exact.1));
            println!("{kind:?}: {out:.4} {grads:.4}");
            // Eight bits err by up to 2^-9 per rounding; a network has some tens of roundings in a row.
            assert!(out > 1e-4 && out < 0.03, "{kind:?}: {out}");
            assert!(grads < 0.05, "{kind:?}: {grads}");
            assert_eq!(rounded.1.kind(), Kind::Float);
            net.set_precision(Precision::F32);
            let again = outcome(&net);
            assert_eq!((again.0, again.1), exact, "{kind:?}: the mode is left");
        }
    }

    #[test]
    fn predictions_are_the_same_with_filters_that_are_kept() {
        for kind in KINDS {
            let mut net = Model::new(&small(kind), 100, 0);
            for precision in [Precision::F32, Precision::Bf16] {
                net.set_precision(precision);
                let kept = KeptFilters::new();
                // Twice, for the cache, and with other maps.
                for n in [2, 2, 1] {
                    let (x, t) = batch(n);
                    let want = tch::no_grad(|| net.forward(&x, &t, None, false));
                    let got = net.predict(&x, &t, None, &kept);
                    assert_eq!(got, want, "{kind:?} {precision} {n}");
                }
            }
        }
    }
}

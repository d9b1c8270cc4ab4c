//! Denoising networks and their layers, built on tch's `nn` paths so that parameter names are `state_dict`
//! keys: of the PyTorch reference in `scripts/reference/` (Keras-DDPM's three networks), of diffusers'
//! `UNet2DModel`, or of lucidrains' U-Net.
//!
//! [`Model`] is any one of them, chosen by the settings.

mod block;
mod classes;
mod cost;
mod gau;
mod grow;
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
pub use grow::{Grown, load_and_grow};
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
    UnetAttention(Box<AttentionUNet>),
    Lucidrains(Box<LucidrainsUNet>),
    UnetConcat(ConcatUNet),
    Gau(Gau),
}

impl Model {
    /// Builds the network on CPU with initial weights drawn from `seed`, for t in `0..timesteps`.
    pub fn new(config: &ModelConfig, timesteps: i64, seed: u64) -> Model {
        let network = match config {
            ModelConfig::Unet(m) => Network::Unet(UNet::new(m, timesteps, seed)),
            ModelConfig::UnetAttention(m) => {
                Network::UnetAttention(Box::new(AttentionUNet::new(m, seed)))
            }
            ModelConfig::Lucidrains(m) => {
                Network::Lucidrains(Box::new(LucidrainsUNet::new(m, seed)))
            }
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
    /// - `x_t`: `[N, C, H, W]` f32, and behind its channels those of the condition, if the network has one
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64 below [`class_rows`](ModelConfig::class_rows) of the settings, for class-conditional
    ///   networks and only for them; the last row is the null class, if there is one
    /// - returns `[N, C, H, W]` f32, or `[N, 2C, H, W]` with a learned variance
    ///
    /// # Panics
    /// With other shapes, or values outside their ranges; unless `classes` is given exactly for class-conditional
    /// networks.
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
            Network::Unet(net) => net.forward(x_t, t, classes, train),
            Network::UnetAttention(net) => net.forward(x_t, t, classes, train),
            Network::Lucidrains(net) => net.forward(x_t, t, classes, train),
            Network::UnetConcat(net) => net.forward(x_t, t, classes, train),
            Network::Gau(net) => net.forward(x_t, t, classes, train),
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

    pub(super) const KINDS: [ModelKind; 5] = [
        ModelKind::Unet,
        ModelKind::UnetAttention,
        ModelKind::Lucidrains,
        ModelKind::UnetConcat,
        ModelKind::Gau,
    ];

    pub(super) fn small(kind: ModelKind) -> ModelConfig {
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
    pub(super) fn batch(n: i64) -> (Tensor, Tensor) {
        let drawn = || Tensor::randn([n, 3, 32, 32], (Kind::Float, Device::Cpu));
        let t = Tensor::from_slice(&[3i64, 70]).narrow(0, 0, n);
        (crate::rng::seeded(3, drawn), t)
    }

    /// Each kind without classes, and with three and a null class.
    fn networks() -> Vec<ModelConfig> {
        let with = |kind: ModelKind| {
            let mut conditional = small(kind);
            conditional.make_conditional(3, true);
            [small(kind), conditional]
        };
        KINDS.into_iter().flat_map(with).collect()
    }

    /// The first class, and none of them, for `n` images of a network with classes.
    fn classes(model: &ModelConfig, n: i64) -> Option<Tensor> {
        let null = model.null_class()?;
        Some(Tensor::from_slice(&[0, null]).narrow(0, 0, n))
    }

    /// The output, and all gradients in one row.
    fn outcome(net: &Model, classes: Option<&Tensor>) -> (Tensor, Tensor) {
        let (x, t) = batch(2);
        let params: Vec<Tensor> = net.params().into_iter().map(|p| p.tensor).collect();
        let out = net.forward(&x, &t, classes, false);
        assert_eq!(out.kind(), Kind::Float);
        let loss = (&out - x).square().sum(Kind::Float);
        let grads = Tensor::run_backward(&[loss], &params, false, false);
        let rows: Vec<Tensor> = grads.iter().map(|g| g.reshape([-1])).collect();
        (out.detach(), Tensor::cat(&rows, 0))
    }

    #[test]
    fn bf16_is_f32_with_fewer_digits_in_every_network() {
        for model in networks() {
            let (kind, classes) = (model.kind(), classes(&model, 2));
            let mut net = Model::new(&model, 100, 0);
            let exact = outcome(&net, classes.as_ref());
            net.set_precision(Precision::Bf16);
            let rounded = outcome(&net, classes.as_ref());
            let (out, grads) = (error(&rounded.0, &exact.0), error(&rounded.1, &exact.1));
            println!("{kind:?}: {out:.4} {grads:.4}");
            // Eight bits err by up to 2^-9 per rounding; a network has some tens of roundings in a row.
            assert!(out > 1e-4 && out < 0.03, "{kind:?}: {out}");
            assert!(grads < 0.05, "{kind:?}: {grads}");
            assert_eq!(rounded.1.kind(), Kind::Float);
            net.set_precision(Precision::F32);
            let again = outcome(&net, classes.as_ref());
            assert_eq!((again.0, again.1), exact, "{kind:?}: the mode is left");
        }
    }

    #[test]
    fn predictions_are_the_same_with_filters_that_are_kept() {
        for model in networks() {
            let kind = model.kind();
            let mut net = Model::new(&model, 100, 0);
            for precision in [Precision::F32, Precision::Bf16] {
                net.set_precision(precision);
                let kept = KeptFilters::new();
                // Twice, for the cache, and with other maps.
                for n in [2, 2, 1] {
                    let ((x, t), classes) = (batch(n), classes(&model, n));
                    let classes = classes.as_ref();
                    let want = tch::no_grad(|| net.forward(&x, &t, classes, false));
                    let got = net.predict(&x, &t, classes, &kept);
                    let off = error(&got, &want);
                    println!("{kind:?} {precision} {n} {}: {off:.1e}", classes.is_some());
                    // In bf16 oneDNN may add the products of a filter in another order where it lies otherwise: on
                    // processors with AVX-512 in networks with classes, on others without too.
                    let limit = match precision {
                        Precision::Bf16 => 0.03,
                        _ => 0.0,
                    };
                    assert!(off <= limit, "{kind:?} {precision} {n}: {off}");
                }
            }
        }
    }

    #[test]
    fn each_class_gives_another_image_and_all_weights_learn() {
        for model in networks() {
            let Some(null) = model.null_class() else {
                continue;
            };
            let net = Model::new(&model, 100, 0);
            let params = net.params();
            for (i, p) in params.iter().enumerate() {
                if p.tensor.dim() > 1 {
                    let size = p.tensor.size();
                    let drawn = crate::rng::normal(
                        0,
                        crate::rng::Stream::Init,
                        i as u64,
                        &size,
                        Device::Cpu,
                    );
                    tch::no_grad(|| p.tensor.shallow_clone().copy_(&(drawn * 0.2)));
                }
            }
            let (x, t) = batch(1);
            let of = |class: i64| net.forward(&x, &t, Some(&Tensor::from_slice(&[class])), false);
            let outs: Vec<Tensor> = (0..=null).map(of).collect();
            let kind = model.kind();
            assert!(
                outs.windows(2).all(|pair| error(&pair[0], &pair[1]) > 1e-3),
                "{kind:?}"
            );
            Tensor::stack(&outs, 0).square().sum(Kind::Float).backward();
            for p in params {
                let largest = f64::try_from(p.tensor.grad().abs().max()).unwrap();
                // softmax ignores a key's bias, which adds the same to all scores.
                assert!(
                    largest > 0.0 || p.name.ends_with("to_k.bias"),
                    "{kind:?} {}",
                    p.name
                );
            }
        }
    }

    #[test]
    fn other_weights_are_those_of_the_network_without_classes() {
        for kind in KINDS {
            let mut conditional = small(kind);
            conditional.set_classes(Some(3), true);
            let with = Model::new(&conditional, 100, 5).params();
            let mut same = 0;
            for plain in Model::new(&small(kind), 100, 5).params() {
                let twin = with.iter().find(|p| p.name == plain.name).unwrap();
                same += usize::from(twin.tensor == plain.tensor);
                // In lucidrains' network the blocks read a longer embedding, and draw more.
                let all = kind == ModelKind::Lucidrains || twin.tensor == plain.tensor;
                assert!(all, "{kind:?} {}", plain.name);
            }
            assert!(same > 10);
        }
    }

    #[test]
    #[should_panic(expected = "classes are for class-conditional networks, and only for them")]
    fn classes_are_for_networks_that_have_them() {
        let (x, t) = batch(1);
        let classes = Tensor::from_slice(&[0i64]);
        let _ = Model::new(&small(ModelKind::Lucidrains), 100, 0).forward(
            &x,
            &t,
            Some(&classes),
            false,
        );
    }

    #[test]
    #[should_panic(expected = "classes are for class-conditional networks, and only for them")]
    fn networks_that_have_classes_need_one() {
        let (x, t) = batch(1);
        let mut model = small(ModelKind::Gau);
        model.set_classes(Some(3), false);
        let _ = Model::new(&model, 100, 0).forward(&x, &t, None, false);
    }
}

//! The U-Net of Ho et al. and its descendants: concatenated skips, attention at some levels, norms before
//! convolutions.
//!
//! Parameter names are diffusers' (`UNet2DModel`), so `up_blocks.0` is the lowest resolution there;
//! lists in the settings count levels from the full resolution.

mod attention;
mod cost;
mod resample;
mod resnet;
#[cfg(test)]
mod tests;
mod time;

use anyhow::Result;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use self::attention::Attention;
use self::resample::{Downsample, Upsample};
use self::resnet::{ResnetBlock, Within};
use self::time::TimeEmbedding;
use super::layers::{ALMOST_ZERO, Conv, Modulation, Norm, preferred_layout};
use super::params::{Param, move_params, params_of};
use crate::config::{AttentionUNetConfig, input_channels};
use crate::rng::{Stream, key, seeded};

/// A residual block, and attention after it at some levels.
#[derive(Debug)]
struct Unit {
    resnet: ResnetBlock,
    attention: Option<Attention>,
}

impl Unit {
    fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let h = self.resnet.forward(x, t_emb, train);
        match &self.attention {
            Some(attention) => attention.forward(&h),
            None => h,
        }
    }
}

/// One resolution on the way down.
#[derive(Debug)]
struct DownLevel {
    units: Vec<Unit>,
    downsample: Option<Downsample>,
}

/// One resolution on the way up.
#[derive(Debug)]
struct UpLevel {
    units: Vec<Unit>,
    upsample: Option<Upsample>,
}

/// The middle: block, attention, block.
#[derive(Debug)]
struct Middle {
    first: ResnetBlock,
    attention: Option<Attention>,
    second: ResnetBlock,
}

/// Predicts the noise in `x_t`, or another target it was trained for.
#[derive(Debug)]
pub struct AttentionUNet {
    time: TimeEmbedding,
    conv_in: Conv,
    down: Vec<DownLevel>,
    middle: Middle,
    /// From the lowest resolution up.
    up: Vec<UpLevel>,
    norm_out: Norm,
    conv_out: Conv,
    center_input: bool,
    store: VarStore,
}

impl AttentionUNet {
    /// Builds the network on CPU with initial weights drawn from `seed`.
    pub fn new(config: &AttentionUNetConfig, seed: u64) -> AttentionUNet {
        seeded(key(seed, Stream::Init, 0), || AttentionUNet::draw(config))
    }

    fn draw(config: &AttentionUNetConfig) -> AttentionUNet {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let conv_in = Conv::new(
            &(root / "conv_in"),
            input_channels(config.channels, config.condition_channels),
            config.base_width,
            3,
            1.0,
        );
        let time = TimeEmbedding::new(root, config);
        let (down, mut skips) = draw_down(root, config);
        let lowest = config.widths[config.widths.len() - 1];
        let middle = Middle::new(&(root / "mid_block"), lowest, config);
        let up = draw_up(root, config, &mut skips);
        let out = config.channels * if config.learned_variance { 2 } else { 1 };
        let width = config.widths[0];
        let net = AttentionUNet {
            time,
            conv_in,
            down,
            middle,
            up,
            norm_out: Norm::grouped(
                &(root / "conv_norm_out"),
                width,
                config.norm_groups,
                config.norm_eps,
            ),
            conv_out: Conv::new(&(root / "conv_out"), width, out, 3, ALMOST_ZERO),
            center_input: config.center_input,
            store,
        };
        net.time.draw_classes();
        net
    }

    /// The network's raw output: eps_hat, x_0_hat or v_hat, as it was trained.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32, and behind its channels those of the condition, if the network has one; returns `[N,
    ///   C, H, W]`, or `[N, 2C, H, W]` with a learned variance
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64 below the number of rows of the class embedding, for class-conditional networks
    ///
    /// # Panics
    /// With other shapes, or unless `classes` is given exactly for class-conditional networks.
    ///
    /// Source: Ho et al. 2020, appendix B <https://arxiv.org/abs/2006.11239>
    pub fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        let t_emb = self.time.forward(t, classes);
        let mut x = preferred_layout(x_t);
        if self.center_input {
            x = x * 2.0 - 1.0;
        }
        x = self.conv_in.forward(&x);
        let mut skips = vec![x.shallow_clone()];

        for level in &self.down {
            for unit in &level.units {
                x = unit.forward(&x, &t_emb, train);
                skips.push(x.shallow_clone());
            }
            if let Some(downsample) = &level.downsample {
                x = downsample.forward(&x, &t_emb, train);
                skips.push(x.shallow_clone());
            }
        }

        x = self.middle.forward(&x, &t_emb, train);

        let mut pop = || {
            skips
                .pop()
                .expect("as many pops as pushes, by construction")
        };
        for level in &self.up {
            for unit in &level.units {
                x = unit.forward(&Tensor::cat(&[x, pop()], 1), &t_emb, train);
            }
            if let Some(upsample) = &level.upsample {
                x = upsample.forward(&x, &t_emb, train);
            }
        }
        let h = self.norm_out.silu(&x, Modulation::Nothing);
        self.conv_out.forward(&h)
    }

    /// True if a norm and the swish after it are one operation.
    pub(super) fn fuses(&self) -> bool {
        self.norm_out.fuses()
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
        move_params(&self.params(), device)?;
        self.time.move_to(device);
        Ok(())
    }
}

impl Middle {
    fn new(path: &Path, width: i64, config: &AttentionUNetConfig) -> Middle {
        let resnets = path / "resnets";
        let block = |i: i64| {
            let place = (width, width, Within::Nothing);
            ResnetBlock::new(&(&resnets / i), place, config).scaled(config.mid_scale)
        };
        let attention = config.mid_attention.then(|| {
            let path = path / "attentions" / 0;
            let heads = config.heads_of(width, false);
            Attention::new(&path, width, heads, config.mid_attention_norm, config)
                .scaled(config.mid_scale)
        });
        Middle {
            first: block(0),
            attention,
            second: block(1),
        }
    }

    fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let mut h = self.first.forward(x, t_emb, train);
        if let Some(attention) = &self.attention {
            h = attention.forward(&h);
        }
        self.second.forward(&h, t_emb, train)
    }
}

fn unit(
    path: &Path,
    r: i64,
    (c_in, c_out): (i64, i64),
    heads: Option<i64>,
    config: &AttentionUNetConfig,
) -> Unit {
    let resnet = ResnetBlock::new(
        &(path / "resnets" / r),
        (c_in, c_out, Within::Nothing),
        config,
    );
    let attention =
        heads.map(|heads| Attention::new(&(path / "attentions" / r), c_out, heads, true, config));
    Unit { resnet, attention }
}

/// The levels on the way down, and the widths on the skip stack after them.
fn draw_down(root: &Path, config: &AttentionUNetConfig) -> (Vec<DownLevel>, Vec<i64>) {
    let mut width = config.base_width;
    let mut skips = vec![width];
    let mut levels = Vec::new();
    for (i, &level_width) in config.widths.iter().enumerate() {
        let path = &(root / "down_blocks" / i);
        let heads = config.attention_down[i].then(|| config.heads_of(level_width, false));
        let mut units = Vec::new();
        for r in 0..config.blocks {
            units.push(unit(path, r, (width, level_width), heads, config));
            width = level_width;
            skips.push(width);
        }
        let last = i + 1 == config.widths.len();
        let downsample =
            (!last).then(|| Downsample::new(&(path / "downsamplers" / 0), width, config));
        if !last {
            skips.push(width);
        }
        levels.push(DownLevel { units, downsample });
    }
    (levels, skips)
}

fn draw_up(root: &Path, config: &AttentionUNetConfig, skips: &mut Vec<i64>) -> Vec<UpLevel> {
    let mut width = config.widths[config.widths.len() - 1];
    let mut levels = Vec::new();
    for (u, i) in (0..config.widths.len()).rev().enumerate() {
        let path = &(root / "up_blocks" / u);
        let level_width = config.widths[i];
        let heads = config.attention_up[i].then(|| config.heads_of(level_width, true));
        let mut units = Vec::new();
        for r in 0..=config.blocks {
            let skip = skips.pop().expect("as many pops as pushes");
            units.push(unit(path, r, (width + skip, level_width), heads, config));
            width = level_width;
        }
        let upsample =
            (i > 0).then(|| Upsample::new(&(path / "upsamplers" / 0), level_width, config));
        levels.push(UpLevel { units, upsample });
    }
    levels
}

//! The U-Net of lucidrains' `denoising-diffusion-pytorch`, version 1.9 and later: skips are
//! concatenated, and every level has attention, linear attention at most of them.
//!
//! Parameters have the names of the package's own `state_dict`, so weights convert both ways unchanged, and its
//! order, but for those of classes, which come last. `ups.0` is the lowest resolution there; lists in the settings
//! count levels from the full resolution.
//!
//! The package has another U-Net for classes, of a slightly other structure; both structures can have classes here.

mod attention;
mod blocks;
mod class_mlp;
mod cost;
mod layers;
#[cfg(test)]
mod tests;

use anyhow::Result;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use self::attention::{Attention, Heads};
use self::blocks::{ResidualBlock, TimeMlp};
use self::class_mlp::ClassMlp;
use self::layers::Conv;
use super::classes::pair;
use super::layers::preferred_layout;
use super::params::{Param, move_params, params_of};
use crate::config::{LucidrainsConfig, LucidrainsStructure, input_channels};
use crate::rng::{Stream, key, seeded};

/// One resolution, down or up: two blocks, attention, and the resampling to the next level.
#[derive(Debug)]
struct Level {
    block1: ResidualBlock,
    block2: ResidualBlock,
    attention: Attention,
    /// Resampling before `conv`: halving (down, unless `conv` does it) or doubling (up).
    resamples: bool,
    conv: Conv,
}

/// Predicts the noise in `x_t`, or another target it was trained for.
#[derive(Debug)]
pub struct LucidrainsUNet {
    init_conv: Conv,
    time_mlp: TimeMlp,
    downs: Vec<Level>,
    /// From the lowest resolution up.
    ups: Vec<Level>,
    mid_block1: ResidualBlock,
    mid_attn: Attention,
    mid_block2: ResidualBlock,
    final_res_block: ResidualBlock,
    final_conv: Conv,
    classes: Option<ClassMlp>,
    store: VarStore,
}

impl LucidrainsUNet {
    /// Builds the network on CPU with initial weights drawn from `seed`.
    ///
    /// # Panics
    /// If the settings' lists differ in length or are empty.
    pub fn new(config: &LucidrainsConfig, seed: u64) -> LucidrainsUNet {
        seeded(key(seed, Stream::Init, 0), || LucidrainsUNet::draw(config))
    }

    fn draw(config: &LucidrainsConfig) -> LucidrainsUNet {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let init = config.init_width;
        let inputs = input_channels(config.channels, config.condition_channels);
        let lowest = config.multipliers.len() - 1;
        let mid = config.multipliers[lowest] * config.base_width;
        let out = config.channels * if config.learned_variance { 2 } else { 1 };
        let block =
            |name: &str, c_in, c_out| ResidualBlock::new(&(root / name), c_in, c_out, config);
        // Fields are initialised in the order written here, which is the order of the `state_dict` without classes.
        LucidrainsUNet {
            init_conv: Conv::new(&(root / "init_conv"), inputs, init, 7),
            time_mlp: TimeMlp::new(&(root / "time_mlp"), config.base_width),
            downs: draw_downs(root, config),
            ups: draw_ups(root, config),
            mid_block1: block("mid_block1", mid, mid),
            mid_attn: Attention::new(&(root / "mid_attn"), mid, Heads::middle(config)),
            mid_block2: block("mid_block2", mid, mid),
            final_res_block: block("final_res_block", 2 * init, init),
            final_conv: Conv::new(&(root / "final_conv"), init, out, 1),
            classes: (config.classes).map(|classes| ClassMlp::new(root, config, classes)),
            store,
        }
    }

    /// The network's raw output: eps_hat, x_0_hat or v_hat, as it was trained.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32, and behind its channels those of the condition, if the network has one, H and W
    ///   multiples of 2^(levels - 1); returns `[N, C, H, W]`, or
    ///   `[N, 2C, H, W]` with a learned variance
    /// - `t`: `[N]` i64
    /// - `classes`: `[N]` i64 up to the last class, or the number after it for "no class" if the network has that; for
    ///   class-conditional networks
    ///
    /// # Panics
    /// With other shapes, or unless `classes` is given exactly for class-conditional networks.
    ///
    /// Source: `denoising-diffusion-pytorch` 2.3.4, `Unet`
    pub fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        let mut t_emb = self.time_mlp.forward(t);
        if let Some((mlp, classes)) = pair(self.classes.as_ref(), classes) {
            t_emb = Tensor::cat(&[t_emb, mlp.forward(classes)], 1);
        }
        let first = self.init_conv.forward(&preferred_layout(x_t));
        let mut x = first.shallow_clone();
        let mut skips = Vec::with_capacity(2 * self.downs.len());

        for level in &self.downs {
            x = level.block1.forward(&x, &t_emb, train);
            skips.push(x.shallow_clone());
            x = level.block2.forward(&x, &t_emb, train);
            x = level.attention.forward(&x);
            skips.push(x.shallow_clone());
            if level.resamples {
                x = x.pixel_unshuffle(2);
            }
            x = level.conv.forward(&x);
        }

        x = self.mid_block1.forward(&x, &t_emb, train);
        x = self.mid_attn.forward(&x);
        x = self.mid_block2.forward(&x, &t_emb, train);

        let mut with_skip = |x: &Tensor| {
            let skip = skips.pop().expect("as many skips as blocks on the way up");
            Tensor::cat(&[x, &skip], 1)
        };
        for level in &self.ups {
            x = level.block1.forward(&with_skip(&x), &t_emb, train);
            x = level.block2.forward(&with_skip(&x), &t_emb, train);
            x = level.attention.forward(&x);
            if level.resamples {
                let size = x.size();
                x = x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None);
            }
            x = level.conv.forward(&x);
        }

        x = Tensor::cat(&[&x, &first], 1);
        x = self.final_res_block.forward(&x, &t_emb, train);
        self.final_conv.forward(&x)
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
        self.time_mlp.move_to(device)
    }
}

/// Channels between the levels, from the full resolution down: after the first convolution, then after
/// each level.
fn widths(config: &LucidrainsConfig) -> Vec<i64> {
    let levels = config.multipliers.iter().map(|m| m * config.base_width);
    [config.init_width].into_iter().chain(levels).collect()
}

fn draw_downs(root: &Path, config: &LucidrainsConfig) -> Vec<Level> {
    let widths = widths(config);
    let levels = config.multipliers.len();
    (0..levels)
        .map(|i| {
            let path = &(root / "downs" / i);
            let (here, next) = (widths[i], widths[i + 1]);
            Level::new(path, config, i, (here, here), |path| {
                if i + 1 == levels {
                    (false, Conv::new(path, here, next, 3))
                } else if config.structure == LucidrainsStructure::ClassifierFreeGuidance {
                    (false, Conv::halving(path, here, next))
                } else {
                    (true, Conv::new(&(path / 1), 4 * here, next, 1))
                }
            })
        })
        .collect()
}

fn draw_ups(root: &Path, config: &LucidrainsConfig) -> Vec<Level> {
    let widths = widths(config);
    (0..config.multipliers.len())
        .rev()
        .enumerate()
        .map(|(u, i)| {
            let path = &(root / "ups" / u);
            let (next, here) = (widths[i], widths[i + 1]);
            Level::new(path, config, i, (here + next, here), |path| {
                if i > 0 {
                    (true, Conv::new(&(path / 1), here, next, 3))
                } else {
                    (false, Conv::new(path, here, next, 3))
                }
            })
        })
        .collect()
}

impl Level {
    /// Level `i` with blocks from `c_in` to `width` channels; `leave` builds its resampling.
    fn new(
        path: &Path,
        config: &LucidrainsConfig,
        i: usize,
        (c_in, width): (i64, i64),
        leave: impl Fn(&Path) -> (bool, Conv),
    ) -> Level {
        let block1 = ResidualBlock::new(&(path / 0), c_in, width, config);
        let block2 = ResidualBlock::new(&(path / 1), c_in, width, config);
        let attention = Attention::new(&(path / 2), width, Heads::of_level(config, i));
        let (resamples, conv) = leave(&(path / 3));
        Level {
            block1,
            block2,
            attention,
            resamples,
            conv,
        }
    }
}

//! Keras-DDPM's other U-Net, close to Ho et al.'s: norms before convolutions, concatenated skips, a
//! sinusoidal time embedding; no attention, and biases only in the norms.

mod block;
mod cost;
#[cfg(test)]
mod tests;

use anyhow::Result;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use self::block::ResidualBlock;
use super::classes::ClassTable;
use super::layers::{
    Modulation, Norm, TimeTable, conv_weight, conv3x3, linear, linear_weight, preferred_layout,
};
use super::params::{Param, move_params, params_of};
use crate::config::{BlockWidths, ConcatUNetConfig, class_rows, input_channels};
use crate::rng::{Stream, key, seeded};

/// One resolution, down or up: its blocks, with the image halved (down) or doubled (up) after them.
#[derive(Debug)]
struct Stage {
    blocks: Vec<ResidualBlock>,
    resamples: bool,
}

/// Sines and cosines of t, then two linear maps with a swish after each.
#[derive(Debug)]
struct TimeEmbedding {
    table: TimeTable,
    linear_1: Tensor,
    linear_2: Tensor,
}

impl TimeEmbedding {
    fn new(path: &Path, config: &ConcatUNetConfig, timesteps: i64) -> TimeEmbedding {
        let (base, wide) = (config.base_width, config.time_width());
        TimeEmbedding {
            table: TimeTable::sinusoidal(timesteps, base),
            linear_1: linear_weight(&(path / "linear_1"), base, wide),
            linear_2: linear_weight(&(path / "linear_2"), wide, wide),
        }
    }

    /// `[N]` i64 to `[N, time_width]`.
    fn forward(&self, t: &Tensor) -> Tensor {
        let h = linear(&self.table.forward(t), &self.linear_1, None).silu();
        linear(&h, &self.linear_2, None).silu()
    }
}

/// Predicts the noise in `x_t`, or another target it was trained for.
#[derive(Debug)]
pub struct ConcatUNet {
    time_embedding: TimeEmbedding,
    /// Added after the swish of the time embedding.
    classes: Option<ClassTable>,
    conv_in: Tensor,
    down: Vec<Stage>,
    mid: ResidualBlock,
    /// From the lowest resolution up.
    up: Vec<Stage>,
    norm_out: Norm,
    conv_out: Tensor,
    norm_groups: i64,
    store: VarStore,
}

impl ConcatUNet {
    /// Builds the network on CPU with initial weights drawn from `seed`. The time embedding has `timesteps` rows.
    pub fn new(config: &ConcatUNetConfig, timesteps: i64, seed: u64) -> ConcatUNet {
        seeded(key(seed, Stream::Init, 0), || {
            ConcatUNet::draw(config, timesteps)
        })
    }

    fn draw(config: &ConcatUNetConfig, timesteps: i64) -> ConcatUNet {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let base = config.base_width;
        let time_embedding = TimeEmbedding::new(&(root / "time_embedding"), config, timesteps);
        let inputs = input_channels(config.channels, config.condition_channels);
        let conv_in = conv_weight(&(root / "conv_in"), inputs, base, 3, 1.0);

        let plan = config.plan();
        let block = |path: &Path, w: BlockWidths| ResidualBlock::new(path, w.from, w.to, config);
        let stages = |way: &str, levels: &[Vec<BlockWidths>]| -> Vec<Stage> {
            let stage = |(i, widths): (usize, &Vec<BlockWidths>)| {
                let path = &(root / way / i as i64);
                let blocks = widths.iter().enumerate();
                Stage {
                    blocks: blocks.map(|(b, &w)| block(&(path / b as i64), w)).collect(),
                    resamples: i + 1 < levels.len(),
                }
            };
            levels.iter().enumerate().map(stage).collect()
        };
        let down = stages("down", &plan.down);
        let mid = block(&(root / "mid"), plan.mid);
        let up = stages("up", &plan.up);

        let width = plan.out;
        let norm_out = Norm::grouped(
            &(root / "norm_out"),
            width,
            config.norm_groups,
            config.norm_eps,
        );
        let conv_out = conv_weight(&(root / "conv_out"), width, config.channels, 3, 1.0);
        let classes = class_rows(config.classes, config.null_class)
            .map(|rows| ClassTable::new(root, rows, config.time_width()).uniform());
        ConcatUNet {
            time_embedding,
            classes,
            conv_in,
            down,
            mid,
            up,
            norm_out,
            conv_out,
            norm_groups: config.norm_groups,
            store,
        }
    }

    /// The network's raw output: eps_hat, x_0_hat or v_hat, as it was trained.
    ///
    /// Skips are joined group by group, so that each norm group has the same channels as in the original.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32, and behind its channels those of the condition, if the network has one; returns the
    ///   same shape
    /// - `t`: `[N]` i64 in `0..T`
    /// - `classes`: `[N]` i64 below the number of rows of the class embedding, for class-conditional networks
    ///
    /// # Panics
    /// With other shapes, or `t` outside `0..T`; unless `classes` is given exactly for class-conditional networks.
    ///
    /// Source: Keras-DDPM, `ddpm2.py`; Ho et al. 2020, appendix B <https://arxiv.org/abs/2006.11239>
    pub fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        classes: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        let t_emb = self.time_embedding.forward(t);
        let t_emb = ClassTable::add(self.classes.as_ref(), t_emb, classes);
        let mut x = conv3x3(&preferred_layout(x_t), &self.conv_in, None);
        let mut skips = vec![x.shallow_clone()];

        for stage in &self.down {
            for block in &stage.blocks {
                x = block.forward(&x, &t_emb, train);
                skips.push(x.shallow_clone());
            }
            if stage.resamples {
                x = x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
                skips.push(x.shallow_clone());
            }
        }

        x = self.mid.forward(&x, &t_emb, train);

        let mut pop = || {
            skips
                .pop()
                .expect("as many pops as pushes, by construction")
        };
        for stage in &self.up {
            for block in &stage.blocks {
                x = block.forward(&cat_groups(&x, &pop(), self.norm_groups), &t_emb, train);
            }
            if stage.resamples {
                let size = x.size();
                x = x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None);
            }
        }
        let h = self.norm_out.silu(&x, Modulation::Nothing);
        conv3x3(&h, &self.conv_out, None)
    }

    /// True if a norm and the swish after it are one operation.
    pub(super) fn fuses(&self) -> bool {
        self.norm_out.fuses()
    }

    /// Parameters in creation order, without the fixed table of sines and cosines.
    pub fn params(&self) -> Vec<Param> {
        params_of(&self.store)
    }

    /// Moves all tensors to `device`.
    ///
    /// # Errors
    /// Out of memory on `device`.
    pub fn move_to(&mut self, device: Device) -> Result<()> {
        move_params(&self.params(), device)?;
        self.time_embedding.table.move_to(device);
        Ok(())
    }
}

/// Joins feature maps channel-wise, group by group: group g of the result holds group g of `a`, then
/// group g of `b`.
///
/// The original's norms have interleaved groups (channel c in group c mod 32), so that after plain
/// concatenation both halves share every group. With contiguous groups, plain concatenation would give some
/// groups to `a` and the rest to `b`: a different network.
///
/// # Shapes
/// - `a`, `b`: `[N, Ca, H, W]` and `[N, Cb, H, W]`, both C divisible by `groups`
/// - returns `[N, Ca + Cb, H, W]`, channels-last in memory if `a` is
fn cat_groups(a: &Tensor, b: &Tensor, groups: i64) -> Tensor {
    let [n, _, height, width]: [i64; 4] = a
        .size()
        .try_into()
        .expect("a feature map has four dimensions");
    let channels_last = a.stride()[1] == 1;
    let split = |x: &Tensor| {
        let each = x.size()[1] / groups;
        if channels_last {
            let pixels = x.permute([0, 2, 3, 1]);
            pixels.reshape([n, height, width, groups, each])
        } else {
            x.reshape([n, groups, each, height, width])
        }
    };
    if channels_last {
        let pixels = Tensor::cat(&[split(a), split(b)], 4).flatten(3, 4);
        pixels.permute([0, 3, 1, 2])
    } else {
        Tensor::cat(&[split(a), split(b)], 2).flatten(1, 2)
    }
}

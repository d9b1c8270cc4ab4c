//! The simplified U-Net of Keras-DDPM: skips are added, not concatenated; no attention.

use anyhow::Result;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use super::block::{Form, ResidualBlock};
use super::classes::ClassTable;
use super::layers::{Norm, TimeTable, conv_weight, conv3x3, preferred_layout};
use super::params::{Param, move_params, params_of};
use crate::config::{TimeEmbedding, UNetConfig, class_rows, input_channels};
use crate::native;
use crate::rng::{Stream, key, seeded};

/// One resolution, down or up: its blocks, with the image halved after them (down) or doubled before
/// them (up).
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) blocks: Vec<ResidualBlock>,
    pub(super) resamples: bool,
}

/// The simplified U-Net: predicts the noise in `x_t`.
#[derive(Debug)]
pub struct UNet {
    time_embedding: TimeTable,
    classes: Option<ClassTable>,
    pub(super) conv_in: Tensor,
    pub(super) down: Vec<Stage>,
    pub(super) mid: ResidualBlock,
    pub(super) up: Vec<Stage>,
    norm_out: Norm,
    pub(super) conv_out: Tensor,
    store: VarStore,
}

impl UNet {
    /// Builds the network on CPU with initial weights drawn from `seed`. The time embedding has `timesteps` rows.
    pub fn new(config: &UNetConfig, timesteps: i64, seed: u64) -> UNet {
        seeded(key(seed, Stream::Init, 0), || UNet::draw(config, timesteps))
    }

    fn draw(config: &UNetConfig, timesteps: i64) -> UNet {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let levels = config.levels();
        let base = config.base_width;

        let time_embedding = match config.time_embedding {
            TimeEmbedding::Trainable => {
                TimeTable::trainable(&(root / "time_embedding"), timesteps, base)
            }
            TimeEmbedding::Sinusoidal => TimeTable::sinusoidal(timesteps, base),
        };
        let inputs = input_channels(config.channels, config.condition_channels);
        let conv_in = conv_weight(&(root / "conv_in"), inputs, base, 3, 1.0);

        // Widths of the skip stack, pushed and popped as `forward` does.
        let mut skips = vec![base];
        let mut width = base;
        let mut down = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let path = &(root / "down" / i);
            let blocks = build_blocks(
                path,
                config,
                &mut width,
                &vec![level.width; config.blocks as usize],
            );
            skips.extend(vec![
                level.width;
                config.blocks as usize + usize::from(level.pools)
            ]);
            down.push(Stage {
                blocks,
                resamples: level.pools,
            });
        }

        let mid = ResidualBlock::new(&(root / "mid"), width, width, config);
        skips.pop();

        let unpooled = levels.iter().filter(|l| !l.pools).count();
        let mut up = Vec::new();
        for u in 0..levels.len() {
            let resamples = u >= unpooled;
            if resamples {
                skips.pop();
            }
            let widths = skips.split_off(skips.len() - config.blocks as usize);
            let widths: Vec<i64> = widths.into_iter().rev().collect();
            let blocks = build_blocks(&(root / "up" / u), config, &mut width, &widths);
            up.push(Stage { blocks, resamples });
        }

        let norm_out = Norm::new(&(root / "norm_out"), width, config);
        let conv_out = conv_weight(&(root / "conv_out"), width, config.channels, 3, 1.0);
        let classes = class_rows(config.classes, config.null_class)
            .map(|rows| ClassTable::new(root, rows, base).uniform());
        UNet {
            time_embedding,
            classes,
            conv_in,
            down,
            mid,
            up,
            norm_out,
            conv_out,
            store,
        }
    }

    /// The network's raw output: eps_hat for noised images.
    ///
    /// Feature maps on the way down are pushed on a stack, and the last entry is dropped after the middle
    /// block: every skip joins one place later than in the usual U-Net.
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
    /// Source: Keras-DDPM, `ddpm.py`.
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
                x = block.forward(&x, &t_emb, None, train);
                skips.push(x.shallow_clone());
            }
            if stage.resamples {
                x = self.halved(&x);
                skips.push(x.shallow_clone());
            }
        }

        x = self.mid.forward(&x, &t_emb, None, train);
        skips.pop();

        let mut pop = || {
            skips
                .pop()
                .expect("as many pops as pushes, by construction")
        };
        for stage in &self.up {
            if stage.resamples {
                let size = x.size();
                x = x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None);
                x += pop();
            }
            for block in &stage.blocks {
                x = block.forward(&x, &t_emb, Some(&pop()), train);
            }
        }
        conv3x3(&self.norm_out.forward(&x), &self.conv_out, None)
    }

    /// Averages of 2×2 pixels.
    fn halved(&self, x: &Tensor) -> Tensor {
        if self.mid.composes() {
            return native::halved(x).expect("the sides are even");
        }
        x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
    }

    /// Sets how training computes the residual blocks.
    pub(super) fn set_form(&mut self, form: Form) {
        let ways = self.down.iter_mut().chain(&mut self.up);
        let blocks = ways.flat_map(|stage| &mut stage.blocks);
        for block in blocks.chain([&mut self.mid]) {
            block.set_form(form);
        }
    }

    /// Parameters in creation order, which is the order of the reference's `state_dict`: a class embedding is the last.
    pub fn params(&self) -> Vec<Param> {
        params_of(&self.store)
    }

    /// Moves all tensors to `device`.
    ///
    /// # Errors
    /// Out of memory on `device`.
    pub fn move_to(&mut self, device: Device) -> Result<()> {
        move_params(&self.params(), device)?;
        self.time_embedding.move_to(device);
        Ok(())
    }
}

fn build_blocks(
    path: &Path,
    config: &UNetConfig,
    width: &mut i64,
    widths: &[i64],
) -> Vec<ResidualBlock> {
    widths
        .iter()
        .enumerate()
        .map(|(b, &out)| {
            let block = ResidualBlock::new(&(path / b), *width, out, config);
            *width = out;
            block
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::model::Model;
    use tch::Kind;

    fn parameters(preset: Preset) -> i64 {
        let config = preset.config();
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        net.params().iter().map(|p| p.tensor.numel() as i64).sum()
    }

    #[test]
    fn presets_have_the_sizes_of_the_originals() {
        // 750 rows of time embedding fewer than with T = 1000, which has 390,848.
        assert_eq!(parameters(Preset::Demo), 390_848 - 750 * 32);
        assert_eq!(parameters(Preset::Celebahq128), 25_275_648);
        assert_eq!(parameters(Preset::KerasDdpm), 50_514_176);
    }

    #[test]
    fn initial_weights_follow_the_stated_limits() {
        let config = Preset::Celebahq128.config();
        let params = Model::new(&config.model, config.diffusion.timesteps, 0).params();
        // Largest |w| in Keras's initialisation of this network (50 M variant, same rule).
        for (name, limit) in [
            ("time_embedding.weight", 0.05),
            ("conv_in.weight", 0.071_34),
            ("down.0.0.conv1.weight", 0.026_875),
            ("down.0.0.time_proj.weight", 0.153_1),
            ("conv_out.weight", 0.071_34),
        ] {
            let tensor = &params.iter().find(|p| p.name == name).unwrap().tensor;
            let largest = f64::try_from(tensor.abs().max()).unwrap();
            assert!(
                largest <= limit && largest > 0.98 * limit,
                "{name}: {largest} against {limit}"
            );
        }
    }

    #[test]
    fn every_shape_that_validates_runs() {
        let mut config = Preset::Demo.config();
        config.model.unet_mut().base_width = 8;
        config.model.unet_mut().norm_groups = 2;
        for (height, width, channels, multipliers, blocks, min_pixel) in [
            (16, 32, 3, vec![1, 2], 2, 4),
            (8, 8, 1, vec![1, 1, 2], 1, 4),
            (4, 4, 3, vec![2], 3, 4),
        ] {
            let m = config.model.unet_mut();
            (m.height, m.width, m.channels, m.blocks, m.min_pixel) =
                (height, width, channels, blocks, min_pixel);
            m.multipliers = multipliers;
            for embedding in [TimeEmbedding::Trainable, TimeEmbedding::Sinusoidal] {
                config.model.unet_mut().time_embedding = embedding;
                config.validate().unwrap();
                let net = UNet::new(config.model.unet_mut(), 10, 0);
                let x = Tensor::zeros([2, channels, height, width], (Kind::Float, Device::Cpu));
                let out = net.forward(&x, &Tensor::from_slice(&[0i64, 9]), None, true);
                assert_eq!(out.size(), x.size());
            }
        }
    }
}

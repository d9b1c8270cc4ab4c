//! What a picture costs: arithmetic and memory of one forward pass.

use super::block::ResidualBlock;
use super::unet::UNet;

/// Cost of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations of the convolutions, forward (a multiply-add counts two). A
    /// training step takes about three times as many.
    pub forward_flops: u64,
    /// Values that are kept for the backward pass.
    pub activations: u64,
}

impl Cost {
    pub(super) fn add_conv(&mut self, weight: &tch::Tensor, pixels: i64) {
        self.forward_flops += 2 * weight.numel() as u64 * pixels as u64;
    }

    pub(super) fn add_linear(&mut self, weight: &tch::Tensor, rows: i64) {
        self.add_conv(weight, rows);
    }

    fn add_block(&mut self, block: &ResidualBlock, pixels: i64) {
        let (c_in, c_out) = block.widths();
        for weight in block.convs() {
            self.add_conv(weight, pixels);
        }
        // x + t, and the input and output of each swish, the sum before the norm, the norm.
        self.activations += (pixels * (c_in + 6 * c_out)) as u64;
    }
}

impl UNet {
    /// Cost of one `height` × `width` picture.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        cost.add_conv(&self.conv_in, pixels);
        for stage in &self.down {
            stage.blocks.iter().for_each(|b| cost.add_block(b, pixels));
            if stage.resamples {
                pixels /= 4;
            }
        }
        cost.add_block(&self.mid, pixels);
        for stage in &self.up {
            if stage.resamples {
                pixels *= 4;
            }
            stage.blocks.iter().for_each(|b| cost.add_block(b, pixels));
        }
        cost.add_conv(&self.conv_out, pixels);
        cost
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Preset;
    use crate::model::Model;

    #[test]
    fn the_128_px_network_takes_29_6_gflop_a_picture() {
        let config = Preset::Celebahq128.config();
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let gflop = net.cost(128, 128).forward_flops as f64 / 1e9;
        assert!((gflop - 29.6).abs() < 0.1, "{gflop}");
    }
}

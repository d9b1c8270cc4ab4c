//! Cost of an image: arithmetic and memory of one forward pass.

use super::block::ResidualBlock;
use super::unet::UNet;
use super::{Model, Network};

/// Cost of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations of the forward pass's convolutions and products (a multiply-add counts two). A
    /// training step needs about three times as many.
    pub forward_flops: u64,
    /// Values that the forward pass keeps for the backward pass on CPU; slightly fewer on CUDA, where norms
    /// and dropout have their own kernels. Values kept per image or per channel are not counted.
    pub activations: u64,
    /// Values that the backward pass allocates while nearly everything is still kept: the gradient of the
    /// widest feature map, and what a fused block recomputes.
    pub backward: u64,
}

/// Maps that the backward pass of a fused block holds at once: gradients of the output, of the sum and of both
/// convolutions, and a recomputed swish. A checkpointed block adds the first convolution's output.
const MAPS_OF_FUSED_BACKWARD: i64 = 5;

/// Maps of a checkpointed block that is not fused: recomputed ones and those its backward pass allocates.
const MAPS_OF_PLAIN_BLOCK: i64 = 7;

/// Maps that the backward pass of a composed block holds at once: gradients of the output and of the sum, which are f32
/// and so count twice in bf16, those of both convolutions, and the second one's input. A checkpointed block adds the
/// outputs of its convolutions.
const MAPS_OF_COMPOSED_BACKWARD: i64 = 5;
const MAPS_OF_COMPOSED_BACKWARD_IN_BF16: i64 = 7;

/// Bytes per kept value with bf16: maps between blocks and inputs of unfused norms stay in f32, and weights are kept in
/// bf16 besides. Measured on a CPU over the kinds of networks, within a quarter, like those below.
const BYTES_KEPT_IN_BF16: f64 = 3.1;

/// The same where most kept values are queries, keys and values.
const BYTES_KEPT_IN_BF16_BY_ATTENTION: f64 = 2.6;

/// The same where norms, fused with their swish, keep bf16 inputs.
const BYTES_KEPT_IN_BF16_BY_FUSED_NORMS: f64 = 2.4;

/// The same where only inputs of blocks are kept, which come from norms in f32; values recomputed in the backward pass
/// are mostly bf16.
const BYTES_KEPT_IN_BF16_BY_CHECKPOINTS: f64 = 3.8;

impl Cost {
    pub(super) fn add_conv(&mut self, weight: &tch::Tensor, pixels: i64) {
        self.forward_flops += 2 * weight.numel() as u64 * pixels as u64;
    }

    /// Counts a feature map of this many values that an operation keeps.
    pub(super) fn keep(&mut self, values: i64) {
        self.activations += values as u64;
        self.backward = self.backward.max(values as u64);
    }

    /// Counts `maps` kept feature maps of this many values each.
    pub(super) fn keep_maps(&mut self, maps: i64, values: i64) {
        self.keep(values);
        self.activations += ((maps - 1) * values) as u64;
    }

    pub(super) fn add_linear(&mut self, weight: &tch::Tensor, rows: i64) {
        self.add_conv(weight, rows);
    }

    fn add_block(&mut self, block: &ResidualBlock, pixels: i64) {
        let (c_in, c_out) = block.widths();
        for weight in block.convs() {
            self.add_conv(weight, pixels);
        }
        if block.composes() {
            self.add_composed_block(block, pixels);
            return;
        }
        if block.checkpointed() {
            self.keep(pixels * c_in);
            let maps = match (block.fuses(true), block.drops()) {
                (true, _) => MAPS_OF_FUSED_BACKWARD + 1,
                (false, drops) => MAPS_OF_PLAIN_BLOCK + i64::from(drops),
            };
            let backward = maps * pixels * c_out.max(c_in);
            self.backward = self.backward.max(backward as u64);
            return;
        }
        if block.fuses(true) {
            // The input, the outputs of both convolutions, and the shortcut.
            self.keep(pixels * c_in);
            self.keep_maps(if c_in == c_out { 2 } else { 3 }, pixels * c_out);
            let backward = MAPS_OF_FUSED_BACKWARD * pixels * c_out.max(c_in);
            self.backward = self.backward.max(backward as u64);
            return;
        }
        // x + t for the first convolution; x itself where a shortcut needs it too.
        self.keep_maps(if c_in == c_out { 1 } else { 2 }, pixels * c_in);
        // Input of each swish, input of the second convolution, input of the norm; the mask.
        self.keep_maps(if block.drops() { 5 } else { 4 }, pixels * c_out);
    }

    fn add_composed_block(&mut self, block: &ResidualBlock, pixels: i64) {
        let (c_in, c_out) = block.widths();
        let mut maps = match block.in_bf16() {
            true => MAPS_OF_COMPOSED_BACKWARD_IN_BF16,
            false => MAPS_OF_COMPOSED_BACKWARD,
        };
        // x + t, and the outputs of both convolutions.
        self.keep(pixels * c_in);
        match block.checkpointed() {
            true => maps += 2,
            false => {
                self.keep_maps(2, pixels * c_out);
                if c_in != c_out {
                    // x for the shortcut, and the sum in f32.
                    self.keep(pixels * c_in);
                    self.keep_maps(2, pixels * c_out);
                }
            }
        }
        if block.drops() {
            // A mask has a byte a value.
            self.keep(pixels * c_out / 2);
        }
        let backward = maps * pixels * c_out.max(c_in);
        self.backward = self.backward.max(backward as u64);
    }
}

impl Model {
    /// Average bytes per value kept for the backward pass.
    pub fn bytes_kept_a_value(&self) -> f64 {
        match &self.network {
            _ if !self.bf16 => 4.0,
            network if self.is_on_cuda() => self.bytes_kept_in_bf16_on_cuda(network),
            _ if self.checkpoints => BYTES_KEPT_IN_BF16_BY_CHECKPOINTS,
            Network::Lucidrains(_) => BYTES_KEPT_IN_BF16_BY_ATTENTION,
            Network::UnetAttention(net) if net.fuses() => BYTES_KEPT_IN_BF16_BY_FUSED_NORMS,
            Network::UnetConcat(net) if net.fuses() => BYTES_KEPT_IN_BF16_BY_FUSED_NORMS,
            _ => BYTES_KEPT_IN_BF16,
        }
    }

    /// On CUDA nothing is fused: norms take f32 and give f32, and autograd keeps what they take. Measured on the
    /// simulated device (docs/cuda.md) with networks of several widths, within a tenth.
    fn bytes_kept_in_bf16_on_cuda(&self, network: &Network) -> f64 {
        match network {
            Network::Unet(_) if !self.plain_blocks => 2.0,
            Network::Unet(_) if self.checkpoints => 3.0,
            Network::Unet(_) => 2.8,
            Network::UnetAttention(_) => 3.3,
            Network::Lucidrains(_) => 3.1,
            Network::UnetConcat(_) => 3.6,
            Network::Gau(_) => 2.1,
        }
    }

    fn is_on_cuda(&self) -> bool {
        let params = self.params();
        params.first().is_some_and(|p| p.tensor.device().is_cuda())
    }
}

impl UNet {
    /// Cost of one `height` × `width` image.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        cost.add_conv(&self.conv_in, pixels);
        cost.keep(pixels * self.conv_in.size()[1]);
        let mut width = self.conv_in.size()[0];
        if self.mid.composes() && !self.mid.checkpointed() {
            // The sum in the first block, in bf16.
            cost.keep(pixels * width);
        }
        for stage in &self.down {
            for block in &stage.blocks {
                cost.add_block(block, pixels);
                width = block.widths().1;
            }
            if stage.resamples {
                if !self.mid.composes() {
                    // Pooling keeps its input.
                    cost.keep(pixels * width);
                }
                pixels /= 4;
            }
        }
        cost.add_block(&self.mid, pixels);
        for stage in &self.up {
            if stage.resamples {
                pixels *= 4;
            }
            for block in &stage.blocks {
                cost.add_block(block, pixels);
            }
        }
        cost.add_conv(&self.conv_out, pixels);
        // Inputs of the last norm and of the convolution, which are freed before a composed block takes most.
        if !self.mid.composes() {
            cost.keep_maps(2, pixels * self.conv_out.size()[1]);
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::Model;
    use crate::config::Preset;

    #[test]
    fn the_128_px_network_takes_29_6_gflop_an_image() {
        let config = Preset::Celebahq128.config();
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let gflop = net.cost(128, 128).forward_flops as f64 / 1e9;
        assert!((gflop - 29.6).abs() < 0.1, "{gflop}");
    }
}

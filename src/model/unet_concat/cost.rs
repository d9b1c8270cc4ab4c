//! Cost of an image in the U-Net with concatenated skips.

use super::ConcatUNet;
use super::block::ResidualBlock;
use crate::model::Cost;

fn block(cost: &mut Cost, block: &ResidualBlock, pixels: i64) {
    let (c_in, c_out) = block.widths();
    for weight in block.convs() {
        cost.add_conv(weight, pixels);
    }
    cost.add_linear(block.time_proj(), 1);
    // Inputs of norm, swish (unless fused) and convolution, twice; the first is the previous block's sum or, on the
    // way up, the joined map. The dropout mask.
    let maps = if block.fuses() { 2 } else { 3 };
    cost.keep_maps(maps, pixels * c_in);
    cost.keep_maps(maps + i64::from(block.drops()), pixels * c_out);
}

impl ConcatUNet {
    /// Cost of one `height` × `width` image.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        for weight in [&self.time_embedding.linear_1, &self.time_embedding.linear_2] {
            cost.add_linear(weight, 1);
        }
        cost.add_conv(&self.conv_in, pixels);
        cost.keep(pixels * self.conv_in.size()[1]);
        let mut width = self.conv_in.size()[0];
        for stage in &self.down {
            for b in &stage.blocks {
                block(&mut cost, b, pixels);
                width = b.widths().1;
            }
            if stage.resamples {
                // The pooling keeps its input.
                cost.keep(pixels * width);
                pixels /= 4;
            }
        }
        block(&mut cost, &self.mid, pixels);
        for stage in &self.up {
            stage
                .blocks
                .iter()
                .for_each(|b| block(&mut cost, b, pixels));
            if stage.resamples {
                pixels *= 4;
            }
        }
        cost.add_conv(&self.conv_out, pixels);
        // Inputs of the last norm, swish and convolution.
        let maps = if self.norm_out.fuses() { 2 } else { 3 };
        cost.keep_maps(maps, pixels * self.conv_out.size()[1]);
        cost
    }
}

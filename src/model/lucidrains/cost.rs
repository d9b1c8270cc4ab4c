//! What a picture costs in lucidrains' U-Net.

use super::attention::{Attention, Heads};
use super::blocks::ResidualBlock;
use super::{Level, LucidrainsUNet};
use crate::model::Cost;

fn block(cost: &mut Cost, block: &ResidualBlock, pixels: i64) {
    let mut widths = (0, 0);
    for (i, conv) in block.convs().enumerate() {
        cost.add_conv(&conv.weight, pixels);
        if i == 0 {
            widths = (conv.weight.size()[1], conv.weight.size()[0]);
        }
    }
    cost.add_conv(&block.mlp().weight, 1);
    // The input; of the first half the convolution's output, the norm's two products, the input of
    // the swish and its output; of the second half as many but the last two. Group norms keep two
    // fewer.
    cost.activations += (pixels * (widths.0 + 8 * widths.1)) as u64;
}

fn attention(cost: &mut Cost, attention: &Attention, pixels: i64) {
    let [to_qkv, to_out] = attention.convs();
    for conv in [to_qkv, to_out] {
        cost.add_conv(&conv.weight, pixels);
    }
    let Heads {
        count,
        channels,
        full,
    } = attention.heads();
    let (hidden, width) = (count * channels, to_out.weight.size()[0]);
    // Two products of [D, pixels], with D for each of the others' columns.
    let columns = if full { pixels } else { channels };
    cost.forward_flops += (4 * hidden * columns * pixels) as u64;
    // The norm's input and two products, and the result of the attention; the full one's kernel keeps
    // queries, keys and values, the latter two also without the trained ones, and its output, but no
    // scores; the linear one both softmaxes, scaled queries, values, and a second norm.
    let kept = if full {
        3 * width + 7 * hidden
    } else {
        5 * width + 5 * hidden
    };
    cost.activations += (pixels * kept) as u64;
}

fn level(cost: &mut Cost, level: &Level, pixels: i64) {
    block(cost, &level.block1, pixels);
    block(cost, &level.block2, pixels);
    attention(cost, &level.attention, pixels);
}

impl LucidrainsUNet {
    /// Cost of one `height` × `width` picture; the four trained keys and values of each head are left
    /// out.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        cost.add_conv(&self.init_conv.weight, pixels);
        for linear in self.time_mlp.linears() {
            cost.add_conv(&linear.weight, 1);
        }
        for down in &self.downs {
            level(&mut cost, down, pixels);
            if down.resamples {
                pixels /= 4;
            }
            cost.add_conv(&down.conv.weight, pixels);
        }
        block(&mut cost, &self.mid_block1, pixels);
        attention(&mut cost, &self.mid_attn, pixels);
        block(&mut cost, &self.mid_block2, pixels);
        for up in &self.ups {
            level(&mut cost, up, pixels);
            if up.resamples {
                pixels *= 4;
            }
            cost.add_conv(&up.conv.weight, pixels);
        }
        block(&mut cost, &self.final_res_block, pixels);
        cost.add_conv(&self.final_conv.weight, pixels);
        cost
    }
}

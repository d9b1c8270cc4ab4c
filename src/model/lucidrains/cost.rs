//! Cost of an image in lucidrains' U-Net.

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
    cost.keep(pixels * widths.0);
    let (maps, lengths) = block.maps_of_norms();
    // Also the second convolution's input, and the mask.
    cost.keep_maps(maps + 1 + i64::from(block.drops()), pixels * widths.1);
    cost.activations += (lengths * pixels) as u64;
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
        memories,
    } = attention.heads();
    let (hidden, width) = (count * channels, to_out.weight.size()[0]);
    // Two products of a [D, pixels] matrix, D times per column of the other factor.
    let columns = if full { pixels } else { channels };
    cost.forward_flops += (4 * hidden * columns * pixels) as u64;
    // A fused norm keeps its input; otherwise also the normalised map and two lengths per pixel.
    let (norm, lengths) = if attention.fuses() { (1, 0) } else { (2, 2) };
    // Also its output, the convolution's input.
    cost.keep_maps(norm + 1, pixels * width);
    cost.activations += (lengths * pixels) as u64;
    if full {
        // Queries, as a view of the tensor of all three; keys and values with the trained ones, if any; the result.
        // The kernel keeps no scores.
        cost.keep_maps(if memories { 6 } else { 4 }, pixels * hidden);
    } else {
        // Both softmaxes, scaled queries, values, the result; the second norm.
        cost.keep_maps(5, pixels * hidden);
        cost.keep_maps(norm, pixels * width);
        cost.activations += (lengths * pixels) as u64;
    }
}

fn level(cost: &mut Cost, level: &Level, pixels: i64) {
    block(cost, &level.block1, pixels);
    block(cost, &level.block2, pixels);
    attention(cost, &level.attention, pixels);
}

impl LucidrainsUNet {
    /// Cost of one `height` × `width` image, without the four trained keys and values of each head.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        cost.add_conv(&self.init_conv.weight, pixels);
        cost.keep(pixels * self.init_conv.weight.size()[1]);
        let of_classes = self.classes.iter().flat_map(|mlp| mlp.linears());
        for linear in self.time_mlp.linears().into_iter().chain(of_classes) {
            cost.add_conv(&linear.weight, 1);
        }
        for down in &self.downs {
            level(&mut cost, down, pixels);
            if down.resamples {
                pixels /= 4;
            }
            cost.keep(pixels * down.conv.weight.size()[1]);
            pixels /= down.conv.stride * down.conv.stride;
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
            cost.keep(pixels * up.conv.weight.size()[1]);
        }
        block(&mut cost, &self.final_res_block, pixels);
        cost.add_conv(&self.final_conv.weight, pixels);
        cost.keep(pixels * self.final_conv.weight.size()[1]);
        cost
    }
}

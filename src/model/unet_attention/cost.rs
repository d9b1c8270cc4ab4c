//! Cost of an image in the U-Net with attention.

use super::resample::{Downsample, Upsample};
use super::resnet::{ResnetBlock, Within};
use super::{AttentionUNet, Unit};
use crate::model::Cost;
use crate::model::unet_attention::attention::Attention;

impl Cost {
    fn add_resnet(&mut self, block: &ResnetBlock, pixels: i64) {
        let (convs, time) = block.weights();
        let mut widths = (0, 0);
        for (i, weight) in convs.enumerate() {
            self.add_conv(weight, pixels);
            if i == 0 {
                widths = (weight.size()[1], weight.size()[0]);
            }
        }
        self.add_linear(time, 1);
        let before = match block.resampling() {
            Within::Nothing => pixels,
            Within::Halve => 4 * pixels,
            Within::Double => pixels / 4,
        };
        let [first, second] = block.maps_of_norms();
        // Maps kept by the norm; inputs of the convolution and of pooling, if any.
        self.keep_maps(first, before * widths.0);
        self.keep(pixels * widths.0);
        if block.resampling() == Within::Halve {
            self.keep(before * widths.0);
        }
        // The second convolution's input; the dropout mask.
        self.keep_maps(second + 1 + i64::from(block.drops()), pixels * widths.1);
    }

    fn add_attention(&mut self, attention: &Attention, pixels: i64) {
        let weights = attention.weights();
        for weight in weights {
            self.add_linear(weight, pixels);
        }
        let width = weights[0].size()[0];
        // Scores, and the values weighted by them; the kernel keeps no scores.
        self.forward_flops += (4 * pixels * pixels * width) as u64;
        // The norm's input and output; queries, keys, values and their result.
        self.keep_maps(if attention.normed() { 6 } else { 5 }, pixels * width);
    }

    fn add_unit(&mut self, unit: &Unit, pixels: i64) {
        self.add_resnet(&unit.resnet, pixels);
        if let Some(attention) = &unit.attention {
            self.add_attention(attention, pixels);
        }
    }
}

impl AttentionUNet {
    /// Cost of one `height` × `width` image.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let mut pixels = height * width;
        cost.add_conv(&self.conv_in.weight, pixels);
        cost.keep(pixels * self.conv_in.weight.size()[1]);
        for linear in self.time.linears() {
            cost.add_linear(&linear.weight, 1);
        }
        for level in &self.down {
            level.units.iter().for_each(|u| cost.add_unit(u, pixels));
            let Some(downsample) = &level.downsample else {
                continue;
            };
            pixels /= 4;
            match downsample {
                Downsample::Conv(c) | Downsample::ConvAsymmetric(c) => {
                    cost.add_conv(&c.weight, pixels);
                    cost.keep(4 * pixels * c.weight.size()[1]);
                }
                Downsample::Resnet(block) => cost.add_resnet(block, pixels),
            }
        }
        cost.add_resnet(&self.middle.first, pixels);
        if let Some(attention) = &self.middle.attention {
            cost.add_attention(attention, pixels);
        }
        cost.add_resnet(&self.middle.second, pixels);
        for level in &self.up {
            level.units.iter().for_each(|u| cost.add_unit(u, pixels));
            let Some(upsample) = &level.upsample else {
                continue;
            };
            pixels *= 4;
            match upsample {
                Upsample::Conv(c) => {
                    cost.add_conv(&c.weight, pixels);
                    cost.keep(pixels * c.weight.size()[1]);
                }
                Upsample::Resnet(block) => cost.add_resnet(block, pixels),
            }
        }
        cost.add_conv(&self.conv_out.weight, pixels);
        // Inputs of the last norm, swish and convolution.
        let maps = if self.norm_out.fuses() { 2 } else { 3 };
        cost.keep_maps(maps, pixels * self.conv_out.weight.size()[1]);
        cost
    }
}

//! Names and shapes of the U-Net's parameters, in the order of `UNet2DModel.state_dict()`.
//!
//! Written down from the settings alone, so that a file can be compared with them before a network
//! is built. Our own parameters carry the same names.

use crate::config::{AttentionUNetConfig, Resample, class_rows, input_channels};

/// Every parameter with its shape.
///
/// The order is that of diffusers: in a block attentions come before residual blocks, and the middle
/// comes after the way up.
///
/// # Panics
/// If `attention_down` or `attention_up` is shorter than `widths`, which valid settings never are.
pub(crate) fn parameters(m: &AttentionUNetConfig) -> Vec<(String, Vec<i64>)> {
    let mut list = List { m, found: vec![] };
    let out = m.channels * if m.learned_variance { 2 } else { 1 };
    let inputs = input_channels(m.channels, m.condition_channels);
    list.conv("conv_in", inputs, m.base_width, 3);
    list.linear("time_embedding.linear_1", m.time_channels, m.time_width);
    list.linear("time_embedding.linear_2", m.time_width, m.time_width);
    if let Some(rows) = class_rows(m.classes, m.null_class) {
        list.add("class_embedding.weight", vec![rows, m.time_width]);
    }
    for level in 0..m.widths.len() {
        list.down(level);
    }
    for level in (0..m.widths.len()).rev() {
        list.up(level);
    }
    list.middle();
    let first = m.widths.first().copied().unwrap_or(m.base_width);
    list.norm("conv_norm_out", first);
    list.conv("conv_out", first, out, 3);
    list.found
}

struct List<'a> {
    m: &'a AttentionUNetConfig,
    found: Vec<(String, Vec<i64>)>,
}

impl List<'_> {
    fn add(&mut self, name: impl Into<String>, shape: Vec<i64>) {
        self.found.push((name.into(), shape));
    }

    fn pair(&mut self, name: &str, weight: Vec<i64>) {
        let bias = vec![weight[0]];
        self.add(format!("{name}.weight"), weight);
        self.add(format!("{name}.bias"), bias);
    }

    fn norm(&mut self, name: &str, channels: i64) {
        self.pair(name, vec![channels]);
    }

    fn linear(&mut self, name: &str, from: i64, to: i64) {
        self.pair(name, vec![to, from]);
    }

    fn conv(&mut self, name: &str, from: i64, to: i64, side: i64) {
        self.pair(name, vec![to, from, side, side]);
    }

    fn resnet(&mut self, name: &str, from: i64, to: i64) {
        let time_rows = to * if self.m.scale_shift { 2 } else { 1 };
        self.norm(&format!("{name}.norm1"), from);
        self.conv(&format!("{name}.conv1"), from, to, 3);
        self.linear(
            &format!("{name}.time_emb_proj"),
            self.m.time_width,
            time_rows,
        );
        self.norm(&format!("{name}.norm2"), to);
        self.conv(&format!("{name}.conv2"), to, to, 3);
        if from != to {
            self.conv(&format!("{name}.conv_shortcut"), from, to, 1);
        }
    }

    fn attention(&mut self, name: &str, channels: i64, norm: bool) {
        if norm {
            self.norm(&format!("{name}.group_norm"), channels);
        }
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.linear(&format!("{name}.{part}"), channels, channels);
        }
    }

    fn down(&mut self, level: usize) {
        let m = self.m;
        let (to, block) = (m.widths[level], format!("down_blocks.{level}"));
        if m.attention_down[level] {
            for r in 0..m.blocks {
                self.attention(&format!("{block}.attentions.{r}"), to, true);
            }
        }
        for r in 0..m.blocks {
            let from = if r == 0 { width_above(m, level) } else { to };
            self.resnet(&format!("{block}.resnets.{r}"), from, to);
        }
        if level + 1 < m.widths.len() {
            self.resampler(&format!("{block}.downsamplers.0"), to);
        }
    }

    fn up(&mut self, level: usize) {
        let m = self.m;
        let lowest = m.widths.len() - 1;
        let (to, block) = (m.widths[level], format!("up_blocks.{}", lowest - level));
        if m.attention_up[level] {
            for r in 0..=m.blocks {
                self.attention(&format!("{block}.attentions.{r}"), to, true);
            }
        }
        for r in 0..=m.blocks {
            let from = if r == 0 {
                m.widths[lowest.min(level + 1)]
            } else {
                to
            };
            // The last block of a level gets the skip that entered that level on the way down.
            let skip = if r == m.blocks {
                width_above(m, level)
            } else {
                to
            };
            self.resnet(&format!("{block}.resnets.{r}"), from + skip, to);
        }
        if level > 0 {
            self.resampler(&format!("{block}.upsamplers.0"), to);
        }
    }

    fn middle(&mut self) {
        let m = self.m;
        let width = m.widths.last().copied().unwrap_or(m.base_width);
        if m.mid_attention {
            self.attention("mid_block.attentions.0", width, m.mid_attention_norm);
        }
        for r in 0..2 {
            self.resnet(&format!("mid_block.resnets.{r}"), width, width);
        }
    }

    fn resampler(&mut self, name: &str, width: i64) {
        match self.m.resample {
            Resample::Conv | Resample::ConvAsymmetric => {
                self.conv(&format!("{name}.conv"), width, width, 3);
            }
            Resample::Resnet => self.resnet(name, width, width),
        }
    }
}

/// Channels that enter `level` on the way down.
fn width_above(m: &AttentionUNetConfig, level: usize) -> i64 {
    match level.checked_sub(1) {
        Some(above) => m.widths[above],
        None => m.base_width,
    }
}

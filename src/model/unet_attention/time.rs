//! Embeddings of t and of the class.

use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use super::super::classes::ClassTable;
use super::super::layers::Linear;
use crate::config::{AttentionUNetConfig, class_rows};

/// Sines and cosines of t, then two linear maps; class-conditional networks add a row per class.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    /// `[1, time_channels / 2]` f32.
    frequencies: Tensor,
    cos_first: bool,
    time_scale: f64,
    linear_1: Linear,
    linear_2: Linear,
    classes: Option<ClassTable>,
}

impl TimeEmbedding {
    pub(super) fn new(root: &Path, config: &AttentionUNetConfig) -> TimeEmbedding {
        let path = root / "time_embedding";
        let (channels, width) = (config.time_channels, config.time_width);
        TimeEmbedding {
            frequencies: frequencies(channels / 2, config.freq_shift),
            cos_first: config.cos_first,
            time_scale: config.time_scale,
            linear_1: Linear::new(&(&path / "linear_1"), channels, width, 1.0),
            linear_2: Linear::new(&(&path / "linear_2"), width, width, 1.0),
            classes: class_rows(config.classes, config.null_class)
                .map(|rows| ClassTable::new(root, rows, width)),
        }
    }

    /// Draws the initial rows of the classes, after all other weights.
    pub(super) fn draw_classes(&self) {
        if let Some(classes) = &self.classes {
            classes.normal();
        }
    }

    /// `t`: `[N]` i64; `classes`: `[N]` i64; returns `[N, time_width]`, including the swish that every block
    /// begins with.
    pub(super) fn forward(&self, t: &Tensor, classes: Option<&Tensor>) -> Tensor {
        let mut t = t.to_kind(Kind::Float).unsqueeze(1);
        if self.time_scale != 1.0 {
            t *= self.time_scale;
        }
        let angles = t * &self.frequencies;
        let (first, second) = if self.cos_first {
            (angles.cos(), angles.sin())
        } else {
            (angles.sin(), angles.cos())
        };
        let waves = Tensor::cat(&[first, second], 1);
        let emb = self.linear_2.forward(&self.linear_1.forward(&waves).silu());
        ClassTable::add(self.classes.as_ref(), emb, classes).silu()
    }

    pub(super) fn move_to(&mut self, device: Device) {
        self.frequencies = self.frequencies.to_device(device);
    }

    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.linear_1, &self.linear_2]
    }
}

/// `exp(-ln(10000) k / (half - shift))` for k below `half`, in f32 operation by operation as in PyTorch code:
/// t times the last bit of a frequency is a visible angle.
fn frequencies(half: i64, shift: i64) -> Tensor {
    let k = Tensor::arange(half, (Kind::Float, Device::Cpu));
    let exponents = k * -(10_000f64.ln()) / (half - shift) as f64;
    exponents.exp().unsqueeze(0)
}

//! Downsampling and upsampling between levels.

use tch::Tensor;
use tch::nn::Path;

use super::super::layers::Conv;
use super::resnet::{ResnetBlock, Within, double};
use crate::config::{AttentionUNetConfig, Resample};

/// Halves height and width.
#[derive(Debug)]
pub(super) enum Downsample {
    Conv(Conv),
    /// Padded by one on the right and at the bottom.
    ConvAsymmetric(Conv),
    Resnet(ResnetBlock),
}

impl Downsample {
    pub(super) fn new(path: &Path, width: i64, config: &AttentionUNetConfig) -> Downsample {
        let conv = || Conv::new(&(path / "conv"), width, width, 3, 1.0);
        match config.resample {
            Resample::Conv => Downsample::Conv(conv().halving(1)),
            Resample::ConvAsymmetric => Downsample::ConvAsymmetric(conv().halving(0)),
            Resample::Resnet => Downsample::Resnet(ResnetBlock::new(
                path,
                (width, width, Within::Halve),
                config,
            )),
        }
    }

    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        match self {
            Downsample::Conv(conv) => conv.forward(x),
            Downsample::ConvAsymmetric(conv) => conv.forward(&x.constant_pad_nd([0, 1, 0, 1])),
            Downsample::Resnet(block) => block.forward(x, t_emb, train),
        }
    }
}

/// Doubles height and width.
#[derive(Debug)]
pub(super) enum Upsample {
    Conv(Conv),
    Resnet(ResnetBlock),
}

impl Upsample {
    pub(super) fn new(path: &Path, width: i64, config: &AttentionUNetConfig) -> Upsample {
        match config.resample {
            Resample::Conv | Resample::ConvAsymmetric => {
                Upsample::Conv(Conv::new(&(path / "conv"), width, width, 3, 1.0))
            }
            Resample::Resnet => Upsample::Resnet(ResnetBlock::new(
                path,
                (width, width, Within::Double),
                config,
            )),
        }
    }

    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        match self {
            Upsample::Conv(conv) => conv.forward(&double(x)),
            Upsample::Resnet(block) => block.forward(x, t_emb, train),
        }
    }
}

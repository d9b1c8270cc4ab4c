//! The Inception v3 of FID: the classifier of 2015 whose features all published distances are measured in.
//!
//! Its structure differs from torchvision's `inception_v3` in the pooling of some blocks, and its weights are others:
//! torchvision's give other numbers. Each batch norm is folded into its convolution, in f64, and all maps lie channels
//! last in memory; pooled features are within 1e-5 of pytorch-fid's, relative to the largest.
//!
//! Source: `InceptionV3` of pytorch-fid, <https://github.com/mseitzer/pytorch-fid>.

mod layout;
mod read;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use self::layout::{DIMS, Layer};
use super::resize::to_inception;
use super::{Dialect, FeatureExtractor, Features, in_parts};
use crate::native::KeptFilter;

/// Height and width of the images that the network takes.
const SIZE: i64 = 299;
/// Images computed at a time: the largest maps, before and after a convolution, take 8 MB an image.
const MOST_IMAGES: i64 = 32;

/// The network with its weights.
#[derive(Debug)]
pub struct Inception {
    layers: HashMap<String, Conv>,
    /// `[1008, 2048]`. The Inception score is defined without the bias.
    fc: Tensor,
    dialect: Dialect,
    device: Device,
}

/// A convolution into which its batch norm is folded.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
    /// The filter as oneDNN likes it for the first maps that came; none on other devices, and without oneDNN.
    kept: OnceCell<Option<KeptFilter>>,
}

impl Inception {
    /// Reads the weights from pytorch-fid's or torch-fidelity's `.pth`, from NVIDIA's TorchScript file (its tensors
    /// alone; its program is not run), or from a safetensors file with the names of the first.
    ///
    /// # Errors
    /// A file that cannot be read, tensors that are missing, too many, of other shapes, or not finite.
    pub fn open(path: &Path, dialect: Dialect, device: Device) -> Result<Self> {
        let weights = read::read(path)?;
        let mut layers = HashMap::new();
        for (layer, weight, bias) in weights.layers {
            let (name, conv) = placed(layer, &weight, &bias, device)?;
            layers.insert(name, conv);
        }
        let fc = weights.fc.f_to_kind(Kind::Float)?.f_to_device(device)?;
        Ok(Self {
            layers,
            fc,
            dialect,
            device,
        })
    }

    /// The maps after a convolution and its ReLU.
    fn conv(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        self.layers[name].relu(x)
    }

    /// Convolutions of a block, one after the other.
    fn chain(&self, x: &Tensor, block: &str, names: &[&str]) -> Result<Tensor> {
        let mut x = x.shallow_clone();
        for name in names {
            x = self.conv(&x, &format!("{block}.{name}"))?;
        }
        Ok(x)
    }

    /// From images `[N, 3, 299, 299]` to the maps of the last block, `[N, 2048, 8, 8]`.
    fn maps(&self, x: &Tensor) -> Result<Tensor> {
        let x = channels_last(x)?;
        let x = self.conv(&x, "Conv2d_1a_3x3")?;
        let x = self.conv(&x, "Conv2d_2a_3x3")?;
        let x = self.conv(&x, "Conv2d_2b_3x3")?;
        let x = max_pool(&x, 2, 0)?;
        let x = self.conv(&x, "Conv2d_3b_1x1")?;
        let x = self.conv(&x, "Conv2d_4a_3x3")?;
        let mut x = max_pool(&x, 2, 0)?;
        for block in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
            x = self.block_a(&x, block)?;
        }
        x = self.block_b(&x, "Mixed_6a")?;
        for block in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
            x = self.block_c(&x, block)?;
        }
        x = self.block_d(&x, "Mixed_7a")?;
        x = self.block_e(&x, "Mixed_7b", &average_pool(&x)?)?;
        // The network of 2015 takes the largest here, unlike anywhere else.
        self.block_e(&x, "Mixed_7c", &max_pool(&x, 1, 1)?)
    }

    fn block_a(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        joined(&[
            self.chain(x, block, &["branch1x1"])?,
            self.chain(x, block, &["branch5x5_1", "branch5x5_2"])?,
            self.chain(
                x,
                block,
                &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
            )?,
            self.chain(&average_pool(x)?, block, &["branch_pool"])?,
        ])
    }

    fn block_b(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        joined(&[
            self.chain(x, block, &["branch3x3"])?,
            self.chain(
                x,
                block,
                &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
            )?,
            max_pool(x, 2, 0)?,
        ])
    }

    fn block_c(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        joined(&[
            self.chain(x, block, &["branch1x1"])?,
            self.chain(x, block, &["branch7x7_1", "branch7x7_2", "branch7x7_3"])?,
            self.chain(
                x,
                block,
                &[
                    "branch7x7dbl_1",
                    "branch7x7dbl_2",
                    "branch7x7dbl_3",
                    "branch7x7dbl_4",
                    "branch7x7dbl_5",
                ],
            )?,
            self.chain(&average_pool(x)?, block, &["branch_pool"])?,
        ])
    }

    fn block_d(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        joined(&[
            self.chain(x, block, &["branch3x3_1", "branch3x3_2"])?,
            self.chain(
                x,
                block,
                &[
                    "branch7x7x3_1",
                    "branch7x7x3_2",
                    "branch7x7x3_3",
                    "branch7x7x3_4",
                ],
            )?,
            max_pool(x, 2, 0)?,
        ])
    }

    /// `around` is x with each pixel's neighbourhood in its place.
    fn block_e(&self, x: &Tensor, block: &str, around: &Tensor) -> Result<Tensor> {
        let once = self.chain(x, block, &["branch3x3_1"])?;
        let twice = self.chain(x, block, &["branch3x3dbl_1", "branch3x3dbl_2"])?;
        joined(&[
            self.chain(x, block, &["branch1x1"])?,
            self.chain(&once, block, &["branch3x3_2a"])?,
            self.chain(&once, block, &["branch3x3_2b"])?,
            self.chain(&twice, block, &["branch3x3dbl_3a"])?,
            self.chain(&twice, block, &["branch3x3dbl_3b"])?,
            self.chain(around, block, &["branch_pool"])?,
        ])
    }
}

impl Conv {
    /// The maps after the convolution and its ReLU.
    fn relu(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(filter) = self.kept.get_or_init(|| self.keep(x)) {
            return Ok(filter.conv_relu(x)?);
        }
        let stride = [self.stride; 2];
        let bias = Some(&self.bias);
        let mut y = x.f_conv2d(&self.weight, bias, stride, self.padding, [1, 1], 1)?;
        Ok(y.f_relu_()?)
    }

    fn keep(&self, x: &Tensor) -> Option<KeptFilter> {
        let (n, c, h, w) = x.size4().ok()?;
        let maps = [n, c, h, w];
        KeptFilter::new(&self.weight, &self.bias, self.stride, self.padding, maps).ok()
    }
}

impl FeatureExtractor for Inception {
    fn name(&self) -> String {
        format!("Inception v3 of FID, dialect {}", self.dialect)
    }

    fn dims(&self) -> usize {
        DIMS as usize
    }

    /// Features after the last pooling, 2048, and logits without their bias, 1008.
    fn features(&self, images: &Tensor) -> Result<Features> {
        in_parts(images, MOST_IMAGES, |some| {
            let x = to_inception(some, SIZE, self.dialect, self.device)?;
            let pooled = (self.maps(&x)?).f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
            let logits = pooled.f_matmul(&self.fc.f_tr()?)?;
            Ok(Features {
                pooled,
                logits: Some(logits),
            })
        })
    }
}

fn placed(layer: Layer, weight: &Tensor, bias: &Tensor, device: Device) -> Result<(String, Conv)> {
    let weight = weight.f_to_kind(Kind::Float)?.f_to_device(device)?;
    let conv = Conv {
        weight: channels_last(&weight)?,
        bias: bias.f_to_kind(Kind::Float)?.f_to_device(device)?,
        stride: layer.stride,
        padding: layer.padding,
        kept: OnceCell::new(),
    };
    Ok((layer.name, conv))
}

/// The same tensor with the channels of a pixel side by side in memory.
fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?
        .f_contiguous()?
        .f_permute([0, 3, 1, 2])?)
}

fn joined(branches: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_cat(branches, 1)?)
}

/// The largest of 3 by 3 pixels.
fn max_pool(x: &Tensor, stride: i64, padding: i64) -> Result<Tensor> {
    Ok(x.f_max_pool2d([3, 3], [stride; 2], [padding; 2], [1, 1], false)?)
}

/// The mean of 3 by 3 pixels, at the border of those inside.
fn average_pool(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)?)
}

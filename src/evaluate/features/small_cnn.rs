//! A small classifier of one's own images, as `scripts/evaluate/train_classifier.py` trains it in minutes.
//!
//! # File
//!
//! A safetensors file. Its metadata have the key `small-cnn` with JSON of [`Shape`]:
//! `{"channels": 1, "size": 28, "widths": [16, 48, 128], "classes": 10}`. Its tensors, f32:
//!
//! - `blocks.I.weight` `[widths[I], widths[I - 1] or channels, 3, 3]` and `blocks.I.bias` `[widths[I]]`, I from 0
//! - `head.weight` `[classes, last width]` and `head.bias` `[classes]`
//!
//! The network: the image in [-1, 1], resized to `size` by `size` (bilinear, antialiased) if it is not; each block a
//! 3×3 convolution of padding 1, ReLU, and, except the last, the largest of 2×2 pixels (an odd last row or column is
//! left out); the mean over all pixels, which are the features; and the linear head, whose outputs are the logits.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::resize::antialiased;
use super::{FeatureExtractor, Features, check_images, in_parts, weights};
use crate::formats::weights_file::WeightsFile;

/// Key of the metadata that describes the network.
pub const METADATA_KEY: &str = "small-cnn";
const MOST_IMAGES: i64 = 256;
const MAX_BLOCKS: usize = 8;
const MAX_WIDTH: i64 = 4096;

/// What a file says about its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Channels of an image: 1 or 3.
    pub channels: i64,
    /// Height and width of an image.
    pub size: i64,
    /// Channels after each block.
    pub widths: Vec<i64>,
    /// Classes of the head.
    pub classes: i64,
}

/// The network with its weights.
#[derive(Debug)]
pub struct SmallCnn {
    shape: Shape,
    /// Weight and bias of each block.
    blocks: Vec<[Tensor; 2]>,
    /// Weight and bias.
    head: [Tensor; 2],
    device: Device,
}

impl SmallCnn {
    /// Reads a file that the script wrote.
    ///
    /// # Errors
    /// A file that cannot be read, without a description of its network, or with other tensors than that asks for.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        let file = WeightsFile::open(path)?;
        let text = file.metadata.get(METADATA_KEY).with_context(|| {
            format!(
                "{} is a {} without metadata of the name {METADATA_KEY}; wanted a file of \
                 scripts/evaluate/train_classifier.py",
                path.display(),
                file.container
            )
        })?;
        let cannot = || format!("cannot use the network that {} describes", path.display());
        let shape: Shape = serde_json::from_str(text).with_context(cannot)?;
        shape.check().with_context(cannot)?;
        let mut tensors = weights::read(&file, "a small-cnn", &shape.tensors(), |_| false)?;
        let mut pair = |layer: String| -> Result<[Tensor; 2]> {
            let mut part = |part: &str| -> Result<Tensor> {
                let tensor = tensors.remove(&format!("{layer}.{part}"));
                let tensor = tensor.with_context(|| format!("{layer} was not read"))?;
                Ok(tensor.f_to_kind(Kind::Float)?.f_to_device(device)?)
            };
            Ok([part("weight")?, part("bias")?])
        };
        Ok(Self {
            blocks: (0..shape.widths.len())
                .map(|index| pair(format!("blocks.{index}")))
                .collect::<Result<_>>()?,
            head: pair("head".to_owned())?,
            shape,
            device,
        })
    }
}

impl Shape {
    fn check(&self) -> Result<()> {
        let blocks = self.widths.len();
        ensure!(
            matches!(self.channels, 1 | 3),
            "channels is {}, wanted 1 or 3",
            self.channels
        );
        ensure!(
            (1..=MAX_BLOCKS).contains(&blocks),
            "widths has {blocks} entries, wanted 1 to {MAX_BLOCKS}"
        );
        let least = 1 << (blocks - 1);
        ensure!(
            (least..=1024).contains(&self.size),
            "size is {}, wanted {least} to 1024 for {blocks} blocks",
            self.size
        );
        for (name, number) in (self.widths.iter())
            .map(|width| ("a width", *width))
            .chain([("classes", self.classes)])
        {
            ensure!(
                (1..=MAX_WIDTH).contains(&number),
                "{name} is {number}, wanted 1 to {MAX_WIDTH}"
            );
        }
        Ok(())
    }

    /// Names and shapes.
    fn tensors(&self) -> Vec<(String, Vec<Vec<i64>>)> {
        let mut inputs = self.channels;
        let mut tensors = Vec::new();
        for (index, &width) in self.widths.iter().enumerate() {
            let weight = vec![width, inputs, 3, 3];
            tensors.push((format!("blocks.{index}.weight"), vec![weight]));
            tensors.push((format!("blocks.{index}.bias"), vec![vec![width]]));
            inputs = width;
        }
        tensors.push(("head.weight".to_owned(), vec![vec![self.classes, inputs]]));
        tensors.push(("head.bias".to_owned(), vec![vec![self.classes]]));
        tensors
    }

    fn dims(&self) -> i64 {
        self.widths.last().copied().unwrap_or(0)
    }
}

/// One channel of grey images that were read in three.
///
/// # Errors
/// Images in colour.
fn grey(images: &Tensor) -> Result<Tensor> {
    let first = images.narrow(1, 0, 1);
    ensure!(
        i64::try_from(images.f_eq_tensor(&first)?.f_all()?)? == 1,
        "this small-cnn was trained on grey images, and these are in colour"
    );
    Ok(first)
}

impl FeatureExtractor for SmallCnn {
    fn name(&self) -> String {
        let Shape {
            channels,
            size,
            widths,
            classes,
        } = &self.shape;
        format!(
            "small-cnn, {channels}x{size}x{size}, widths {widths:?}, {classes} classes (comparable only with the same \
             file)"
        )
    }

    fn dims(&self) -> usize {
        self.shape.dims() as usize
    }

    /// The mean of the last block's maps, and the logits with their bias.
    fn features(&self, images: &Tensor) -> Result<Features> {
        check_images(images)?;
        let wanted = self.shape.channels;
        let images = &match wanted < images.size()[1] {
            true => grey(images)?,
            false => images.shallow_clone(),
        };
        in_parts(images, MOST_IMAGES, |some| {
            let x = antialiased(some, self.shape.size, self.device)?;
            let mut x = x.f_expand([-1, wanted, -1, -1], false)?;
            for (index, [weight, bias]) in self.blocks.iter().enumerate() {
                if index > 0 {
                    x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
                }
                x = x
                    .f_conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1)?
                    .f_relu()?;
            }
            let pooled = x.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
            let [weight, bias] = &self.head;
            let logits = pooled.f_linear(weight, Some(bias))?;
            Ok(Features {
                pooled,
                logits: Some(logits),
            })
        })
    }
}

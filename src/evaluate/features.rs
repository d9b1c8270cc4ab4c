//! What a network sees in an image: vectors that distances are measured in.
//!
//! The measures of two sets of images work on any [`FeatureExtractor`]; [`open`] makes those that are built in:
//!
//! - [`inception`]: the Inception v3 of FID, whose weights are a file that people hold. Only its numbers can be
//!   compared with published ones.
//! - [`small_cnn`]: a small classifier of one's own images, trained in minutes by
//!   `scripts/evaluate/train_classifier.py`
//! - [`random`]: a fixed pyramid of random convolutions, which needs no file

pub mod inception;
pub mod random;
mod resize;
pub mod small_cnn;
#[cfg(test)]
mod tests;
mod weights;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tch::{Device, Kind, Tensor};

use self::inception::Inception;
use self::random::RandomPyramid;
use self::small_cnn::SmallCnn;

/// A network that turns images into vectors.
///
/// Its numbers depend on nothing but the image: not on the others of its batch (but for rounding, as libtorch chooses
/// its kernels by the batch's size), and not on earlier calls.
pub trait FeatureExtractor {
    /// Network and dialect, for people: distances are comparable only where this is the same, so it is printed with
    /// every one of them.
    fn name(&self) -> String;

    /// Length of a feature vector.
    fn dims(&self) -> usize;

    /// The features of images.
    ///
    /// # Shapes
    /// - `images`: `[N, C, H, W]` u8, N at least 1, C 1 (grey, the same as RGB with three equal channels) or 3 (RGB),
    ///   of any size, on any device
    ///
    /// # Errors
    /// Other shapes and kinds, and what the network refuses; features that are not finite; errors of libtorch.
    fn features(&self, images: &Tensor) -> Result<Features>;
}

/// What a network sees in N images, on the network's device.
#[derive(Debug)]
pub struct Features {
    /// `[N, dims]` f32.
    pub pooled: Tensor,
    /// `[N, classes]` f32, for a network that classifies.
    pub logits: Option<Tensor>,
}

/// The networks that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// The Inception v3 of FID: 2048 features; needs its weights.
    Inception,
    /// A small classifier trained on one's own images; needs its weights.
    SmallCnn,
    /// Random convolutions of a fixed seed: 256 features; needs no file.
    Random,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inception => "inception",
            Self::SmallCnn => "small-cnn",
            Self::Random => "random",
        })
    }
}

/// How an image is brought to the Inception network: two habits, whose features differ by about half a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// pytorch-fid: bilinear between centres of pixels, then `2 x / 255 - 1`.
    PytorchFid,
    /// TensorFlow 1, as torch-fidelity and EDM: bilinear between corners of pixels, then `(x - 128) / 128`.
    Tf,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PytorchFid => "pytorch-fid",
            Self::Tf => "tf",
        })
    }
}

/// Makes a built-in network on a device. The dialect is Inception's alone; the other networks have one way each.
///
/// # Errors
/// Weights that are missing, or given to a network without any; a file that cannot be read or holds another network's
/// weights, which the message compares with those wanted; weights that are NaN or infinite.
pub fn open(
    network: Network,
    weights: Option<&Path>,
    dialect: Dialect,
    device: Device,
) -> Result<Box<dyn FeatureExtractor>> {
    Ok(match (network, weights) {
        (Network::Inception, Some(path)) => Box::new(Inception::open(path, dialect, device)?),
        (Network::SmallCnn, Some(path)) => Box::new(SmallCnn::open(path, device)?),
        (Network::Random, None) => Box::new(RandomPyramid::new(device)?),
        (Network::Inception, None) => bail!(
            "the network inception needs a file of its weights: pytorch-fid's or torch-fidelity's \
             ...inception-2015-12-05-6726825d.pth, or NVIDIA's inception-2015-12-05.pt; the network random needs none"
        ),
        (Network::SmallCnn, None) => bail!(
            "the network small-cnn needs a file of its weights, which scripts/evaluate/train_classifier.py writes; the \
             network random needs none"
        ),
        (Network::Random, Some(path)) => bail!(
            "the network random has no weights to read from {}; leave the file out, or choose another network",
            path.display()
        ),
    })
}

/// Refuses what are not images.
fn check_images(images: &Tensor) -> Result<()> {
    let shape = images.size();
    let valid = matches!(shape[..], [n, 1 | 3, h, w] if n.min(h).min(w) > 0);
    ensure!(
        valid && images.kind() == Kind::Uint8,
        "features are of images [N, C, H, W] in u8, with 1 or 3 channels and none of the sizes 0; \
         found {:?} of {shape:?}",
        images.kind()
    );
    Ok(())
}

/// Runs a network on some images at a time, without gradients, and joins what it sees.
fn in_parts(
    images: &Tensor,
    most: i64,
    see: impl Fn(&Tensor) -> Result<Features>,
) -> Result<Features> {
    check_images(images)?;
    let _no_grad = tch::no_grad_guard();
    let count = images.size()[0];
    let (mut pooled, mut logits) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(most as usize) {
        let seen = see(&images.f_narrow(0, start, most.min(count - start))?)?;
        pooled.push(seen.pooled);
        logits.extend(seen.logits);
    }
    let pooled = Tensor::f_cat(&pooled, 0)?;
    ensure!(
        pooled.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0,
        "the network's features are NaN or infinite: its weights are not those of a trained network"
    );
    let logits = match logits[..] {
        [] => None,
        _ => Some(Tensor::f_cat(&logits, 0)?),
    };
    Ok(Features { pooled, logits })
}

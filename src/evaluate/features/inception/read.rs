//! Reads the network's weights from the files that people hold, and folds its batch norms.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use tch::Tensor;

use super::layout::{CLASSES, DIMS, Layer, layers};
use crate::evaluate::features::weights;
use crate::formats::weights_file::WeightsFile;
use crate::text::{plural, printable, shown};

/// Added to a variance before its root is taken.
const NORM_EPS: f64 = 1e-3;
const NETWORK: &str = "FID's Inception v3";

/// Weights in f64, each convolution with what its batch norm does to it.
pub(super) struct Weights {
    /// Convolution, weight, bias.
    pub(super) layers: Vec<(Layer, Tensor, Tensor)>,
    /// `[1008, 2048]`.
    pub(super) fc: Tensor,
}

/// How a file names the tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// pytorch-fid's and torch-fidelity's.
    Torch,
    /// NVIDIA's TorchScript file: its batch norms have no scale.
    Script,
}

pub(super) fn read(path: &Path) -> Result<Weights> {
    let file = WeightsFile::open_modules(path)?;
    let names = names(&file)?;
    let mut wanted = Vec::new();
    for layer in layers() {
        let [height, width] = layer.kernel;
        let shape = vec![layer.outputs, layer.inputs, height, width];
        wanted.push((names.weight(&layer), vec![shape]));
        let norm = names.norm(&layer).into_iter().flatten();
        wanted.extend(norm.map(|name| (name, vec![vec![layer.outputs]])));
    }
    let [fc, fc_bias] = names.linear();
    // A file made from TensorFlow's may hold the matrix as that does.
    let matrix = vec![vec![CLASSES, DIMS], vec![DIMS, CLASSES]];
    wanted.push((fc.to_owned(), matrix));
    wanted.push((fc_bias.to_owned(), vec![vec![CLASSES]]));
    refuse_torchvision(&file)?;
    let unused = |name: &str| name.ends_with(".bn.num_batches_tracked");
    let mut tensors = weights::read(&file, NETWORK, &wanted, unused)?;
    let layers = layers()
        .into_iter()
        .map(|layer| folded(layer, names, &mut tensors, &file))
        .collect::<Result<_>>()?;
    let fc = take(&mut tensors, fc)?;
    let fc = if fc.size() == [CLASSES, DIMS] {
        fc
    } else {
        fc.f_tr()?.f_contiguous()?
    };
    Ok(Weights { layers, fc })
}

/// The naming that a file follows, by its first convolution.
fn names(file: &WeightsFile) -> Result<Names> {
    let slots = file.all_slots();
    for names in [Names::Torch, Names::Script] {
        let first = names.weight(&layers()[0]);
        if slots.iter().any(|(name, _)| *name == first) {
            return Ok(names);
        }
    }
    let found: Vec<String> = (slots.iter())
        .map(|(name, _)| printable(&shown(name)))
        .collect();
    let seen = match &found[..] {
        [] => "no tensors".to_owned(),
        some => format!(
            "{}: {}",
            plural(some.len() as u64, "tensor"),
            weights::listed(some)
        ),
    };
    bail!(
        "{} does not hold the weights of {NETWORK}: found {seen}; wanted Conv2d_1a_3x3.conv.weight and so on, as in \
         pytorch-fid's and torch-fidelity's ...inception-2015-12-05-6726825d.pth, or layers.conv.weight and so on, as \
         in NVIDIA's inception-2015-12-05.pt",
        file.path.display()
    )
}

/// torchvision's own network has the same names.
fn refuse_torchvision(file: &WeightsFile) -> Result<()> {
    let is_torchvision = file.all_slots().iter().any(|(name, slot)| {
        name.starts_with("AuxLogits.") || (name == "fc.weight" && slot.shape == [1000, DIMS])
    });
    ensure!(
        !is_torchvision,
        "{} holds torchvision's Inception v3 (1,000 classes), wanted {NETWORK} ({CLASSES} classes): distances in \
         torchvision's features cannot be compared with any other; get pytorch-fid's \
         pt_inception-2015-12-05-6726825d.pth",
        file.path.display()
    );
    Ok(())
}

impl Names {
    fn weight(self, layer: &Layer) -> String {
        match self {
            Self::Torch => format!("{}.conv.weight", layer.name),
            Self::Script => format!("layers.{}.weight", layer.script_name),
        }
    }

    /// Scale, shift, mean and variance of a layer's batch norm.
    fn norm(self, layer: &Layer) -> [Option<String>; 4] {
        let (name, script) = (&layer.name, &layer.script_name);
        match self {
            Self::Torch => ["weight", "bias", "running_mean", "running_var"]
                .map(|part| Some(format!("{name}.bn.{part}"))),
            Self::Script => [None, Some("beta"), Some("mean"), Some("var")]
                .map(|part| Some(format!("layers.{script}.{}", part?))),
        }
    }

    /// Weight and bias of the linear layer.
    fn linear(self) -> [&'static str; 2] {
        match self {
            Self::Torch => ["fc.weight", "fc.bias"],
            Self::Script => ["output.weight", "output.bias"],
        }
    }
}

/// `scale (conv(x) - mean) / sqrt(var + eps) + shift` as one convolution with a bias.
fn folded(
    layer: Layer,
    names: Names,
    tensors: &mut BTreeMap<String, Tensor>,
    file: &WeightsFile,
) -> Result<(Layer, Tensor, Tensor)> {
    let weight = take(tensors, &names.weight(&layer))?;
    let [scale, shift, mean, var] = names.norm(&layer);
    let mut part = |name: &Option<String>| match name {
        Some(name) => take(tensors, name).map(Some),
        None => Ok(None),
    };
    let (scale, shift, mean, variance) = (part(&scale)?, part(&shift)?, part(&mean)?, part(&var)?);
    let (Some(shift), Some(mean), Some(variance)) = (shift, mean, variance) else {
        bail!("a batch norm without its statistics; this is a bug");
    };
    let least = variance.f_min()?.f_double_value(&[])?;
    ensure!(
        least >= 0.0,
        "{}: tensor {} holds a variance of {least:e}, wanted 0 or more",
        weights::cannot_use(file),
        var.unwrap_or_default()
    );
    let mut factor = variance.f_add_scalar(NORM_EPS)?.f_rsqrt()?;
    if let Some(scale) = scale {
        factor = factor.f_mul(&scale)?;
    }
    let weight = weight.f_mul(&factor.f_view([-1, 1, 1, 1])?)?;
    let bias = shift.f_sub(&mean.f_mul(&factor)?)?;
    Ok((layer, weight, bias))
}

fn take(tensors: &mut BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
    tensors
        .remove(name)
        .ok_or_else(|| anyhow::anyhow!("{name} was not read; this is a bug"))
}

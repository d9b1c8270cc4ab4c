//! A trained network from a file of ours or of others, ready to use.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

use crate::checkpoint::{Checkpoint, Meta, Which, fingerprint, is_ours, read_checkpoint, resolve};
use crate::device::Precision;
use crate::interop::{Foreign, Report, Request};
use crate::model::{Model, load_state_dict};
use crate::native::KeptFilters;

/// A network with the weights and settings of a file.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) meta: Meta,
    /// What was found in a file of another program.
    pub(crate) report: Option<Report>,
    net: Model,
    kept: KeptFilters,
}

impl Network {
    /// Loads weights onto `device`: averaged ones unless the request asks for raw ones. The file is a
    /// checkpoint, a weights file or a run folder of ours, or anything that can be imported; what was
    /// found in the latter is in the report.
    pub(crate) fn load(argument: &Path, request: &Request, device: Device) -> Result<Network> {
        let mut network = match ours(argument)? {
            Some(path) => Network::from_ours(&path, request)?,
            None => Network::from_foreign(argument, request)?,
        };
        network.net.move_to(device)?;
        Ok(network)
    }

    fn from_ours(path: &Path, request: &Request) -> Result<Network> {
        let cannot = || format!("cannot use {}", path.display());
        let checkpoint = read_checkpoint(path)?;
        refuse_oversized(&checkpoint).with_context(cannot)?;
        let config = &checkpoint.meta.config;
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let weights = checkpoint.weights(which(request)).with_context(cannot)?;
        load_state_dict(&net.params(), &weights).with_context(cannot)?;
        Ok(Network {
            meta: checkpoint.meta,
            net,
            report: None,
            kept: KeptFilters::new(),
        })
    }

    fn from_foreign(path: &Path, request: &Request) -> Result<Network> {
        let foreign = Foreign::examine(path, request)?;
        Ok(Network {
            meta: foreign.meta()?,
            net: foreign.network()?,
            report: Some(foreign.report),
            kept: KeptFilters::new(),
        })
    }

    /// The bare network's output, without dropout and gradients. `classes` is `[N]` i64, for networks
    /// that are told a class.
    pub(crate) fn predict(&self, x_t: &Tensor, t: &Tensor, classes: Option<&Tensor>) -> Tensor {
        self.net.predict(x_t, t, classes, &self.kept)
    }

    /// Computes in this precision from here on.
    pub(crate) fn set_precision(&mut self, precision: Precision) {
        self.net.set_precision(precision);
    }

    /// The network's identity.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(crate) fn fingerprint(&self) -> Result<blake3::Hash> {
        fingerprint(&self.meta.config, &self.state_dict())
    }

    /// The weights under our keys, in the network's order.
    pub(crate) fn state_dict(&self) -> Vec<(String, Tensor)> {
        self.net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect()
    }
}

/// Which weights a request is for.
pub(crate) fn which(request: &Request) -> Which {
    if request.raw { Which::Raw } else { Which::Ema }
}

/// The file of ours that an argument means, or `None` for anything else that is there.
pub(crate) fn ours(argument: &Path) -> Result<Option<std::path::PathBuf>> {
    if argument.is_dir() && !argument.join("config.toml").exists() {
        return Ok(None);
    }
    let path = resolve(argument)?;
    Ok(is_ours(&path)?.then_some(path))
}

/// Settings in a file may describe a network far larger than its tensors; that is found before memory
/// is taken for it.
fn refuse_oversized(checkpoint: &Checkpoint) -> Result<()> {
    let held: i128 = checkpoint
        .tensors
        .iter()
        .map(|(_, t)| t.numel() as i128)
        .sum();
    let least = checkpoint.meta.config.model.least_parameters();
    ensure!(
        least <= held,
        "its settings describe a network of more than {least} values, and it holds {held}"
    );
    Ok(())
}

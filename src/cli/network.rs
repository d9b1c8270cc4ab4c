//! A trained network from a file, ready to use.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

use crate::checkpoint::{Checkpoint, Meta, Which, read_checkpoint, resolve};
use crate::model::{UNet, load_state_dict};

/// A network with the weights and settings of a file.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) meta: Meta,
    net: UNet,
}

impl Network {
    /// Loads `which` weights from a checkpoint, weights file or run folder onto `device`.
    pub(super) fn load(argument: &Path, which: Which, device: Device) -> Result<Network> {
        let path = resolve(argument)?;
        let checkpoint = read_checkpoint(&path)?;
        let config = &checkpoint.meta.config;
        refuse_oversized(&checkpoint).with_context(|| format!("cannot use {}", path.display()))?;
        let mut net = UNet::new(&config.model, config.diffusion.timesteps, 0);
        let cannot = || format!("cannot use {}", path.display());
        let weights = checkpoint.weights(which).with_context(cannot)?;
        load_state_dict(&net.params(), &weights).with_context(cannot)?;
        net.move_to(device)?;
        Ok(Network {
            meta: checkpoint.meta,
            net,
        })
    }

    /// The bare network's output, without dropout and gradients.
    pub(super) fn predict(&self, x_t: &Tensor, t: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        self.net.forward(x_t, t, false)
    }

    /// The weights under their `state_dict` keys, in the network's order.
    pub(super) fn state_dict(&self) -> Vec<(String, Tensor)> {
        self.net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect()
    }
}

/// Settings in a file may describe a network far larger than its tensors; that is found before memory
/// is taken for it.
fn refuse_oversized(checkpoint: &Checkpoint) -> Result<()> {
    let config = &checkpoint.meta.config;
    let held: i128 = checkpoint
        .tensors
        .iter()
        .map(|(_, t)| t.numel() as i128)
        .sum();
    let widest = config
        .model
        .levels()
        .iter()
        .map(|l| l.width)
        .max()
        .unwrap_or(0);
    let (widest, blocks) = (i128::from(widest), i128::from(config.model.blocks));
    // The second convolution of every block of the widest level.
    let least = widest * widest * 9 * blocks;
    ensure!(
        least <= held,
        "its settings describe a network of more than {least} values, and it holds {held}"
    );
    Ok(())
}

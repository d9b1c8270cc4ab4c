//! Keras's names: `kind_number/kind_number/weight`, numbers counted through a whole process.

use anyhow::{Context, Result};

use crate::checkpoint::import::keys::Keys;

/// The number of the first layer of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint::import) struct FirstNumbers {
    pub(super) embedding: u64,
    conv2d: u64,
    dense: u64,
    group_norm: u64,
}

impl Default for FirstNumbers {
    /// Those of the first network in a process.
    fn default() -> FirstNumbers {
        FirstNumbers {
            embedding: 1,
            conv2d: 1,
            dense: 1,
            group_norm: 1,
        }
    }
}

impl FirstNumbers {
    /// Reads them off the names.
    ///
    /// # Errors
    /// A kind of layer is missing.
    pub(in crate::checkpoint::import) fn of(keys: &Keys) -> Result<FirstNumbers> {
        Ok(FirstNumbers {
            embedding: first_of(keys, "embedding")?,
            conv2d: first_of(keys, "conv2d")?,
            dense: first_of(keys, "dense")?,
            group_norm: first_of(keys, "group_norm")?,
        })
    }

    /// The kernel of the n-th convolution, from 0.
    pub(super) fn conv2d(&self, n: usize) -> String {
        path("conv2d", self.conv2d.saturating_add(n as u64), "kernel:0")
    }

    /// The kernel of the n-th dense layer, from 0.
    pub(super) fn dense(&self, n: usize) -> String {
        path("dense", self.dense.saturating_add(n as u64), "kernel:0")
    }

    /// A weight of the n-th norm, from 0.
    pub(super) fn group_norm(&self, n: usize, weight: &str) -> String {
        path(
            "group_norm",
            self.group_norm.saturating_add(n as u64),
            weight,
        )
    }
}

/// The path of a weight in the file.
pub(super) fn path(kind: &str, number: u64, weight: &str) -> String {
    format!("{kind}_{number}/{kind}_{number}/{weight}")
}

/// The lowest number among the layers of a kind.
pub(super) fn first_of(keys: &Keys, kind: &str) -> Result<u64> {
    let numbers = keys.iter().filter_map(|(key, _)| number(key, kind));
    numbers
        .min()
        .with_context(|| format!("no layer {kind}_1, {kind}_2, …, which ddpm.py's network has"))
}

/// How many layers of a kind have this weight.
pub(super) fn count(keys: &Keys, kind: &str, weight: &str) -> usize {
    let of_kind = |key: &str| number(key, kind).is_some() && key.ends_with(weight);
    keys.iter().filter(|(key, _)| of_kind(key)).count()
}

/// The number in `kind_number/…`.
fn number(key: &str, kind: &str) -> Option<u64> {
    let (layer, _) = key.split_once('/')?;
    layer.strip_prefix(kind)?.strip_prefix('_')?.parse().ok()
}

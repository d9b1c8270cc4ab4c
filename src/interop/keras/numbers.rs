//! Keras's names: `kind_number/kind_number/weight`, numbers counted through a whole process.

use anyhow::{Context, Result};

use crate::interop::keys::Keys;

/// The number of a network's first layer of each kind.
#[derive(Debug, Clone)]
pub(super) struct FirstNumbers(Vec<(&'static str, u64)>);

impl FirstNumbers {
    /// Reads them from the names; without keys all are 1, as in the first network of a process.
    ///
    /// # Errors
    /// A kind of layer is missing.
    pub(super) fn of(keys: &Keys, kinds: &[&'static str]) -> Result<FirstNumbers> {
        let number = |&kind: &&'static str| match keys.is_empty() {
            true => Ok((kind, 1)),
            false => Ok((kind, first_of(keys, kind)?)),
        };
        Ok(FirstNumbers(
            kinds.iter().map(number).collect::<Result<_>>()?,
        ))
    }

    /// The n-th layer of a kind, from 0, as in `conv2d_4`.
    pub(super) fn layer(&self, kind: &str, n: usize) -> String {
        let first = self.0.iter().find(|(known, _)| *known == kind);
        let number = first.map_or(1, |(_, number)| *number);
        format!("{kind}_{}", number.saturating_add(n as u64))
    }

    /// A weight of the n-th layer of a kind.
    pub(super) fn weight(&self, kind: &str, n: usize, weight: &str) -> String {
        let layer = self.layer(kind, n);
        format!("{layer}/{layer}/{weight}")
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
        .with_context(|| format!("no layer {kind}_1, {kind}_2, …, which this network needs"))
}

/// Number of layers of a kind that have this weight.
pub(super) fn count(keys: &Keys, kind: &str, weight: &str) -> usize {
    let of_kind = |key: &str| number(key, kind).is_some() && key.ends_with(weight);
    keys.iter().filter(|(key, _)| of_kind(key)).count()
}

/// The number in `kind_number/…`, of a layer or of a layer inside one: `outer_1/outer_1/kind_4/…`.
fn number(key: &str, kind: &str) -> Option<u64> {
    let of = |part: &str| part.strip_prefix(kind)?.strip_prefix('_')?.parse().ok();
    let (layers, _) = key.rsplit_once('/')?;
    layers.split('/').find_map(of)
}

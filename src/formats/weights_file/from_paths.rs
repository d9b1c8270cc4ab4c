//! The tree of an HDF5 file: one group of all datasets, by path, as `conv2d_1/conv2d_1/kernel:0`.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use super::node::{Node, Place, TensorSlot};
use crate::formats::host_tensor::Dtype;

/// Lists datasets in the file's order.
///
/// # Errors
/// If a path is there twice, or a dataset is larger than any tensor.
pub(super) fn tree(datasets: &[(String, Dtype, Vec<usize>)]) -> Result<Node> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for (path, dtype, shape) in datasets {
        ensure!(seen.insert(path), "dataset {path:?} is there twice");
        let shape: Option<Vec<i64>> = shape.iter().map(|&n| i64::try_from(n).ok()).collect();
        let slot = TensorSlot {
            dtype: *dtype,
            shape: shape.with_context(|| format!("dataset {path:?} is too large"))?,
            part: 0,
            place: Place::Dataset(path.clone()),
        };
        entries.push((path.clone(), Node::Tensor(slot)));
    }
    Ok(Node::Group(entries))
}

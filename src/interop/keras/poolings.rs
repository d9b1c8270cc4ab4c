//! The places where a network halves the image; kernels do not show how its blocks are split into levels.

use anyhow::{Result, ensure};

/// The places where the network halves the image, from the file's list of layers.
pub(super) struct Poolings {
    /// Number of norms before each pooling; at least one pooling.
    pub(super) after: Vec<i64>,
}

impl Poolings {
    /// Finds the poolings in a list of layers in the model's order; `None` without any.
    pub(super) fn of(layers: &[String]) -> Option<Poolings> {
        let mut norms = 0;
        let mut after = Vec::new();
        for layer in layers {
            norms += i64::from(layer.starts_with("group_norm"));
            if layer.starts_with("average_pooling2d") {
                after.push(norms);
            }
        }
        (!after.is_empty()).then_some(Poolings { after })
    }

    /// Norms before each pooling since the one before.
    ///
    /// # Errors
    /// The numbers differ.
    pub(super) fn even(&self) -> Result<i64> {
        let first = self.after[0];
        let even = (1..).zip(&self.after).all(|(n, &after)| after == n * first);
        ensure!(
            even,
            "it pools after the norms {:?}, want the same number of blocks before each pooling",
            self.after
        );
        Ok(first)
    }
}

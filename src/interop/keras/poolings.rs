//! Where a network halves its images: kernels do not tell how its blocks are split into levels.

use anyhow::{Result, ensure};

/// Where the network halves its images, from the file's list of layers.
pub(super) struct Poolings {
    /// How many norms come before each pooling; at least one pooling.
    pub(super) after: Vec<i64>,
}

impl Poolings {
    /// Finds them in a list of layers in the model's order; none if there are none in it.
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
    /// They are not the same at each.
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

//! The embedding of the class.

use tch::nn::Path;
use tch::{Tensor, no_grad};

use super::layers::Linear;
use crate::config::LucidrainsConfig;

/// A trained row a class, and one for "no class", then two linear maps.
///
/// Source: `denoising-diffusion-pytorch` 2.3.4, `Unet` of `classifier_free_guidance.py`
#[derive(Debug)]
pub(super) struct ClassMlp {
    rows: Tensor,
    null: Option<Tensor>,
    linear1: Linear,
    linear2: Linear,
}

impl ClassMlp {
    /// For embeddings of length `dim`.
    pub(super) fn new(root: &Path, config: &LucidrainsConfig, classes: i64) -> ClassMlp {
        let dim = config.base_width;
        let drawn = |path: &Path, name: &str, shape: &[i64]| {
            let tensor = path.zeros(name, shape);
            let _ = no_grad(|| tensor.shallow_clone().normal_(0.0, 1.0));
            tensor
        };
        let path = &(root / "classes_mlp");
        ClassMlp {
            rows: drawn(&(root / "classes_emb"), "weight", &[classes, dim]),
            null: (config.null_class).then(|| drawn(root, "null_classes_emb", &[dim])),
            linear1: Linear::new(&(path / 0), dim, 4 * dim),
            linear2: Linear::new(&(path / 2), 4 * dim, 4 * dim),
        }
    }

    /// `[N]` i64, where the number after the last class is "no class", to `[N, 4 dim]`, including the swish that each
    /// block begins with.
    pub(super) fn forward(&self, classes: &Tensor) -> Tensor {
        let rows = match &self.null {
            Some(null) => Tensor::cat(&[&self.rows, &null.unsqueeze(0)], 0),
            None => self.rows.shallow_clone(),
        };
        let embedding = Tensor::embedding(&rows, classes, -1, false, false);
        let hidden = self.linear1.forward(&embedding).gelu("none");
        self.linear2.forward(&hidden).silu()
    }

    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.linear1, &self.linear2]
    }
}

//! The embedding of an image's class, which is added to that of t.

use tch::nn::Path;
use tch::{Tensor, no_grad};

/// The key of [`ClassTable`].
pub(super) const CLASS_TABLE: &str = "class_embedding.weight";

/// True for the tensors that only a network with classes has.
pub(super) fn embeds_classes(name: &str) -> bool {
    const LUCIDRAINS: [&str; 2] = ["classes_emb.", "classes_mlp."];
    name == CLASS_TABLE
        || name == "null_classes_emb"
        || LUCIDRAINS.iter().any(|part| name.starts_with(part))
}

/// A trained row for each class.
#[derive(Debug)]
pub(super) struct ClassTable(Tensor);

impl ClassTable {
    /// The tensor `class_embedding.weight` with `rows` rows, zeros until they are drawn. Rows are drawn after all other
    /// weights, so that those are the same with and without classes.
    pub(super) fn new(root: &Path, rows: i64, width: i64) -> ClassTable {
        ClassTable((root / "class_embedding").zeros("weight", &[rows, width]))
    }

    /// Draws rows uniform in ±0.05, as Keras does and as the trained rows of t are drawn.
    pub(super) fn uniform(self) -> ClassTable {
        let _ = no_grad(|| self.0.shallow_clone().uniform_(-0.05, 0.05));
        self
    }

    /// Draws rows from N(0, 1), as PyTorch does.
    pub(super) fn normal(&self) {
        let _ = no_grad(|| self.0.shallow_clone().normal_(0.0, 1.0));
    }

    /// Adds the rows of `classes`, `[N]` i64, to `t_emb`, `[N, width]`.
    ///
    /// # Panics
    /// Unless there are both a table and classes, or neither.
    pub(super) fn add(
        table: Option<&ClassTable>,
        t_emb: Tensor,
        classes: Option<&Tensor>,
    ) -> Tensor {
        match pair(table, classes) {
            Some((table, classes)) => {
                t_emb + Tensor::embedding(&table.0, classes, -1, false, false)
            }
            None => t_emb,
        }
    }
}

/// What embeds classes, and the classes.
///
/// # Panics
/// If there is only one of them.
pub(super) fn pair<'a, T>(
    embedding: Option<&'a T>,
    classes: Option<&'a Tensor>,
) -> Option<(&'a T, &'a Tensor)> {
    assert_eq!(
        embedding.is_some(),
        classes.is_some(),
        "classes are for class-conditional networks, and only for them"
    );
    embedding.zip(classes)
}

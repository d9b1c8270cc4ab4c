//! The keys and shapes of a `state_dict`: all that recognising a family needs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Keys with shapes, without values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Keys {
    shapes: BTreeMap<String, Vec<i64>>,
}

impl FromIterator<(String, Vec<i64>)> for Keys {
    fn from_iter<I: IntoIterator<Item = (String, Vec<i64>)>>(items: I) -> Keys {
        Keys {
            shapes: items.into_iter().collect(),
        }
    }
}

impl Keys {
    /// True if `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.shapes.contains_key(key)
    }

    /// True if any key starts with `prefix`.
    pub fn any(&self, prefix: &str) -> bool {
        let from = self.shapes.range(prefix.to_owned()..);
        from.take(1).any(|(key, _)| key.starts_with(prefix))
    }

    /// The shape at `key`, which must have `dims` dimensions.
    ///
    /// # Errors
    /// A missing key, or another number of dimensions.
    pub fn shape(&self, key: &str, dims: usize) -> Result<&[i64]> {
        let shape = self
            .shapes
            .get(key)
            .with_context(|| format!("no tensor {key}"))?;
        ensure!(
            shape.len() == dims,
            "tensor {key} is {shape:?}, want {dims} dimensions"
        );
        Ok(shape)
    }

    /// Number of `name(0)`, `name(1)`, … that are a key or the beginning of one, without a gap.
    pub fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.shapes.len())
            .take_while(|&i| self.any(&name(i)))
            .count()
    }

    /// All keys with their shapes, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.shapes.iter().map(|(k, s)| (k.as_str(), s.as_slice()))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// True without any keys.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// The keys below `prefix`, without it.
    pub fn below(&self, prefix: &str) -> Keys {
        self.iter()
            .filter_map(|(k, s)| Some((k.strip_prefix(prefix)?.to_owned(), s.to_vec())))
            .collect()
    }
}

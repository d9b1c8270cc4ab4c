//! The tree of keys in a file of weights.

use std::sync::Arc;

use crate::formats::host_tensor::Dtype;
use crate::formats::pickle::TensorRef;
use crate::text::shown as name;

/// Most keys that an error message lists.
const MAX_LISTED: usize = 12;
/// Longest part of a key or text that a message shows, in characters.
const MAX_SHOWN: usize = 60;

/// One value of a file of weights.
#[derive(Debug, Clone)]
pub enum Node {
    /// Named values, in the file's order, each name once. A list that holds tensors or groups is
    /// one too, with the keys "0", "1", ...
    Group(Vec<(String, Node)>),
    /// A tensor, its data still in the file.
    Tensor(TensorSlot),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// An object of a Python class, which is not looked into, by the name of its class: `collections.Counter`. Safe to
    /// print.
    Object(String),
    /// Anything else, human-readable: `None`, `list of 3`.
    Other(String),
}

/// A tensor that a file holds; [`super::WeightsFile::tensor`] reads it.
#[derive(Debug, Clone)]
pub struct TensorSlot {
    /// Element type.
    pub dtype: Dtype,
    /// Length of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<i64>,
    /// Index of its file among the open files.
    pub(super) part: usize,
    pub(super) place: Place,
}

/// Place of a tensor in its file.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Index among the mapped tensors.
    Mapped(usize),
    /// A view of a storage.
    Pickled(Arc<TensorRef>),
    /// Path of an HDF5 dataset.
    Dataset(String),
}

impl TensorSlot {
    /// Bytes its elements take, or the largest number if they are more.
    pub fn bytes(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        (self.shape.iter()).fold(self.dtype.size_bytes(), |bytes, &dim| {
            bytes.saturating_mul(usize::try_from(dim).unwrap_or(usize::MAX))
        })
    }
}

impl Node {
    /// The values of a group, in the file's order; none for anything else.
    pub fn entries(&self) -> &[(String, Node)] {
        match self {
            Self::Group(entries) => entries,
            _ => &[],
        }
    }

    /// The value at a key of a group.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|(name, _)| name == key);
        entry.map(|(_, value)| value)
    }

    /// The value below nested groups, their keys joined by dots; this value for an empty path.
    ///
    /// Keys may hold dots themselves, as those of a `state_dict` do: `model.conv.weight` is found
    /// in `{"model": {"conv.weight": ...}}` and in `{"model.conv.weight": ...}`.
    pub fn at(&self, path: &str) -> Option<&Node> {
        if path.is_empty() {
            return Some(self);
        }
        self.entries()
            .iter()
            .find_map(|(key, value)| match path.strip_prefix(key.as_str())? {
                "" => Some(value),
                rest => value.at(rest.strip_prefix('.').filter(|rest| !rest.is_empty())?),
            })
    }

    /// The tensors of a group without anything else, with their names; none for an empty group.
    pub fn slots(&self) -> Option<Vec<(&str, &TensorSlot)>> {
        let Self::Group(entries) = self else {
            return None;
        };
        entries
            .iter()
            .map(|(name, value)| match value {
                Self::Tensor(slot) => Some((name.as_str(), slot)),
                _ => None,
            })
            .collect()
    }

    /// The first `most` objects of Python classes at or below this value: the keys that lead to each, joined by dots,
    /// and its class.
    pub fn objects(&self, most: usize) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.list_objects("", most, &mut found);
        found
    }

    /// Calls `each` with every tensor at or below this value and the keys that lead to it, until that returns false.
    pub(super) fn each_tensor(
        &self,
        path: &str,
        each: &mut dyn FnMut(&str, &TensorSlot) -> bool,
    ) -> bool {
        match self {
            Self::Tensor(slot) => each(path, slot),
            Self::Group(entries) => {
                let dot = if path.is_empty() { "" } else { "." };
                entries.iter().all(|(key, value)| match value {
                    Self::Tensor(_) | Self::Group(_) => {
                        value.each_tensor(&name(&format!("{path}{dot}{}", name(key))), each)
                    }
                    _ => true,
                })
            }
            _ => true,
        }
    }

    /// All tensors at or below this value, with the keys that lead to each, joined by dots.
    pub(super) fn collect_slots<'n>(
        &'n self,
        path: &str,
        slots: &mut Vec<(String, &'n TensorSlot)>,
    ) {
        match self {
            Self::Tensor(slot) => slots.push((path.to_owned(), slot)),
            Self::Group(entries) => {
                let dot = if path.is_empty() { "" } else { "." };
                for (key, value) in entries {
                    // A path is made only where it is needed: the file chose the lengths of its keys.
                    if matches!(value, Self::Tensor(_) | Self::Group(_)) {
                        value.collect_slots(&name(&format!("{path}{dot}{}", name(key))), slots);
                    }
                }
            }
            _ => {}
        }
    }

    fn list_objects(&self, path: &str, most: usize, found: &mut Vec<(String, String)>) {
        match self {
            Self::Object(class) if found.len() < most => {
                found.push((path.to_owned(), class.clone()))
            }
            Self::Group(entries) => {
                for (key, value) in entries {
                    // A path is made only where it is needed: the file chose the lengths of its keys.
                    if found.len() < most && matches!(value, Self::Object(_) | Self::Group(_)) {
                        let dot = if path.is_empty() { "" } else { "." };
                        value.list_objects(
                            &name(&format!("{path}{dot}{}", name(key))),
                            most,
                            found,
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// A short human-readable description: `tensor float32 [64, 3, 3, 3]`, `group of 130`, `int 5`.
    pub fn kind(&self) -> String {
        match self {
            Self::Group(entries) => format!("group of {}", entries.len()),
            Self::Tensor(slot) => format!("tensor {} {:?}", slot.dtype, slot.shape),
            Self::Int(value) => format!("int {value}"),
            Self::Float(value) => format!("float {value:?}"),
            Self::Bool(value) => format!("bool {value}"),
            Self::Text(text) => format!("text {}", shown(text)),
            Self::Object(class) => format!("object {class}"),
            Self::Other(kind) => kind.clone(),
        }
    }
}

/// A group's first keys and the kinds of their values, or the kind of anything else.
pub(super) fn group_text(node: &Node) -> String {
    let Node::Group(entries) = node else {
        return node.kind();
    };
    let mut parts: Vec<String> = (entries.iter().take(MAX_LISTED))
        .map(|(key, value)| format!("{}: {}", shown(key), value.kind()))
        .collect();
    if entries.len() > MAX_LISTED {
        parts.push(format!("and {} more", entries.len() - MAX_LISTED));
    }
    format!("{{{}}}", parts.join(", "))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

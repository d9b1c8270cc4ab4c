//! The tree of a PyTorch file: dicts become groups, and unsupported values are kept by their kind.
//!
//! A pickle shares objects, and the tree cannot: a long text at a million places would be copied
//! a million times. So the bytes that names, texts and shapes take are counted.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::node::{Node, Place, TensorSlot};
use crate::formats::pickle::{TensorRef, Value};

/// Most bytes of names, texts and shapes in a tree; a pickle without sharing is at most 16 MiB.
const MAX_TEXT_BYTES: usize = 64 << 20;
/// Torch's versions of a model's modules, unused here.
const METADATA_KEY: &str = "_metadata";

/// The tree that a pickle's value stands for.
///
/// # Errors
/// If sharing makes it much larger than the pickle.
pub(super) fn tree(root: &Value) -> Result<Node> {
    let mut left = MAX_TEXT_BYTES;
    node(root, &mut left)
}

fn node(value: &Value, left: &mut usize) -> Result<Node> {
    Ok(match value {
        Value::Dict(items) => match group_keys(items) {
            Some(keys) => group(keys, items, left)?,
            None => Node::Other(format!("{} without distinct text keys", value.kind())),
        },
        Value::List(items) | Value::Tuple(items) => list(value, items, left)?,
        Value::Tensor(tensor) => Node::Tensor(slot(tensor, left)?),
        Value::Int(value) => Node::Int(*value),
        Value::Float(value) => Node::Float(*value),
        Value::Bool(value) => Node::Bool(*value),
        Value::Str(text) => {
            charge(left, text.len())?;
            Node::Text(text.to_string())
        }
        Value::Opaque(class) => {
            let class = class.to_string();
            charge(left, class.len())?;
            Node::Object(class)
        }
        Value::None | Value::Bytes(_) => Node::Other(value.kind()),
    })
}

/// A dict's keys as they stand in a group: text, and integers written out. None if two of them
/// would be the same or one is something else.
fn group_keys(items: &[(Value, Value)]) -> Option<Vec<Key<'_>>> {
    let keys: Vec<Key> = items
        .iter()
        .map(|(key, _)| match key {
            Value::Str(text) => Some(Key::Text(text)),
            Value::Int(number) => Some(Key::Number(number.to_string())),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let distinct: HashSet<&str> = keys.iter().map(Key::text).collect();
    (distinct.len() == keys.len()).then_some(keys)
}

enum Key<'a> {
    Text(&'a str),
    Number(String),
}

impl Key<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Number(text) => text,
        }
    }
}

fn group(keys: Vec<Key>, items: &[(Value, Value)], left: &mut usize) -> Result<Node> {
    let mut entries = Vec::new();
    for (key, (_, value)) in keys.iter().zip(items) {
        if key.text() == METADATA_KEY {
            continue;
        }
        charge(left, key.text().len())?;
        entries.push((key.text().to_owned(), node(value, left)?));
    }
    Ok(Node::Group(entries))
}

/// A group, if there is anything in the list to look up.
fn list(value: &Value, items: &[Value], left: &mut usize) -> Result<Node> {
    let mut entries = Vec::new();
    for (index, item) in items.iter().enumerate() {
        entries.push((index.to_string(), node(item, left)?));
    }
    let holds_more =
        |node: &Node| matches!(node, Node::Tensor(_) | Node::Group(_) | Node::Object(_));
    if entries.iter().any(|(_, node)| holds_more(node)) {
        return Ok(Node::Group(entries));
    }
    Ok(Node::Other(value.kind()))
}

fn slot(tensor: &Arc<TensorRef>, left: &mut usize) -> Result<TensorSlot> {
    charge(left, tensor.shape.len() * size_of::<i64>())?;
    Ok(TensorSlot {
        dtype: tensor.storage.dtype,
        // Every number of a pickle fits i64.
        shape: tensor.shape.iter().map(|&dim| dim as i64).collect(),
        part: 0,
        place: Place::Pickled(Arc::clone(tensor)),
    })
}

fn charge(left: &mut usize, bytes: usize) -> Result<()> {
    ensure!(
        bytes <= *left,
        "its names and texts take more than {MAX_TEXT_BYTES} bytes, which no checkpoint needs; \
         save the weights alone"
    );
    *left -= bytes;
    Ok(())
}

//! The tree that a pickle stands for, and how it is made of the objects on the arena.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::globals::storage_class;
use super::machine::{Budget, Node};
use super::{MAX_DEPTH, PickleError, Result};
use crate::formats::host_tensor::Dtype;
use crate::text::shown;

/// A storage as the pickle names it: where a tensor's bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageRef {
    /// Name of the storage in the file.
    pub key: Arc<str>,
    /// Element type.
    pub dtype: Dtype,
    /// Elements in the storage.
    pub numel: usize,
}

/// A tensor as the pickle describes it: a view of a storage. Nothing here has been held against the
/// storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// The storage it looks at.
    pub storage: StorageRef,
    /// First element, counted in elements.
    pub offset: usize,
    /// Length of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// Step along each dimension, in elements.
    pub strides: Vec<usize>,
}

/// What a pickle holds: a tree. An object that the pickle shares stands at each of its places.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; one of more than 64 bits is refused.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A list.
    List(Vec<Value>),
    /// A tuple or a `torch.Size`.
    Tuple(Vec<Value>),
    /// A dict or an `OrderedDict`, in the file's order; a string or integer key stands once.
    Dict(Vec<(Value, Value)>),
    /// A tensor or a parameter, its data still in the file.
    Tensor(Arc<TensorRef>),
    /// Something that is allowed and of no use here: a class or a bare storage, by name.
    Opaque(&'static str),
}

impl Value {
    /// The value at a string key of a dict.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(items) = self else { return None };
        items
            .iter()
            .find(|(name, _)| matches!(name, Self::Str(name) if **name == *key))
            .map(|(_, value)| value)
    }

    /// A short description for people: `tensor float32 [64, 3, 3, 3]`, `dict of 130`, `int 5`.
    pub fn kind(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Bool(value) => format!("bool {value}"),
            Self::Int(value) => format!("int {value}"),
            Self::Float(value) => format!("float {value:?}"),
            Self::Str(text) if text.chars().count() > 40 => {
                format!("str {:?}...", text.chars().take(37).collect::<String>())
            }
            Self::Str(text) => format!("str {text:?}"),
            Self::Bytes(bytes) => format!("bytes of {}", bytes.len()),
            Self::List(items) => format!("list of {}", items.len()),
            Self::Tuple(items) => format!("tuple of {}", items.len()),
            Self::Dict(items) => format!("dict of {}", items.len()),
            Self::Tensor(tensor) => {
                format!("tensor {} {:?}", tensor.storage.dtype, tensor.shape)
            }
            Self::Opaque(name) => (*name).to_owned(),
        }
    }
}

/// Copies the arena's objects into a tree, within `MAX_VALUES` and `MAX_DEPTH`.
pub(super) struct TreeBuilder<'a> {
    nodes: &'a [Node],
    budget: Budget,
    /// Text keys of dicts: for each text the first node that holds it.
    texts: HashMap<&'a str, usize>,
    /// For each node that is a text key, what `texts` says: a long key that thousands of dicts share
    /// is hashed once.
    first_of: HashMap<usize, usize>,
}

/// A dict's key, as far as duplicates are looked for.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    /// The first node that holds this text.
    Text(usize),
    Int(i64),
}

impl<'a> TreeBuilder<'a> {
    pub(super) fn new(nodes: &'a [Node]) -> Self {
        Self {
            nodes,
            budget: Budget::default(),
            texts: HashMap::new(),
            first_of: HashMap::new(),
        }
    }

    pub(super) fn value(&mut self, node: usize, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(PickleError::TooDeep { limit: MAX_DEPTH });
        }
        let nodes = self.nodes;
        Ok(match &nodes[node] {
            Node::Leaf(value) => value.clone(),
            Node::List(items) => Value::List(self.items(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.items(items, depth)?),
            Node::Dict(pairs) => Value::Dict(self.pairs(pairs, depth)?),
            Node::Storage(storage) => Value::Opaque(storage_class(storage.dtype)),
            Node::Global(global) => Value::Opaque(global.name()),
        })
    }

    fn items(&mut self, items: &[usize], depth: usize) -> Result<Vec<Value>> {
        self.budget.charge(items.len())?;
        items
            .iter()
            .map(|&item| self.value(item, depth + 1))
            .collect()
    }

    fn pairs(&mut self, pairs: &[(usize, usize)], depth: usize) -> Result<Vec<(Value, Value)>> {
        self.budget.charge(pairs.len().saturating_mul(2))?;
        let mut seen = HashSet::new();
        for &(key, _) in pairs {
            if self.key(key).is_some_and(|key| !seen.insert(key)) {
                let key = match &self.nodes[key] {
                    Node::Leaf(Value::Str(text)) => format!("{:?}", shown(text)),
                    Node::Leaf(Value::Int(value)) => value.to_string(),
                    _ => continue,
                };
                return Err(PickleError::DuplicateKey { key });
            }
        }
        pairs
            .iter()
            .map(|&(key, value)| Ok((self.value(key, depth + 1)?, self.value(value, depth + 1)?)))
            .collect()
    }

    fn key(&mut self, node: usize) -> Option<Key> {
        match &self.nodes[node] {
            Node::Leaf(Value::Int(value)) => Some(Key::Int(*value)),
            Node::Leaf(Value::Str(text)) => {
                let texts = &mut self.texts;
                let first = self.first_of.entry(node);
                let first = first.or_insert_with(|| *texts.entry(text).or_insert(node));
                Some(Key::Text(*first))
            }
            _ => None,
        }
    }
}

//! Makes the tree of a pickle from the objects on the arena.

use std::collections::{HashMap, HashSet};

use super::error::{PickleError, Result};
use super::globals::Global;
use super::machine::{Node, ValuesLeft};
use super::value::Value;
use crate::text::shown;

/// Deepest nesting of the tree; an optimizer's state nests five deep.
pub(super) const MAX_DEPTH: usize = 100;

/// Copies the arena's objects into a tree, within `MAX_VALUES` and `MAX_DEPTH`.
pub(super) struct TreeBuilder<'a> {
    nodes: &'a [Node],
    left: ValuesLeft,
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
            left: ValuesLeft::default(),
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
            Node::Storage(storage) => Value::Opaque(Global::Storage(storage.dtype).name()),
            Node::Global(global) => Value::Opaque(global.name()),
            Node::Object(object) => match object.attributes {
                _ if !object.pairs.is_empty() => Value::Dict(self.pairs(&object.pairs, depth)?),
                Some(attributes) => self.value(attributes, depth + 1)?,
                None => Value::Opaque(object.class.clone()),
            },
        })
    }

    fn items(&mut self, items: &[usize], depth: usize) -> Result<Vec<Value>> {
        self.left.charge(items.len())?;
        items
            .iter()
            .map(|&item| self.value(item, depth + 1))
            .collect()
    }

    fn pairs(&mut self, pairs: &[(usize, usize)], depth: usize) -> Result<Vec<(Value, Value)>> {
        self.left.charge(pairs.len().saturating_mul(2))?;
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

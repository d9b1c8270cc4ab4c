//! A restricted reader of Python pickles: plain containers, numbers, strings and torch tensors; every
//! other object is no more than the name of its class.
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it import and call
//! anything. This one executes the instructions that `torch.save` writes and seven functions (`Global`).
//! Calling any other function, or making an object of any class, runs nothing: it leaves a name in the
//! object's place, so that the weights beside an optimizer's or scheduler's objects can be read. Work and
//! memory stay in proportion to the bytes read: objects live in a flat arena, where sharing costs an index,
//! and the returned tree is limited in size and depth.
//!
//! Source: the comments of CPython's `Lib/pickletools.py`, <https://github.com/python/cpython>.

mod error;
mod globals;
mod input;
mod machine;
mod objects;
mod tensors;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

pub use error::PickleError;
use error::Result;
pub(super) use globals::storage_class;
use input::Input;
pub(super) use input::MAX_PICKLE_BYTES;
use machine::{Machine, ValuesLeft};
use tree::TreeBuilder;
pub use value::{PyName, StorageRef, TensorRef, Value};

/// A pickle's value, and the storages its tensors look at, by key.
#[derive(Debug)]
pub(super) struct Pickled {
    pub(super) root: Value,
    pub(super) storages: BTreeMap<Arc<str>, StorageRef>,
}

/// Reads the pickle that `bytes` start with: the contents of a torch file besides its tensors' data.
///
/// # Errors
/// On a pickle that is damaged, too long or too deep, and on instructions that `torch.save` never writes.
pub fn from_bytes(mut bytes: &[u8]) -> Result<Value> {
    Ok(unpickle(&mut bytes)?.root)
}

/// What is made of an object of a class that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objects {
    /// The name of its class.
    Names,
    /// A dict of its attributes, if it has any that are named by text: the modules of a TorchScript archive, which are
    /// nothing but names, tensors and plain data. Else the name of its class.
    Attributes,
}

/// Reads one pickle and leaves `reader` after its last byte.
///
/// # Errors
/// On a pickle that is damaged, too long or too deep, and on instructions that `torch.save` never writes.
pub(super) fn unpickle(reader: &mut dyn Read) -> Result<Pickled> {
    unpickle_as(reader, Objects::Names)
}

/// [`unpickle`], with the choice of what is made of objects. Nothing is run in either case.
///
/// # Errors
/// Those of [`unpickle`].
pub(super) fn unpickle_as(reader: &mut dyn Read, objects: Objects) -> Result<Pickled> {
    let mut machine = Machine {
        input: Input { reader, at: 0 },
        left: ValuesLeft::default(),
        objects,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: BTreeMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    let mut tree = TreeBuilder::new(&machine.nodes);
    Ok(Pickled {
        root: tree.value(root, 0)?,
        storages: machine.storages,
    })
}

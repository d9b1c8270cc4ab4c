//! Storages and tensors: views of bytes that stay in the file.

use std::sync::Arc;

use super::error::Result;
use super::globals::{Global, is_tensor_class};
use super::input::MAX_NAME_BYTES;
use super::machine::{Machine, Node};
use super::value::{StorageRef, TensorRef, Value};

/// Number of values that a tensor without dimensions counts as: it takes the memory of several, and a few
/// bytes of pickle make one.
const TENSOR_COST: usize = 4;

impl Machine<'_> {
    /// `('storage', class, key, location, numel)`, and a `None` more in files from before torch
    /// 1.6, which also have `('module', class, source file, source)` for the class of a network.
    pub(super) fn storage(&mut self) -> Result<()> {
        let wanted = "('storage', class, key, location, numel) as a persistent id";
        let args = self.pop()?;
        let args = self.short_tuple_at(args, wanted)?;
        if let [kind, class, _, _] = args[..]
            && &*self.str_at(kind)? == "module"
        {
            self.class_at(class)?;
            self.stack.push(class);
            return Ok(());
        }
        let [kind, class, key, _location, numel] = match args[..] {
            [kind, class, key, location, numel] => [kind, class, key, location, numel],
            [kind, class, key, location, numel, view] if self.is_none(view) => {
                [kind, class, key, location, numel]
            }
            _ => return Err(self.input.malformed(wanted)),
        };
        if &*self.str_at(kind)? != "storage" {
            return Err(self.input.malformed(wanted));
        }
        let dtype = match &self.nodes[class] {
            Node::Global(Global::Storage(dtype)) => *dtype,
            // Of a type that is not read: a tensor in it becomes an object.
            Node::Global(Global::Other(class)) => return self.push_object(class.clone()),
            _ => return Err(self.input.malformed(wanted)),
        };
        let key = self.str_at(key)?;
        // Keys are compared for each tensor, and a few bytes of pickle repeat a long one.
        if key.len() > MAX_NAME_BYTES {
            let wanted = "a storage name of at most 256 bytes";
            return Err(self.input.malformed(wanted));
        }
        let storage = StorageRef {
            key,
            dtype,
            numel: self.count_at(numel)?,
        };
        self.storages
            .entry(Arc::clone(&storage.key))
            .or_insert_with(|| storage.clone());
        self.push(Node::Storage(storage))
    }

    /// A tensor with attributes, or one of a subclass: `(function, class, arguments, state)`.
    pub(super) fn rebuild_from_type(
        &mut self,
        function: usize,
        class: usize,
        args: usize,
    ) -> Result<()> {
        let class = self.class_at(class)?;
        if matches!(self.nodes[function], Node::Global(Global::RebuildTensor))
            && is_tensor_class(&class)
        {
            let args = self.short_tuple_at(args, "six arguments of _rebuild_tensor_v2")?;
            return self.rebuild_tensor(&args);
        }
        self.push_object(class)
    }

    /// A tensor, or an object in its place.
    pub(super) fn is_tensor(&self, node: usize) -> bool {
        matches!(
            self.nodes[node],
            Node::Leaf(Value::Tensor(_)) | Node::Object(_)
        )
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
    pub(super) fn rebuild_tensor(&mut self, args: &[usize]) -> Result<()> {
        let (&[storage, offset, shape, strides, _, _]
        | &[storage, offset, shape, strides, _, _, _]) = args
        else {
            return Err(self.input.malformed("six arguments of _rebuild_tensor_v2"));
        };
        let storage = match &self.nodes[storage] {
            Node::Storage(storage) => storage,
            Node::Object(unread) => return self.push_object(unread.class.clone()),
            _ => return Err(self.input.malformed("a storage for _rebuild_tensor_v2")),
        };
        let tensor = TensorRef {
            storage: storage.clone(),
            offset: self.count_at(offset)?,
            shape: self.counts_at(shape)?,
            strides: self.counts_at(strides)?,
        };
        if tensor.shape.len() != tensor.strides.len() {
            return Err(self.input.malformed("one stride for each dimension"));
        }
        self.left.charge(TENSOR_COST + tensor.shape.len())?;
        self.push_leaf(Value::Tensor(Arc::new(tensor)))
    }
}

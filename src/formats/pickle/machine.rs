//! The stack machine: a pickle's instructions, and the objects they make on the arena.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::error::{PickleError, Result};
use super::globals::Global;
use super::input::{Input, MAX_NAME_BYTES};
use super::value::{StorageRef, TensorRef, Value};

/// Most objects in a pickle, and in the tree made of it.
const MAX_VALUES: usize = 2_000_000;
/// Most dimensions of a tensor, which is torch's own limit.
const MAX_DIMS: usize = 64;

/// Number of values that a tensor without dimensions counts as: it takes the memory of several, and a few
/// bytes of pickle make one.
const TENSOR_COST: usize = 4;

/// Number of values that may still be made.
pub(super) struct ValuesLeft(usize);

impl Default for ValuesLeft {
    fn default() -> Self {
        Self(MAX_VALUES)
    }
}

impl ValuesLeft {
    /// Takes `count` values off; to be called before memory is taken for them.
    pub(super) fn charge(&mut self, count: usize) -> Result<()> {
        let left = self.0.checked_sub(count);
        self.0 = left.ok_or(PickleError::TooManyValues { limit: MAX_VALUES })?;
        Ok(())
    }
}

/// An object of the stack machine. Containers name their items by place in the arena.
pub(super) enum Node {
    Leaf(Value),
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Storage(StorageRef),
    Global(Global),
}

/// The stack machine.
pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    pub(super) left: ValuesLeft,
    pub(super) nodes: Vec<Node>,
    pub(super) stack: Vec<usize>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<u32, usize>,
    pub(super) storages: BTreeMap<Arc<str>, StorageRef>,
}

impl Machine<'_> {
    /// Executes one instruction; false after STOP.
    pub(super) fn step(&mut self) -> Result<bool> {
        let opcode = self.input.byte()?;
        match opcode {
            b'.' => return Ok(false),                       // STOP
            0x80 => self.protocol()?,                       // PROTO
            0x95 => drop(self.input.array::<8>()?),         // FRAME: a hint for buffering
            b'N' => self.push_leaf(Value::None)?,           // NONE
            0x88 => self.push_leaf(Value::Bool(true))?,     // NEWTRUE
            0x89 => self.push_leaf(Value::Bool(false))?,    // NEWFALSE
            b'J' | b'K' | b'M' | 0x8a => self.int(opcode)?, // BININT, BININT1, BININT2, LONG1
            b'G' => self.float()?,                          // BINFLOAT
            b'X' | 0x8c => self.text(opcode)?,              // BINUNICODE, SHORT_BINUNICODE
            b'B' | b'C' => self.bytes(opcode)?,             // BINBYTES, SHORT_BINBYTES
            b']' => self.push(Node::List(Vec::new()))?,     // EMPTY_LIST
            b')' => self.push(Node::Tuple(Vec::new()))?,    // EMPTY_TUPLE
            b'}' => self.push(Node::Dict(Vec::new()))?,     // EMPTY_DICT
            b'(' => self.mark()?,                           // MARK
            b't' => self.tuple_from_mark()?,                // TUPLE
            0x85..=0x87 => self.tuple_of(opcode)?,          // TUPLE1, TUPLE2, TUPLE3
            b'a' => self.append()?,                         // APPEND
            b'e' => self.appends()?,                        // APPENDS
            b's' => self.set_item()?,                       // SETITEM
            b'u' => self.set_items()?,                      // SETITEMS
            b'q' | b'r' | 0x94 => self.put(opcode)?,        // BINPUT, LONG_BINPUT, MEMOIZE
            b'h' | b'j' => self.get(opcode)?,               // BINGET, LONG_BINGET
            b'c' => self.global()?,                         // GLOBAL
            0x93 => self.stack_global()?,                   // STACK_GLOBAL
            b'Q' => self.storage()?,                        // BINPERSID
            b'R' => self.reduce()?,                         // REDUCE
            b'b' => self.build()?,                          // BUILD
            opcode => {
                let at = self.input.at - 1;
                return Err(PickleError::Opcode { opcode, at });
            }
        }
        Ok(true)
    }

    // The stack.

    fn push(&mut self, node: Node) -> Result<()> {
        self.left.charge(1)?;
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn push_leaf(&mut self, value: Value) -> Result<()> {
        self.push(Node::Leaf(value))
    }

    /// Pops the top of the stack; values below the last MARK are out of reach.
    pub(super) fn pop(&mut self) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.input.malformed("a value on the stack"));
        }
        self.stack
            .pop()
            .ok_or_else(|| self.input.malformed("a value on the stack"))
    }

    fn top(&mut self) -> Result<usize> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { limit: MAX_VALUES });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.input.malformed("a MARK on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    // Numbers, text, bytes.

    fn protocol(&mut self) -> Result<()> {
        match self.input.byte()? {
            2..=5 => Ok(()),
            found => Err(PickleError::Protocol {
                found,
                at: self.input.at - 1,
            }),
        }
    }

    fn int(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'J' => i32::from_le_bytes(self.input.array()?).into(),
            b'K' => self.input.byte()?.into(),
            b'M' => u16::from_le_bytes(self.input.array()?).into(),
            _ => {
                let len = self.input.byte()?;
                self.input.long(len)?
            }
        };
        self.push_leaf(Value::Int(value))
    }

    fn float(&mut self) -> Result<()> {
        let value = f64::from_be_bytes(self.input.array()?);
        self.push_leaf(Value::Float(value))
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'X' => self.input.int32()?,
            _ => self.input.byte()?.into(),
        };
        let text = self.input.text(len.into())?;
        self.push_leaf(Value::Str(text))
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'B' => self.input.int32()?,
            _ => self.input.byte()?.into(),
        };
        let bytes = self.input.bytes(len.into())?;
        self.push_leaf(Value::Bytes(bytes.into()))
    }

    // Containers.

    fn tuple_from_mark(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.push(Node::Tuple(items))
    }

    fn tuple_of(&mut self, opcode: u8) -> Result<()> {
        let mut items = Vec::new();
        for _ in 0x85..=opcode {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn top_list(&mut self) -> Result<&mut Vec<usize>> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(items) => Ok(items),
            _ => Err(self.input.malformed("a list to append to")),
        }
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(usize, usize)>> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Dict(items) => Ok(items),
            _ => Err(self.input.malformed("a dict to fill")),
        }
    }

    fn append(&mut self) -> Result<()> {
        let item = self.pop()?;
        self.top_list()?.push(item);
        Ok(())
    }

    fn appends(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.top_list()?.extend(items);
        Ok(())
    }

    fn set_item(&mut self) -> Result<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.top_dict()?.push((key, value));
        Ok(())
    }

    fn set_items(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.input.malformed("a value for each key"));
        };
        self.top_dict()?
            .extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    // The memo.

    fn put(&mut self, opcode: u8) -> Result<()> {
        let slot = match opcode {
            b'q' => self.input.byte()?.into(),
            b'r' => self.input.int32()?,
            _ => self.memo.len() as u32, // at most MAX_VALUES
        };
        let top = self.top()?;
        if self.memo.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { limit: MAX_VALUES });
        }
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<()> {
        let slot = match opcode {
            b'h' => self.input.byte()?.into(),
            _ => self.input.int32()?,
        };
        let node = self.memo.get(&slot);
        let node = node.ok_or_else(|| self.input.malformed("a memo slot that was filled"))?;
        self.stack.push(*node);
        Ok(())
    }

    // Imports and calls.

    fn global(&mut self) -> Result<()> {
        let module = self.input.line()?;
        let name = self.input.line()?;
        self.push_global(&module, &name)
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (module, name) = (self.str_at(module)?, self.str_at(name)?);
        if module.len().max(name.len()) > MAX_NAME_BYTES {
            return Err(self
                .input
                .malformed("a module or class name of at most 256 bytes"));
        }
        self.push_global(&module, &name)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = Global::named(module, name).ok_or_else(|| PickleError::Import {
            name: format!("{module}.{name}"),
        })?;
        self.push(Node::Global(global))
    }

    /// `('storage', class, key, location, numel)`, and a `None` more in files from before torch
    /// 1.6.
    fn storage(&mut self) -> Result<()> {
        let wanted = "('storage', class, key, location, numel) as a persistent id";
        let args = self.pop()?;
        let args = self.short_tuple_at(args, wanted)?;
        let [kind, class, key, _location, numel] = match args[..] {
            [kind, class, key, location, numel] => [kind, class, key, location, numel],
            [kind, class, key, location, numel, view] if self.is_none(view) => {
                [kind, class, key, location, numel]
            }
            _ => return Err(self.input.malformed(wanted)),
        };
        let Node::Global(Global::Storage(dtype)) = self.nodes[class] else {
            return Err(self.input.malformed(wanted));
        };
        if &*self.str_at(kind)? != "storage" {
            return Err(self.input.malformed(wanted));
        }
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

    fn reduce(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let args = self.short_tuple_at(args, "a short tuple of arguments")?;
        let Node::Global(function) = self.nodes[function] else {
            return Err(self.input.malformed("a function to call"));
        };
        match (function, &args[..]) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::RebuildTensor, _) => self.rebuild_tensor(&args),
            (Global::RebuildParameter, &[tensor, _requires_grad, _hooks])
                if matches!(self.nodes[tensor], Node::Leaf(Value::Tensor(_))) =>
            {
                self.stack.push(tensor);
                Ok(())
            }
            (Global::Size, &[tuple]) if matches!(self.nodes[tuple], Node::Tuple(_)) => {
                self.stack.push(tuple);
                Ok(())
            }
            _ => Err(self
                .input
                .malformed("arguments that fit the function called")),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
    fn rebuild_tensor(&mut self, args: &[usize]) -> Result<()> {
        let (&[storage, offset, shape, strides, _, _]
        | &[storage, offset, shape, strides, _, _, _]) = args
        else {
            return Err(self.input.malformed("six arguments of _rebuild_tensor_v2"));
        };
        let Node::Storage(storage) = &self.nodes[storage] else {
            return Err(self.input.malformed("a storage for _rebuild_tensor_v2"));
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

    /// State set on a dict is torch's `_metadata` attribute: dropped.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        self.top_dict().map(|_| ())
    }

    // Looking at objects. Copies stay short, so that a few bytes of pickle never cause much work.

    fn short_tuple_at(&self, node: usize, wanted: &'static str) -> Result<Vec<usize>> {
        match &self.nodes[node] {
            Node::Tuple(items) if items.len() <= MAX_DIMS => Ok(items.clone()),
            _ => Err(self.input.malformed(wanted)),
        }
    }

    fn str_at(&self, node: usize) -> Result<Arc<str>> {
        match &self.nodes[node] {
            Node::Leaf(Value::Str(text)) => Ok(Arc::clone(text)),
            _ => Err(self.input.malformed("a string")),
        }
    }

    fn count_at(&self, node: usize) -> Result<usize> {
        match self.nodes[node] {
            Node::Leaf(Value::Int(value)) => usize::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| {
            self.input
                .malformed("an integer of 0 or more for a size, stride or offset")
        })
    }

    fn counts_at(&self, node: usize) -> Result<Vec<usize>> {
        self.short_tuple_at(node, "a shape and strides of at most 64 dimensions")?
            .into_iter()
            .map(|item| self.count_at(item))
            .collect()
    }

    fn is_none(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Leaf(Value::None))
    }
}

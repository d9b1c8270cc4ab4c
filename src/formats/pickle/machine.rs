//! The stack machine: a pickle's instructions, and the objects they make on the arena.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Objects;
use super::error::{PickleError, Result};
use super::globals::Global;
use super::input::{Input, MAX_NAME_BYTES};
use super::value::{PyName, StorageRef, Value};

/// Most objects in a pickle, and in the tree made of it.
const MAX_VALUES: usize = 2_000_000;
/// Most dimensions of a tensor, which is torch's own limit.
const MAX_DIMS: usize = 64;

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
    /// An object of a class that is not known: no more than its name, and what was put under its keys. What it was made
    /// of is dropped, and so is its state unless [`Objects::Attributes`] are wanted.
    Object(Object),
}

/// An object of a class that is not known.
pub(super) struct Object {
    pub(super) class: PyName,
    pub(super) pairs: Vec<(usize, usize)>,
    /// The dict of its attributes.
    pub(super) attributes: Option<usize>,
}

/// The stack machine.
pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    pub(super) left: ValuesLeft,
    pub(super) objects: Objects,
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
            b'.' => return Ok(false),                                  // STOP
            0x80 => self.protocol()?,                                  // PROTO
            0x95 => drop(self.input.array::<8>()?), // FRAME: a hint for buffering
            b'N' => self.push_leaf(Value::None)?,   // NONE
            0x88 => self.push_leaf(Value::Bool(true))?, // NEWTRUE
            0x89 => self.push_leaf(Value::Bool(false))?, // NEWFALSE
            b'J' | b'K' | b'M' => self.int(opcode)?, // BININT, BININT1, BININT2
            0x8a | 0x8b => self.long(opcode)?,      // LONG1, LONG4
            b'G' => self.float()?,                  // BINFLOAT
            b'X' | 0x8c | 0x8d => self.text(opcode)?, // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'T' | b'U' => self.python_2_text(opcode)?, // BINSTRING, SHORT_BINSTRING
            b'B' | b'C' | 0x8e | 0x96 => self.bytes(opcode)?, // BINBYTES, SHORT_…, BINBYTES8, BYTEARRAY8
            b']' => self.push(Node::List(Vec::new()))?,       // EMPTY_LIST
            b')' => self.push(Node::Tuple(Vec::new()))?,      // EMPTY_TUPLE
            b'}' => self.push(Node::Dict(Vec::new()))?,       // EMPTY_DICT
            0x8f => self.push_object(PyName::new("builtins", "set"))?, // EMPTY_SET
            0x90 => self.add_items()?,                        // ADDITEMS
            0x91 => self.frozenset()?,                        // FROZENSET
            b'(' => self.mark()?,                             // MARK
            b'0' => drop(self.pop()?),                        // POP
            b'1' => drop(self.pop_to_mark()?),                // POP_MARK
            b't' => self.tuple_from_mark()?,                  // TUPLE
            0x85..=0x87 => self.tuple_of(opcode)?,            // TUPLE1, TUPLE2, TUPLE3
            b'a' => self.append()?,                           // APPEND
            b'e' => self.appends()?,                          // APPENDS
            b's' => self.set_item()?,                         // SETITEM
            b'u' => self.set_items()?,                        // SETITEMS
            b'q' | b'r' | 0x94 => self.put(opcode)?,          // BINPUT, LONG_BINPUT, MEMOIZE
            b'h' | b'j' => self.get(opcode)?,                 // BINGET, LONG_BINGET
            b'c' => self.global()?,                           // GLOBAL
            0x93 => self.stack_global()?,                     // STACK_GLOBAL
            b'Q' => self.storage()?,                          // BINPERSID
            b'R' => self.reduce()?,                           // REDUCE
            0x81 => self.new_object()?,                       // NEWOBJ
            0x92 => self.new_object_with_names()?,            // NEWOBJ_EX
            b'i' => self.instance()?,                         // INST
            b'o' => self.object_from_mark()?,                 // OBJ
            b'b' => self.build()?,                            // BUILD
            opcode => {
                let at = self.input.at - 1;
                return Err(PickleError::Opcode { opcode, at });
            }
        }
        Ok(true)
    }

    // The stack.

    pub(super) fn push(&mut self, node: Node) -> Result<()> {
        self.left.charge(1)?;
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    pub(super) fn push_leaf(&mut self, value: Value) -> Result<()> {
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

    pub(super) fn top(&mut self) -> Result<usize> {
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

    pub(super) fn pop_to_mark(&mut self) -> Result<Vec<usize>> {
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
            _ => u16::from_le_bytes(self.input.array()?).into(),
        };
        self.push_leaf(Value::Int(value))
    }

    /// An integer of any size; one of more than 64 bits is an object.
    fn long(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            0x8a => self.input.byte()?.into(),
            _ => self.input.int32()?,
        };
        match self.input.long(len.into())? {
            Some(value) => self.push_leaf(Value::Int(value)),
            None => self.push_object(PyName::new("builtins", "int")),
        }
    }

    fn float(&mut self) -> Result<()> {
        let value = f64::from_be_bytes(self.input.array()?);
        self.push_leaf(Value::Float(value))
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'X' => self.input.int32()?.into(),
            0x8c => self.input.byte()?.into(),
            _ => self.input.int64()?,
        };
        let text = self.input.text(len)?;
        self.push_leaf(Value::Str(text))
    }

    /// A `str` of Python 2: text if it is UTF-8, else bytes.
    fn python_2_text(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'T' => self.input.int32()?,
            _ => self.input.byte()?.into(),
        };
        let value = match String::from_utf8(self.input.bytes(len.into())?) {
            Ok(text) => Value::Str(text.into()),
            Err(error) => Value::Bytes(error.into_bytes().into()),
        };
        self.push_leaf(value)
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'B' => self.input.int32()?.into(),
            b'C' => self.input.byte()?.into(),
            _ => self.input.int64()?,
        };
        let bytes = self.input.bytes(len)?;
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

    /// The pairs of the dict on top, or of an object that is filled like one.
    fn top_dict(&mut self) -> Result<&mut Vec<(usize, usize)>> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Dict(pairs) => Ok(pairs),
            Node::Object(object) => Ok(&mut object.pairs),
            _ => Err(self.input.malformed("a dict to fill")),
        }
    }

    /// Appends to the list on top; an object drops what is appended to it.
    fn extend(&mut self, items: Vec<usize>) -> Result<()> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(list) => list.extend(items),
            Node::Object(_) => {}
            _ => return Err(self.input.malformed("a list to append to")),
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let item = self.pop()?;
        self.extend(vec![item])
    }

    fn appends(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.extend(items)
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
        let (module, name) = (self.input.line()?, self.input.line()?);
        self.push(Node::Global(Global::named(&module.into(), &name.into())))
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (module, name) = (self.str_at(module)?, self.str_at(name)?);
        if module.len().max(name.len()) > MAX_NAME_BYTES {
            return Err(self
                .input
                .malformed("a module or class name of at most 256 bytes"));
        }
        self.push(Node::Global(Global::named(&module, &name)))
    }

    /// Calls a function that is known; calling any other makes an object and runs nothing.
    fn reduce(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Node::Tuple(all) = &self.nodes[args] else {
            return Err(self.input.malformed("a tuple of arguments"));
        };
        let some: Vec<usize> = all.iter().take(MAX_DIMS).copied().collect();
        let short = all.len() == some.len();
        let known = match &self.nodes[function] {
            Node::Global(global) => Some(global.clone()),
            _ => None,
        };
        match (known, &some[..]) {
            (Some(Global::OrderedDict), []) => self.push(Node::Dict(Vec::new())),
            (Some(Global::DefaultDict), [] | [_]) => self.push(Node::Dict(Vec::new())),
            (Some(Global::RebuildTensor), _) if short => self.rebuild_tensor(&some),
            (Some(Global::RebuildParameter), &[tensor, _requires_grad, _hooks])
            | (Some(Global::RebuildParameterWithState), &[tensor, _requires_grad, _hooks, _])
                if self.is_tensor(tensor) =>
            {
                self.stack.push(tensor);
                Ok(())
            }
            (Some(Global::RebuildFromType), &[function, class, args, _state]) => {
                self.rebuild_from_type(function, class, args)
            }
            (Some(Global::Size), &[tuple]) if matches!(self.nodes[tuple], Node::Tuple(_)) => {
                self.stack.push(tuple);
                Ok(())
            }
            (None | Some(Global::OrderedDict | Global::DefaultDict | Global::Other(_)), _) => {
                let class = self.class_made_by(function, &some)?;
                self.push_object(class)
            }
            _ => Err(self
                .input
                .malformed("arguments that fit the function called")),
        }
    }

    /// State set on a dict is torch's `_metadata` attribute: dropped, as an object's state is unless its attributes are
    /// wanted.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let named =
            self.objects == Objects::Attributes && matches!(self.nodes[state], Node::Dict(_));
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Object(object) if named => object.attributes = Some(state),
            Node::Object(_) | Node::Dict(_) => {}
            _ => return Err(self.input.malformed("a dict to fill")),
        }
        Ok(())
    }

    // Looking at objects. Copies stay short, so that a few bytes of pickle never cause much work.

    pub(super) fn short_tuple_at(&self, node: usize, wanted: &'static str) -> Result<Vec<usize>> {
        match &self.nodes[node] {
            Node::Tuple(items) if items.len() <= MAX_DIMS => Ok(items.clone()),
            _ => Err(self.input.malformed(wanted)),
        }
    }

    pub(super) fn str_at(&self, node: usize) -> Result<Arc<str>> {
        match &self.nodes[node] {
            Node::Leaf(Value::Str(text)) => Ok(Arc::clone(text)),
            _ => Err(self.input.malformed("a string")),
        }
    }

    pub(super) fn count_at(&self, node: usize) -> Result<usize> {
        match self.nodes[node] {
            Node::Leaf(Value::Int(value)) => usize::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| {
            self.input
                .malformed("an integer of 0 or more for a size, stride or offset")
        })
    }

    pub(super) fn counts_at(&self, node: usize) -> Result<Vec<usize>> {
        self.short_tuple_at(node, "a shape and strides of at most 64 dimensions")?
            .into_iter()
            .map(|item| self.count_at(item))
            .collect()
    }

    pub(super) fn is_none(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Leaf(Value::None))
    }
}

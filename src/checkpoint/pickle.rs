//! A restricted reader of Python pickles: plain containers, numbers, strings and torch tensors,
//! nothing else.
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it import and call
//! anything. This one knows the instructions that `torch.save` writes for tensors and plain data,
//! and five functions (`Global`); it refuses the rest by name. Work and memory stay in proportion
//! to the bytes read: objects live in a flat arena, where sharing costs an index, and the tree
//! handed out is limited in size and depth.
//!
//! Source: the comments of CPython's `Lib/pickletools.py`, <https://github.com/python/cpython>.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use super::host_tensor::Dtype;

/// Longest pickle that is read: a thousand tensors take about 200 kB.
pub(super) const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// Most objects in a pickle, and in the tree made of it.
const MAX_VALUES: usize = 2_000_000;
/// Deepest nesting of the tree; an optimizer's state nests five deep.
const MAX_DEPTH: usize = 100;
/// Most dimensions of a tensor, which is torch's own limit.
const MAX_DIMS: usize = 64;
/// Longest module or class name.
const MAX_NAME_BYTES: usize = 256;

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The input ended inside an instruction.
    #[error("the pickle breaks off at byte {at}; the file is cut short: copy or download it again")]
    Truncated {
        /// Bytes of the pickle that were there.
        at: u64,
    },
    /// The input could not be read.
    #[error("reading failed at byte {at}")]
    Io {
        /// Bytes of the pickle read before.
        at: u64,
        /// The refusal.
        source: io::Error,
    },
    /// Longer than any checkpoint's pickle.
    #[error(
        "the pickle is longer than {limit} bytes, which no checkpoint needs; save the weights alone"
    )]
    TooLong {
        /// Most bytes that are read.
        limit: u64,
    },
    /// More objects than any checkpoint has, possibly by repeating a few.
    #[error(
        "the pickle makes more than {limit} objects, which no checkpoint needs; save the weights alone"
    )]
    TooManyValues {
        /// Most objects that are made.
        limit: usize,
    },
    /// Nested too deep, or containing itself.
    #[error("the pickle nests deeper than {limit}, or contains itself; save the weights alone")]
    TooDeep {
        /// Deepest nesting that is read.
        limit: usize,
    },
    /// A protocol other than 2 to 5.
    #[error(
        "pickle protocol {found} at byte {at}, wanted 2 to 5; save it again with a current torch"
    )]
    Protocol {
        /// The protocol.
        found: u8,
        /// Where in the pickle.
        at: u64,
    },
    /// An instruction outside the whitelist.
    #[error(
        "pickle instruction {opcode:#04x} at byte {at} is not one that torch.save writes for tensors and \
         plain data; in Python, save the weights alone: torch.save(model.state_dict(), FILE)"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Where in the pickle.
        at: u64,
    },
    /// An import outside the whitelist.
    #[error(
        "the file asks Python to import {name:?}, and only tensors and plain data are read; if you trust \
         the file, load it in Python and save the weights alone: torch.save(model.state_dict(), FILE)"
    )]
    Import {
        /// Module and name, joined by a dot.
        name: String,
    },
    /// An integer of more than 64 bits.
    #[error("an integer of {bytes} bytes at byte {at}, wanted at most 8; save the weights alone")]
    BigInt {
        /// Its length.
        bytes: usize,
        /// Where in the pickle.
        at: u64,
    },
    /// Text that is not UTF-8.
    #[error("a string before byte {at} is not UTF-8; rename the key and save the file again")]
    NotUtf8 {
        /// Where in the pickle.
        at: u64,
        /// Why.
        source: std::str::Utf8Error,
    },
    /// A key that stands twice in a dict; Python would keep the last and `torch.save` writes none.
    #[error("the key {key} stands twice in one dict; do not trust this file")]
    DuplicateKey {
        /// The key, as Python would print it.
        key: String,
    },
    /// An instruction that does not fit what came before it.
    #[error(
        "before byte {at} the pickle should hold {wanted}; the file is damaged or not torch.save's"
    )]
    Malformed {
        /// Where in the pickle.
        at: u64,
        /// What was wanted there.
        wanted: &'static str,
    },
}

type Result<T> = std::result::Result<T, PickleError>;

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

/// A pickle's value, and the storages its tensors look at, by key.
#[derive(Debug)]
pub(super) struct Pickled {
    pub(super) root: Value,
    pub(super) storages: BTreeMap<Arc<str>, StorageRef>,
}

/// Reads one pickle and leaves `reader` after its last byte.
///
/// # Errors
/// On anything but plain data and tensors, and on whatever is damaged, too long or too deep.
pub(super) fn unpickle(reader: &mut dyn Read) -> Result<Pickled> {
    let mut machine = Machine {
        input: Input { reader, at: 0 },
        budget: Budget::default(),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: BTreeMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    let mut tree = TreeBuilder {
        nodes: &machine.nodes,
        budget: Budget::default(),
    };
    Ok(Pickled {
        root: tree.value(root, 0)?,
        storages: machine.storages,
    })
}

/// The functions and classes that a pickle may name.
#[derive(Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Dtype),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") => Some(Self::Size),
            ("torch", _) => Dtype::ALL
                .into_iter()
                .find(|&dtype| storage_class(dtype) == name)
                .map(Self::Storage),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::OrderedDict => "class OrderedDict",
            Self::RebuildTensor => "function _rebuild_tensor_v2",
            Self::RebuildParameter => "function _rebuild_parameter",
            Self::Size => "class Size",
            Self::Storage(dtype) => storage_class(dtype),
        }
    }
}

/// Name of the class that torch's pickles give a storage of this dtype, in the module `torch`.
pub(super) const fn storage_class(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
    }
}

/// The bytes of the pickle, counted.
struct Input<'a> {
    reader: &'a mut dyn Read,
    at: u64,
}

impl Input<'_> {
    fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > MAX_PICKLE_BYTES - self.at {
            return Err(PickleError::TooLong {
                limit: MAX_PICKLE_BYTES,
            });
        }
        let mut bytes = Vec::new();
        let read = (&mut *self.reader).take(len).read_to_end(&mut bytes);
        self.at += bytes.len() as u64;
        match read {
            Err(source) => Err(PickleError::Io {
                at: self.at,
                source,
            }),
            Ok(found) if (found as u64) < len => Err(PickleError::Truncated { at: self.at }),
            Ok(_) => Ok(bytes),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        if N as u64 > MAX_PICKLE_BYTES - self.at {
            return Err(PickleError::TooLong {
                limit: MAX_PICKLE_BYTES,
            });
        }
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => PickleError::Truncated { at: self.at },
                _ => PickleError::Io {
                    at: self.at,
                    source,
                },
            })?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn int32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn utf8(&mut self, bytes: Vec<u8>) -> Result<String> {
        String::from_utf8(bytes).map_err(|error| PickleError::NotUtf8 {
            at: self.at,
            source: error.utf8_error(),
        })
    }

    fn text(&mut self, len: u64) -> Result<Arc<str>> {
        let bytes = self.bytes(len)?;
        Ok(self.utf8(bytes)?.into())
    }

    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return self.utf8(bytes),
                _ if bytes.len() == MAX_NAME_BYTES => {
                    return Err(self.malformed("a module or class name of at most 256 bytes"));
                }
                byte => bytes.push(byte),
            }
        }
    }

    /// A little-endian two's complement integer of `len` bytes; none stand for 0.
    fn long(&mut self, len: u8) -> Result<i64> {
        let bytes = self.bytes(len.into())?;
        if bytes.len() > 8 {
            return Err(PickleError::BigInt {
                bytes: bytes.len(),
                at: self.at,
            });
        }
        let negative = bytes.last().is_some_and(|&top| top >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn malformed(&self, wanted: &'static str) -> PickleError {
        PickleError::Malformed {
            at: self.at,
            wanted,
        }
    }
}

/// Values that may still be made.
struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_VALUES }
    }
}

impl Budget {
    /// Takes `count` values off what is left; to be called before memory is taken for them.
    fn charge(&mut self, count: usize) -> Result<()> {
        self.left = self
            .left
            .checked_sub(count)
            .ok_or(PickleError::TooManyValues { limit: MAX_VALUES })?;
        Ok(())
    }
}

/// An object of the stack machine. Containers name their items by place in the arena.
enum Node {
    Leaf(Value),
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Storage(StorageRef),
    Global(Global),
}

/// The stack machine.
struct Machine<'a> {
    input: Input<'a>,
    budget: Budget,
    nodes: Vec<Node>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
    storages: BTreeMap<Arc<str>, StorageRef>,
}

impl Machine<'_> {
    /// Carries out one instruction; false once it was STOP.
    fn step(&mut self) -> Result<bool> {
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
        self.budget.charge(1)?;
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn push_leaf(&mut self, value: Value) -> Result<()> {
        self.push(Node::Leaf(value))
    }

    /// Takes the top of the stack; what lies below the last MARK is out of reach.
    fn pop(&mut self) -> Result<usize> {
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
        let storage = StorageRef {
            key: self.str_at(key)?,
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
        self.budget.charge(tensor.shape.len())?;
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

/// Copies the arena's objects into a tree, within `MAX_VALUES` and `MAX_DEPTH`.
struct TreeBuilder<'a> {
    nodes: &'a [Node],
    budget: Budget,
}

impl TreeBuilder<'_> {
    fn value(&mut self, node: usize, depth: usize) -> Result<Value> {
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
        let pairs: Vec<(Value, Value)> = pairs
            .iter()
            .map(|&(key, value)| Ok((self.value(key, depth + 1)?, self.value(value, depth + 1)?)))
            .collect::<Result<_>>()?;
        refuse_duplicates(&pairs)?;
        Ok(pairs)
    }
}

fn refuse_duplicates(pairs: &[(Value, Value)]) -> Result<()> {
    let mut texts: HashSet<&str> = HashSet::new();
    let mut ints: HashSet<i64> = HashSet::new();
    for (key, _) in pairs {
        let duplicate = match key {
            Value::Str(text) if !texts.insert(text) => format!("{text:?}"),
            Value::Int(value) if !ints.insert(*value) => value.to_string(),
            _ => continue,
        };
        return Err(PickleError::DuplicateKey { key: duplicate });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the pieces, joined, as one pickle of protocol 2 with its STOP.
    fn load(pieces: &[&[u8]]) -> Result<Value> {
        let mut bytes = b"\x80\x02".to_vec();
        bytes.extend(pieces.concat());
        bytes.push(b'.');
        Ok(unpickle(&mut &bytes[..])?.root)
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = vec![b'X'];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    /// `_rebuild_tensor_v2` over a float storage "0" of 6 elements.
    fn tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage")[..],
            b"ctorch\nFloatStorage\n",
            &text("0"),
            &text("cpu"),
            b"K\x06tQ",
            offset,
            shape,
            strides,
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
        .concat()
    }

    #[test]
    fn plain_data_of_every_kind() {
        let value = load(&[
            b"}(",
            &text("none"),
            b"N",
            &text("flag"),
            b"\x88",
            &text("ints"),
            b"](J\xfe\xff\xff\xffK\xffM\xff\xff\x8a\x00\x8a\x02\x00\x80\x8a\x08\0\0\0\0\0\0\0\x80e",
            &text("float"),
            b"G\x3f\xe0\0\0\0\0\0\0",
            &text("bytes"),
            b"C\x02ab",
            &text("tuple"),
            b"K\x01K\x02\x86\x85",
            b"u",
        ]);
        let value = value.unwrap();
        assert_eq!(value.get("none"), Some(&Value::None));
        assert_eq!(value.get("flag"), Some(&Value::Bool(true)));
        let ints = [-2, 255, 65535, 0, -32768, i64::MIN].map(Value::Int);
        assert_eq!(value.get("ints"), Some(&Value::List(ints.to_vec())));
        assert_eq!(value.get("float"), Some(&Value::Float(0.5)));
        assert_eq!(value.get("bytes"), Some(&Value::Bytes((*b"ab").into())));
        let pair = Value::Tuple(vec![Value::Int(1), Value::Int(2)]);
        assert_eq!(value.get("tuple"), Some(&Value::Tuple(vec![pair])));
        assert_eq!(value.get("absent"), None);
    }

    #[test]
    fn protocol_4_frames_memo_and_stack_global() {
        let pickle = b"\x80\x04\x95\x20\0\0\0\0\0\0\0\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93)R\x94.";
        assert_eq!(
            unpickle(&mut &pickle[..]).unwrap().root,
            Value::Dict(vec![])
        );
    }

    #[test]
    fn tensors_and_parameters() {
        let plain = tensor(b"K\x01", b"K\x02K\x02\x86", b"K\x01K\x02\x86");
        let parameter = [
            b"ctorch._utils\n_rebuild_parameter\n",
            &plain[..],
            b"\x88ccollections\nOrderedDict\n)R\x87R",
        ];
        for value in [load(&[&plain]).unwrap(), load(&parameter).unwrap()] {
            assert_eq!(value.kind(), "tensor float32 [2, 2]");
            let Value::Tensor(tensor) = value else {
                panic!("wanted a tensor");
            };
            assert_eq!((tensor.offset, &tensor.strides[..]), (1, &[1, 2][..]));
            assert_eq!((&*tensor.storage.key, tensor.storage.numel), ("0", 6));
        }
    }

    #[test]
    fn the_reader_stops_after_stop() {
        let mut input = &b"\x80\x02K\x01.\x80\x02K\x02."[..];
        assert_eq!(unpickle(&mut input).unwrap().root, Value::Int(1));
        assert_eq!(unpickle(&mut input).unwrap().root, Value::Int(2));
        assert!(input.is_empty());
    }

    #[test]
    fn imports_outside_the_list_are_refused_by_name() {
        let global = load(&[b"cos\nsystem\n", &text("touch owned"), b"\x85R"]);
        assert!(global.unwrap_err().to_string().contains("\"os.system\""));
        let stack_global = load(&[&text("builtins"), &text("eval"), b"\x93"]);
        let message = stack_global.unwrap_err().to_string();
        assert!(message.contains("\"builtins.eval\""));
        let near = load(&[b"ctorch\nFloatTensor\n"]);
        assert!(matches!(near, Err(PickleError::Import { .. })));
        // An escape sequence in a name does not reach the terminal.
        let escape = load(&[b"cos\x1b[2J\nsystem\n"]).unwrap_err().to_string();
        assert!(!escape.contains('\x1b'));
    }

    #[test]
    fn instructions_outside_the_list_are_refused() {
        // NEWOBJ, INST, OBJ, EXT1, PERSID, BINUNICODE8, LONG4, NEXT_BUFFER
        for opcode in *b"\x81io\x82P\x8d\x8b\x97" {
            assert!(matches!(
                load(&[&[opcode]]),
                Err(PickleError::Opcode { opcode: found, at: 2 }) if found == opcode
            ));
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        for protocol in [0, 1, 6, 255] {
            let bytes = [0x80, protocol, b'N', b'.'];
            let error = unpickle(&mut &bytes[..]).unwrap_err();
            assert!(matches!(error, PickleError::Protocol { found, .. } if found == protocol));
        }
    }

    #[test]
    fn only_known_functions_are_called_and_only_with_their_arguments() {
        let calls: [&[u8]; 7] = [
            b"K\x01)R",
            b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R",
            b"ctorch\nFloatStorage\n)R",
            b"ctorch\nSize\n)R",
            b"ctorch._utils\n_rebuild_tensor_v2\n)R",
            b"ctorch._utils\n_rebuild_parameter\nK\x01\x88N\x87R",
            b"K\x01Nb",
        ];
        for call in calls {
            assert!(matches!(load(&[call]), Err(PickleError::Malformed { .. })));
        }
    }

    #[test]
    fn declared_lengths_take_no_memory() {
        for pickle in [&b"X\xff\xff\xff\xff"[..], b"B\xff\xff\xff\x7f"] {
            let error = unpickle(&mut &pickle[..]).unwrap_err();
            assert!(matches!(error, PickleError::TooLong { .. }));
        }
        let error = unpickle(&mut &b"X\0\0\xf0\0abc"[..]).unwrap_err();
        assert!(matches!(error, PickleError::Truncated { at: 8 }));
    }

    #[test]
    fn an_endless_pickle_is_too_long() {
        for opcode in *b"(N" {
            let error = unpickle(&mut io::repeat(opcode)).unwrap_err();
            assert!(matches!(error, PickleError::TooManyValues { .. }));
        }
        let mut memos = b"N".chain(io::repeat(0x94));
        let error = unpickle(&mut memos).unwrap_err();
        assert!(matches!(error, PickleError::TooManyValues { .. }));
        let error = unpickle(&mut io::repeat(0x95)).unwrap_err(); // FRAME makes nothing
        assert!(matches!(error, PickleError::TooLong { .. }));
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| load(&[&b"]".repeat(depth), &b"a".repeat(depth - 1)]);
        assert!(nested(MAX_DEPTH + 1).is_ok());
        assert!(matches!(
            nested(MAX_DEPTH + 2),
            Err(PickleError::TooDeep { .. })
        ));
        assert!(matches!(
            nested(1_000_000),
            Err(PickleError::TooDeep { .. })
        ));
        assert!(matches!(
            load(&[b"]q\0h\0a"]),
            Err(PickleError::TooDeep { .. })
        ));
    }

    #[test]
    fn sharing_does_not_multiply() {
        // Each list holds the one before it ten times: 10^40 values in 1 kB.
        let mut laughs = b"]q\0".to_vec();
        for level in 1..=40_u8 {
            laughs.extend(b"](");
            laughs.extend([b'h', level - 1].repeat(10));
            laughs.extend([b'e', b'q', level]);
        }
        assert!(matches!(
            load(&[&laughs]),
            Err(PickleError::TooManyValues { .. })
        ));
        // A list that holds itself a million times.
        let selves = load(&[b"]q\0(", &b"h\0".repeat(1_000_000), b"e"]);
        assert!(matches!(selves, Err(PickleError::TooManyValues { .. })));
        // A long string shared is one string.
        let long = "x".repeat(1 << 20);
        let shared = load(&[&text(&long), b"q\0](", &b"h\0".repeat(1000), b"e"]);
        let Ok(Value::List(items)) = shared else {
            panic!("wanted a list");
        };
        let (Value::Str(first), Value::Str(last)) = (&items[0], &items[999]) else {
            panic!("wanted strings");
        };
        assert!(Arc::ptr_eq(first, last));
    }

    #[test]
    fn long_arguments_are_not_copied_for_each_call() {
        let call = b"ccollections\nOrderedDict\nh\0R";
        let error = load(&[b"(", &b"N".repeat(100_000), b"tq\0", call]).unwrap_err();
        assert!(matches!(error, PickleError::Malformed { .. }));
    }

    #[test]
    fn a_memo_slot_takes_no_memory_for_those_below_it() {
        assert_eq!(
            load(&[b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff"]).unwrap(),
            Value::None
        );
        assert!(load(&[b"h\0"]).is_err());
    }

    #[test]
    fn the_stack_does_not_underflow() {
        let pickles = b"|t|e|u|a|s|b|R|Q|q\0|(|\x87|\x93|N(\x85|}Ns|}(Nu|]K\x01s|}K\x01a|NQ|NN\x93";
        for pickle in pickles.split(|&byte| byte == b'|') {
            assert!(
                matches!(load(&[pickle]), Err(PickleError::Malformed { .. })),
                "{pickle:?}"
            );
        }
    }

    #[test]
    fn shapes_strides_and_offsets_count_from_zero() {
        let ok = tensor(b"K\0", b"K\x06\x85", b"K\x01\x85");
        assert!(load(&[&ok]).is_ok());
        let minus_one = b"J\xff\xff\xff\xff";
        let tuple = [&minus_one[..], b"\x85"].concat();
        for bad in [
            tensor(minus_one, b"K\x06\x85", b"K\x01\x85"),
            tensor(b"K\0", &tuple, b"K\x01\x85"),
            tensor(b"K\0", b"K\x06\x85", &tuple),
            tensor(b"K\0", b"K\x06\x85", b"K\x01K\x01\x86"),
            tensor(b"N", b"K\x06\x85", b"K\x01\x85"),
            tensor(b"K\0", b"](K\x06e", b"K\x01\x85"),
        ] {
            assert!(matches!(load(&[&bad]), Err(PickleError::Malformed { .. })));
        }
    }

    #[test]
    fn a_storage_id_is_checked() {
        let id = |kind: &str, class: &[u8], tail: &[u8]| {
            load(&[
                b"(",
                &text(kind),
                class,
                &text("0"),
                &text("cpu"),
                tail,
                b"tQ",
            ])
        };
        let float = b"ctorch\nFloatStorage\n";
        assert_eq!(
            id("storage", float, b"K\x06").unwrap(),
            Value::Opaque("FloatStorage")
        );
        assert!(id("storage", float, b"K\x06N").is_ok());
        assert!(id("module", float, b"K\x06").is_err());
        assert!(id("storage", b"ctorch\nSize\n", b"K\x06").is_err());
        assert!(id("storage", float, b"K\x06K\x01").is_err());
        assert!(id("storage", float, b"J\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let twice = load(&[b"}(", &text("a"), b"N", &text("a"), b"Nu"]);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "the key \"a\" stands twice in one dict; do not trust this file"
        );
        let ints = load(&[b"}(K\x01NM\x01\0Nu"]);
        assert!(matches!(ints, Err(PickleError::DuplicateKey { .. })));
        assert!(load(&[b"}(K\x01N", &text("1"), b"Nu"]).is_ok());
    }

    #[test]
    fn wide_integers_and_bad_text_are_refused() {
        let wide = load(&[b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"]);
        assert!(matches!(wide, Err(PickleError::BigInt { bytes: 10, .. })));
        let bad = load(&[b"X\x02\0\0\0\xc3\x28"]);
        assert!(matches!(bad, Err(PickleError::NotUtf8 { .. })));
    }

    #[test]
    fn kinds_are_short() {
        assert_eq!(Value::Int(5).kind(), "int 5");
        assert_eq!(Value::Float(1.0).kind(), "float 1.0");
        assert_eq!(Value::Dict(vec![]).kind(), "dict of 0");
        let long = Value::Str("\u{e9}".repeat(1000).into());
        assert!(long.kind().chars().count() < 50);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            drop(unpickle(&mut &bytes[..]));
        }

        #[test]
        fn no_instructions_panic(
            picks in proptest::collection::vec(proptest::sample::select(
                b"NKJMGXBC])}(t\x85\x86\x87aesuqrhjcQRb\x80\x88\x89\x8a\x8c\x93\x94\x95.\0\x01\x02\n".to_vec()
            ), 0..200)
        ) {
            drop(unpickle(&mut &picks[..]));
        }
    }
}

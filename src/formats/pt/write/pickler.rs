//! The pickle of an object, protocol 2, and the storages of its tensors.
//!
//! Source: the comments of CPython's `Lib/pickletools.py`; `torch/_utils.py` of torch 2.11.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::rc::Rc;

use super::{Item, TensorData, invalid};
use crate::formats::host_tensor::{byte_len, contiguous_strides};
use crate::formats::pickle::storage_class;

/// A tensor's bytes for the file; its key is its place in the list.
pub(super) struct Storage<'a> {
    /// The tensor's place in the object, for messages.
    pub(super) name: String,
    pub(super) tensor: Rc<dyn TensorData + 'a>,
    /// Bytes that dtype and shape take.
    pub(super) bytes: usize,
}

/// Pickles an object; every tensor has a storage of its own, shared by its clones alone.
pub(super) fn pickle<'a>(root: &Item<'a>) -> io::Result<(Vec<u8>, Vec<Storage<'a>>)> {
    let mut pickler = Pickler {
        out: b"\x80\x02".to_vec(), // PROTO 2
        storages: Vec::new(),
        keys: HashMap::new(),
    };
    pickler.item("", root)?;
    pickler.out.push(b'.'); // STOP
    Ok((pickler.out, pickler.storages))
}

struct Pickler<'a> {
    out: Vec<u8>,
    storages: Vec<Storage<'a>>,
    /// Key of a tensor's storage, by the tensor's address; `storages` keeps it alive.
    keys: HashMap<*const (), usize>,
}

impl<'a> Pickler<'a> {
    fn item(&mut self, name: &str, item: &Item<'a>) -> io::Result<()> {
        match item {
            Item::None => self.out.push(b'N'),        // NONE
            Item::Bool(true) => self.out.push(0x88),  // NEWTRUE
            Item::Bool(false) => self.out.push(0x89), // NEWFALSE
            Item::Int(value) => push_int(&mut self.out, *value),
            Item::Float(value) => {
                self.out.push(b'G'); // BINFLOAT
                self.out.extend(value.to_be_bytes());
            }
            Item::Text(text) => push_text(&mut self.out, text)?,
            Item::List(items) => {
                self.out.extend(b"]("); // EMPTY_LIST, MARK
                self.items(name, items)?;
                self.out.push(b'e'); // APPENDS
            }
            Item::Tuple(items) => {
                self.out.push(b'('); // MARK
                self.items(name, items)?;
                self.out.push(b't'); // TUPLE
            }
            Item::Dict(entries) => {
                self.out.push(b'}'); // EMPTY_DICT
                self.entries(name, entries, |out, key| push_text(out, key))?;
            }
            Item::IntDict(entries) => {
                self.out.push(b'}'); // EMPTY_DICT
                self.entries(name, entries, |out, &key| {
                    push_int(out, key);
                    Ok(())
                })?;
            }
            Item::OrderedDict(entries) => {
                push_empty_ordered_dict(&mut self.out);
                self.entries(name, entries, |out, key| push_text(out, key))?;
            }
            Item::Tensor(tensor) => self.tensor(name, tensor)?,
        }
        Ok(())
    }

    fn items(&mut self, name: &str, items: &[Item<'a>]) -> io::Result<()> {
        for (index, item) in items.iter().enumerate() {
            self.item(&below(name, &index.to_string()), item)?;
        }
        Ok(())
    }

    /// Fills the dict on the stack.
    fn entries<K: Hash + Eq + ToString>(
        &mut self,
        name: &str,
        entries: &[(K, Item<'a>)],
        push_key: impl Fn(&mut Vec<u8>, &K) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut keys = HashSet::new();
        self.out.push(b'('); // MARK
        for (key, item) in entries {
            let name = below(name, &key.to_string());
            if !keys.insert(key) {
                return Err(invalid(format!(
                    "the key {name:?} was given twice; a dict holds each key once"
                )));
            }
            push_key(&mut self.out, key)?;
            self.item(&name, item)?;
        }
        self.out.push(b'u'); // SETITEMS
        Ok(())
    }

    /// A call of `_rebuild_tensor_v2(storage, 0, shape, strides, requires_grad=False,
    /// hooks=OrderedDict())`.
    fn tensor(&mut self, name: &str, tensor: &Rc<dyn TensorData + 'a>) -> io::Result<()> {
        let key = self.storage_key(name, tensor)?;
        self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n("); // GLOBAL, MARK
        self.storage(key)?;
        push_int(&mut self.out, 0);
        push_tuple(&mut self.out, tensor.shape())?;
        push_tuple(&mut self.out, &contiguous_strides(tensor.shape()))?;
        self.out.push(0x89); // NEWFALSE
        push_empty_ordered_dict(&mut self.out);
        self.out.extend(b"tR"); // TUPLE, REDUCE
        Ok(())
    }

    fn storage_key(&mut self, name: &str, tensor: &Rc<dyn TensorData + 'a>) -> io::Result<usize> {
        let address = Rc::as_ptr(tensor).cast::<()>();
        if let Some(&key) = self.keys.get(&address) {
            return Ok(key);
        }
        let bytes = byte_len(tensor.dtype(), tensor.shape())
            .map_err(|error| invalid(format!("tensor {name:?}: {error}")))?;
        self.keys.insert(address, self.storages.len());
        self.storages.push(Storage {
            name: name.to_owned(),
            tensor: Rc::clone(tensor),
            bytes,
        });
        Ok(self.storages.len() - 1)
    }

    /// The persistent id `('storage', class, key, 'cpu', numel)`.
    fn storage(&mut self, key: usize) -> io::Result<()> {
        let Storage { tensor, bytes, .. } = &self.storages[key];
        let dtype = tensor.dtype();
        let out = &mut self.out;
        out.push(b'('); // MARK
        push_text(out, "storage")?;
        out.extend(format!("ctorch\n{}\n", storage_class(dtype)).into_bytes()); // GLOBAL
        push_text(out, &key.to_string())?;
        push_text(out, "cpu")?;
        push_count(out, bytes / dtype.size_bytes())?;
        out.extend(b"tQ"); // TUPLE, BINPERSID
        Ok(())
    }
}

/// Keys joined by dots.
fn below(name: &str, key: &str) -> String {
    if name.is_empty() {
        key.to_owned()
    } else {
        format!("{name}.{key}")
    }
}

fn push_empty_ordered_dict(out: &mut Vec<u8>) {
    out.extend(b"ccollections\nOrderedDict\n)R"); // GLOBAL, EMPTY_TUPLE, REDUCE
}

fn push_tuple(out: &mut Vec<u8>, numbers: &[usize]) -> io::Result<()> {
    out.push(b'('); // MARK
    for &number in numbers {
        push_count(out, number)?;
    }
    out.push(b't'); // TUPLE
    Ok(())
}

fn push_count(out: &mut Vec<u8>, number: usize) -> io::Result<()> {
    push_int(out, i64::try_from(number).map_err(io::Error::other)?);
    Ok(())
}

fn push_int(out: &mut Vec<u8>, number: i64) {
    if let Ok(narrow) = i32::try_from(number) {
        out.push(b'J'); // BININT
        out.extend(narrow.to_le_bytes());
    } else {
        out.extend(b"\x8a\x08"); // LONG1 of 8 bytes
        out.extend(number.to_le_bytes());
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let len = u32::try_from(text.len()).map_err(io::Error::other)?;
    out.push(b'X'); // BINUNICODE
    out.extend(len.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

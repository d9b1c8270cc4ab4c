//! The tree that a pickle stands for.

use std::fmt;
use std::sync::Arc;

use crate::formats::host_tensor::Dtype;
use crate::text::{printable, shown};

/// A storage named in the pickle, where a tensor's bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageRef {
    /// Name of the storage in the file.
    pub key: Arc<str>,
    /// Element type.
    pub dtype: Dtype,
    /// Elements in the storage.
    pub numel: usize,
}

/// A tensor as the pickle describes it: a view of a storage. Nothing here has been checked against the
/// storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// Its storage.
    pub storage: StorageRef,
    /// First element, counted in elements.
    pub offset: usize,
    /// Length of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// Step along each dimension, in elements.
    pub strides: Vec<usize>,
}

/// The contents of a pickle: a tree. A shared object appears at each of its places.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
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
    /// A dict or an object that was filled like one (`OrderedDict`, `defaultdict`), in the file's order; string and
    /// integer keys are unique.
    Dict(Vec<(Value, Value)>),
    /// A tensor or a parameter, its data still in the file.
    Tensor(Arc<TensorRef>),
    /// Anything else, which is not looked into: the name of an object's class, or of a class or function itself.
    Opaque(PyName),
}

/// The name of a Python class or function, as a file spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyName(Arc<(Arc<str>, Arc<str>)>);

impl PyName {
    /// The name `name` of the module `module`.
    pub fn new(module: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new((module.into(), name.into())))
    }

    /// True for this name of this module.
    pub fn is(&self, module: &str, name: &str) -> bool {
        (self.module(), self.last()) == (module, name)
    }

    /// The module.
    pub fn module(&self) -> &str {
        &self.0.0
    }

    /// The name in its module.
    pub fn last(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Display for PyName {
    /// Safe to print: the file chose the names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = match self.module() {
            // Protocol 2 spells it as Python 2 did.
            "__builtin__" => "builtins",
            module => module,
        };
        let name = format!("{module}.{}", self.last());
        f.write_str(&printable(&shown(&name)))
    }
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

    /// A short human-readable description: `tensor float32 [64, 3, 3, 3]`, `dict of 130`, `int 5`.
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
            Self::Opaque(name) => format!("object {name}"),
        }
    }
}

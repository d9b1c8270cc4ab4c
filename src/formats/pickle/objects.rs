//! Objects of classes that are not known: nothing of them is run, and no more kept than the name of their
//! class, or their attributes.

use super::error::Result;
use super::machine::{Machine, Node, Object};
use super::value::PyName;

impl Machine<'_> {
    pub(super) fn push_object(&mut self, class: PyName) -> Result<()> {
        self.push(Node::Object(Object {
            class,
            pairs: Vec::new(),
            attributes: None,
        }))
    }

    /// The class of what calling `function` makes: itself, unless it is one of those that make objects of a class that
    /// is their first argument.
    pub(super) fn class_made_by(&self, function: usize, args: &[usize]) -> Result<PyName> {
        let name = self.class_at(function)?;
        let makes_first = matches!(
            name.last(),
            "_reconstruct" | "_reconstructor" | "__newobj__" | "__newobj_ex__" | "getattr"
        );
        match args.first() {
            Some(&class) if makes_first => self.class_at(class).or(Ok(name)),
            // How protocol 2 spells bytes, and protocol 5 arrays.
            Some(_) if name.is("_codecs", "encode") => Ok(PyName::new("builtins", "bytes")),
            Some(_) if name.last() == "_frombuffer" => Ok(PyName::new("numpy", "ndarray")),
            _ => Ok(name),
        }
    }

    /// The name of a class or function; an object that is called stands for its own class.
    pub(super) fn class_at(&self, node: usize) -> Result<PyName> {
        match &self.nodes[node] {
            Node::Global(global) => Ok(global.name()),
            Node::Object(object) => Ok(object.class.clone()),
            _ => Err(self.input.malformed("a class or function to call")),
        }
    }

    pub(super) fn push_object_of(&mut self, class: usize, args: usize) -> Result<()> {
        if !matches!(self.nodes[args], Node::Tuple(_)) {
            return Err(self.input.malformed("a tuple of arguments"));
        }
        let class = self.class_at(class)?;
        self.push_object(class)
    }

    pub(super) fn new_object(&mut self) -> Result<()> {
        let (args, class) = (self.pop()?, self.pop()?);
        self.push_object_of(class, args)
    }

    pub(super) fn new_object_with_names(&mut self) -> Result<()> {
        let (_named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
        self.push_object_of(class, args)
    }

    pub(super) fn instance(&mut self) -> Result<()> {
        let (module, name) = (self.input.line()?, self.input.line()?);
        self.pop_to_mark()?;
        self.push_object(PyName::new(module, name))
    }

    pub(super) fn object_from_mark(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        let Some(&class) = items.first() else {
            return Err(self.input.malformed("a class above the MARK"));
        };
        let class = self.class_at(class)?;
        self.push_object(class)
    }

    pub(super) fn add_items(&mut self) -> Result<()> {
        self.pop_to_mark()?;
        let top = self.top()?;
        match self.nodes[top] {
            Node::Object(_) => Ok(()),
            _ => Err(self.input.malformed("a set to add to")),
        }
    }

    pub(super) fn frozenset(&mut self) -> Result<()> {
        self.pop_to_mark()?;
        self.push_object(PyName::new("builtins", "frozenset"))
    }
}

//! The functions and classes that a pickle names: those that are understood, and all others.

use std::mem::discriminant;
use std::sync::Arc;

use super::value::PyName;
use crate::formats::host_tensor::Dtype;

/// A function or class that a pickle names. Only the known ones do anything; calling any other makes an object that is
/// nothing but its class's name.
#[derive(Clone)]
pub(super) enum Global {
    OrderedDict,
    DefaultDict,
    RebuildTensor,
    RebuildParameter,
    RebuildParameterWithState,
    RebuildFromType,
    Size,
    Storage(Dtype),
    Other(PyName),
}

impl Global {
    pub(super) fn named(module: &Arc<str>, name: &Arc<str>) -> Self {
        let known = KNOWN
            .iter()
            .find(|known| known.1 == &**module && known.2 == &**name);
        if let Some((global, ..)) = known {
            return global.clone();
        }
        let storage = Dtype::ALL
            .into_iter()
            .find(|&dtype| storage_class(dtype) == &**name);
        match storage {
            Some(dtype) if &**module == "torch" => Self::Storage(dtype),
            _ => Self::Other(PyName::new(Arc::clone(module), Arc::clone(name))),
        }
    }

    pub(super) fn name(&self) -> PyName {
        let known = |(global, ..): &&(Self, &str, &str)| discriminant(global) == discriminant(self);
        match (self, KNOWN.iter().find(known)) {
            (Self::Other(name), _) => name.clone(),
            (Self::Storage(dtype), _) => PyName::new("torch", storage_class(*dtype)),
            (_, Some((_, module, name))) => PyName::new(*module, *name),
            (_, None) => PyName::new("builtins", "object"),
        }
    }
}

/// Functions and classes that are understood, with their modules and names; besides the classes of storages.
static KNOWN: [(Global, &str, &str); 7] = [
    (Global::OrderedDict, "collections", "OrderedDict"),
    (Global::DefaultDict, "collections", "defaultdict"),
    (Global::RebuildTensor, "torch._utils", "_rebuild_tensor_v2"),
    (
        Global::RebuildParameter,
        "torch._utils",
        "_rebuild_parameter",
    ),
    (
        Global::RebuildParameterWithState,
        "torch._utils",
        "_rebuild_parameter_with_state",
    ),
    (
        Global::RebuildFromType,
        "torch._tensor",
        "_rebuild_from_type_v2",
    ),
    (Global::Size, "torch", "Size"),
];

/// True for the name of a class whose objects are tensors as they are stored.
pub(super) fn is_tensor_class(name: &PyName) -> bool {
    [
        ("torch", "Tensor"),
        ("torch._tensor", "Tensor"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Buffer"),
    ]
    .iter()
    .any(|(module, class)| name.is(module, class))
}

/// Name of the class that torch's pickles give a storage of this dtype, in the module `torch`.
pub(in super::super) const fn storage_class(dtype: Dtype) -> &'static str {
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

//! The functions and classes that a pickle may name: the whitelist.

use crate::formats::host_tensor::Dtype;

/// The functions and classes that a pickle may name.
#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Dtype),
}

impl Global {
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
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

    pub(super) const fn name(self) -> &'static str {
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

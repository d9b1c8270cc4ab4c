//! Element types by three names: safetensors', PyTorch files' and libtorch's.

use safetensors::Dtype as Safetensors;
use tch::Kind;

use super::host_tensor::Dtype as Torch;

const ALL: [(Safetensors, Torch, Kind); 10] = [
    (Safetensors::F64, Torch::F64, Kind::Double),
    (Safetensors::F32, Torch::F32, Kind::Float),
    (Safetensors::F16, Torch::F16, Kind::Half),
    (Safetensors::BF16, Torch::BF16, Kind::BFloat16),
    (Safetensors::I64, Torch::I64, Kind::Int64),
    (Safetensors::I32, Torch::I32, Kind::Int),
    (Safetensors::I16, Torch::I16, Kind::Int16),
    (Safetensors::I8, Torch::I8, Kind::Int8),
    (Safetensors::U8, Torch::U8, Kind::Uint8),
    (Safetensors::BOOL, Torch::Bool, Kind::Bool),
];

/// libtorch's kind for a safetensors dtype, if there is one.
pub(crate) fn kind_of_safetensors(dtype: Safetensors) -> Option<Kind> {
    ALL.iter().find(|row| row.0 == dtype).map(|row| row.2)
}

/// libtorch's kind for a dtype of a PyTorch file; it has them all.
pub(crate) fn kind_of_torch(dtype: Torch) -> Kind {
    // The rows are in the order of the enum.
    ALL[dtype as usize].2
}

/// The safetensors dtype of a kind, if there is one.
pub(crate) fn to_safetensors(kind: Kind) -> Option<Safetensors> {
    ALL.iter().find(|row| row.2 == kind).map(|row| row.0)
}

/// The dtype of a kind in a PyTorch file, if there is one.
pub(crate) fn to_torch(kind: Kind) -> Option<Torch> {
    ALL.iter().find(|row| row.2 == kind).map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_of_a_pytorch_file_has_its_kind() {
        for (dtype, row) in Torch::ALL.into_iter().zip(ALL) {
            assert_eq!(dtype, row.1);
            assert_eq!(kind_of_torch(dtype), row.2);
            assert_eq!(to_torch(row.2), Some(dtype));
            assert_eq!(dtype.size_bytes(), row.2.elt_size_in_bytes());
        }
    }
}

//! A tensor in host memory: dtype, shape and bytes, without libtorch.
//!
//! Checkpoint readers return these and checkpoint writers accept them. The geometry here works on
//! numbers from files, so every product and sum is checked.

use std::fmt;

/// Element type of a [`HostTensor`]; displays as torch prints it, without the `torch.` prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE double, `float64`.
    F64,
    /// IEEE single, `float32`.
    F32,
    /// IEEE half, `float16`.
    F16,
    /// Upper half of an IEEE single, `bfloat16`.
    BF16,
    /// Signed 64-bit integer, `int64`.
    I64,
    /// Signed 32-bit integer, `int32`.
    I32,
    /// Signed 16-bit integer, `int16`.
    I16,
    /// Signed byte, `int8`.
    I8,
    /// Unsigned byte, `uint8`.
    U8,
    /// One byte that is 0 or 1, `bool`.
    Bool,
}

impl Dtype {
    /// Every dtype, widest float first.
    pub const ALL: [Self; 10] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::Bool,
    ];

    /// Bytes one element takes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Name as torch prints it, such as `float32`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.torch_name())
    }
}

/// Reasons why a shape, strides and bytes are not a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The element or byte count does not fit in memory's address range.
    #[error(
        "shape {shape:?} counts more bytes than a machine can address; the file is damaged or hostile"
    )]
    TooLarge {
        /// The shape that overflows.
        shape: Vec<usize>,
    },
    /// The data are longer or shorter than the shape requires.
    #[error("{dtype} {shape:?} takes {wanted_bytes} bytes, found {found_bytes}")]
    WrongLength {
        /// Element type.
        dtype: Dtype,
        /// Shape.
        shape: Vec<usize>,
        /// Bytes the shape takes.
        wanted_bytes: usize,
        /// Bytes found.
        found_bytes: usize,
    },
    /// A boolean byte other than 0 and 1.
    #[error("a bool is stored as 0 or 1, found {found}; the file is damaged")]
    NotBool {
        /// The byte found.
        found: u8,
    },
    /// The numbers of strides and of dimensions differ.
    #[error("{strides} strides for {dims} dimensions; the file is damaged")]
    StrideCount {
        /// Strides found.
        strides: usize,
        /// Dimensions of the shape.
        dims: usize,
    },
    /// Two elements of the view share memory in another way than by a stride of 0.
    #[error("shape {shape:?} with strides {strides:?} overlaps itself; save it with .contiguous()")]
    Overlap {
        /// Shape of the view.
        shape: Vec<usize>,
        /// Strides of the view, in elements.
        strides: Vec<usize>,
    },
    /// The view reaches outside its storage.
    #[error(
        "elements {offset}.. of a view of {span} were wanted, its storage holds {numel}; the file is damaged"
    )]
    PastStorage {
        /// First element of the view.
        offset: usize,
        /// Elements from the first to the last, both included.
        span: usize,
        /// Elements of the storage.
        numel: usize,
    },
    /// An expanded (stride 0) view that would take much more memory than the file.
    #[error(
        "needs {bytes} bytes in memory, the limit for this file is {limit_bytes}; save it with .clone()"
    )]
    Expanded {
        /// Bytes the tensor would take.
        bytes: usize,
        /// Most bytes this file may ask for.
        limit_bytes: usize,
    },
    /// The tensor's storage is not in the file.
    #[error("its storage {key:?} is not in the file; copy or download the file again")]
    NoStorage {
        /// Name of the storage.
        key: String,
    },
    /// The storage has another number of bytes than in the pickle.
    #[error("its storage {key:?} should hold {numel} x {dtype}, found {found_bytes} bytes")]
    StorageSize {
        /// Name of the storage.
        key: String,
        /// Elements according to the pickle.
        numel: usize,
        /// Element type according to the pickle.
        dtype: Dtype,
        /// Bytes in the file.
        found_bytes: u64,
    },
}

/// A contiguous row-major tensor in host memory, its elements little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Length of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, `shape.product() * dtype.size_bytes()` bytes.
    pub data: Vec<u8>,
}

impl HostTensor {
    /// Joins a shape and its bytes.
    ///
    /// # Errors
    /// If `data` has another length than the shape requires, or a bool is neither 0 nor 1.
    pub fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, TensorError> {
        let tensor = Self { dtype, shape, data };
        tensor.check()?;
        Ok(tensor)
    }

    /// The checks of [`HostTensor::new`], for a tensor whose public fields may have been changed.
    ///
    /// # Errors
    /// As [`HostTensor::new`].
    pub fn check(&self) -> Result<(), TensorError> {
        let wanted_bytes = byte_len(self.dtype, &self.shape)?;
        if self.data.len() != wanted_bytes {
            return Err(TensorError::WrongLength {
                dtype: self.dtype,
                shape: self.shape.clone(),
                wanted_bytes,
                found_bytes: self.data.len(),
            });
        }
        if self.dtype == Dtype::Bool
            && let Some(&found) = self.data.iter().find(|&&byte| byte > 1)
        {
            return Err(TensorError::NotBool { found });
        }
        Ok(())
    }
}

/// Bytes that a tensor of this dtype and shape takes.
///
/// # Errors
/// If the count overflows; of an empty tensor, that of its other dimensions, since libtorch
/// multiplies those too.
pub(super) fn byte_len(dtype: Dtype, shape: &[usize]) -> Result<usize, TensorError> {
    let bytes = shape
        .iter()
        .try_fold(dtype.size_bytes(), |bytes, &dim| {
            bytes.checked_mul(dim.max(1))
        })
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| TensorError::TooLarge {
            shape: shape.to_vec(),
        })?;
    Ok(if shape.contains(&0) { 0 } else { bytes })
}

/// Elements from the first to the last of a strided view, both included; 0 when the view is empty.
///
/// # Errors
/// If there are not as many strides as dimensions, the count overflows, or elements overlap in
/// another way than by a stride of 0. The overlap test is the usual sufficient one (each stride
/// steps over all that the smaller ones reach), so an interleaving that happens not to collide is
/// refused too.
pub(super) fn strided_span(shape: &[usize], strides: &[usize]) -> Result<usize, TensorError> {
    if shape.len() != strides.len() {
        return Err(TensorError::StrideCount {
            strides: strides.len(),
            dims: shape.len(),
        });
    }
    if shape.contains(&0) {
        return Ok(0);
    }
    let mut steps: Vec<(usize, usize)> =
        strides.iter().copied().zip(shape.iter().copied()).collect();
    steps.retain(|&(stride, dim)| stride > 0 && dim > 1);
    steps.sort_unstable();
    let mut last = 0_usize;
    for (stride, dim) in steps {
        if stride <= last {
            return Err(TensorError::Overlap {
                shape: shape.to_vec(),
                strides: strides.to_vec(),
            });
        }
        last = stride
            .checked_mul(dim - 1)
            .and_then(|reach| last.checked_add(reach))
            .filter(|&last| last < usize::MAX)
            .ok_or_else(|| TensorError::TooLarge {
                shape: shape.to_vec(),
            })?;
    }
    Ok(last + 1)
}

/// Strides of a contiguous tensor, in elements, as torch reports them: a dimension of 0 counts as
/// 1.
pub(super) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim].max(1));
    }
    strides
}

/// True if the view's elements are contiguous; the stride of a dimension of 1 does not matter.
pub(super) fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    shape.contains(&0)
        || contiguous_strides(shape)
            .iter()
            .zip(strides)
            .zip(shape)
            .all(|((wanted, stride), &dim)| dim == 1 || wanted == stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_wants_the_length_the_shape_says() {
        assert!(HostTensor::new(Dtype::F32, vec![2, 3], vec![0; 24]).is_ok());
        assert!(HostTensor::new(Dtype::F32, vec![], vec![0; 4]).is_ok());
        assert!(HostTensor::new(Dtype::F32, vec![0, 3], vec![]).is_ok());
        let error = HostTensor::new(Dtype::BF16, vec![2, 3], vec![0; 24]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bfloat16 [2, 3] takes 12 bytes, found 24"
        );
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        assert!(HostTensor::new(Dtype::Bool, vec![2], vec![0, 1]).is_ok());
        let error = HostTensor::new(Dtype::Bool, vec![2], vec![0, 2]).unwrap_err();
        assert_eq!(error, TensorError::NotBool { found: 2 });
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        let shape = vec![usize::MAX, 2];
        assert_eq!(
            byte_len(Dtype::U8, &shape),
            Err(TensorError::TooLarge { shape })
        );
        assert!(byte_len(Dtype::F64, &[usize::MAX / 4]).is_err());
        assert!(byte_len(Dtype::U8, &[isize::MAX as usize + 1]).is_err());
        assert!(byte_len(Dtype::F64, &[usize::MAX, 0]).is_err());
        assert_eq!(byte_len(Dtype::F64, &[900, 0]), Ok(0));
    }

    #[test]
    fn span_counts_to_the_last_element() {
        assert_eq!(strided_span(&[], &[]), Ok(1));
        assert_eq!(strided_span(&[2, 3], &[3, 1]), Ok(6));
        assert_eq!(strided_span(&[3, 2], &[1, 3]), Ok(6));
        assert_eq!(strided_span(&[2, 2], &[6, 2]), Ok(9));
        assert_eq!(strided_span(&[5, 3], &[0, 1]), Ok(3));
        assert_eq!(strided_span(&[1], &[usize::MAX]), Ok(1));
        assert_eq!(strided_span(&[0], &[usize::MAX]), Ok(0));
    }

    #[test]
    fn bad_strides_are_refused() {
        assert!(matches!(
            strided_span(&[2], &[1, 1]),
            Err(TensorError::StrideCount { .. })
        ));
        assert!(matches!(
            strided_span(&[3, 3], &[1, 1]),
            Err(TensorError::Overlap { .. })
        ));
        assert!(matches!(
            strided_span(&[3], &[usize::MAX]),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(matches!(
            strided_span(&[2], &[usize::MAX]),
            Err(TensorError::TooLarge { .. })
        ));
    }
}

//! Plain `state_dict`s and other Python objects by file name, with libtorch's tensors.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, TchError, Tensor};

use super::dtypes;
use super::host_tensor::Dtype;
use super::pt::write::{self, Item, TensorData};
use super::weights_file::WeightsFile;
use crate::fs::write_atomic;

/// Reads a plain `state_dict` from any container of weights, in the file's order.
///
/// # Errors
/// Each names the file, the finding and what was wanted.
pub fn read_state_dict(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = WeightsFile::open(path)?;
    file.state_dict(&file.root)
}

/// Writes a plain `state_dict` that `torch.load(weights_only=True)` reads, whole or not at all.
pub fn write_state_dict(path: &Path, state_dict: &[(String, Tensor)]) -> Result<()> {
    let items = state_dict
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), tensor_item(tensor)?)))
        .collect::<Result<_>>()?;
    write_pt(path, &Item::OrderedDict(items))
}

/// Writes any object of plain data and tensors as `torch.save` does, whole or not at all.
pub(crate) fn write_pt(path: &Path, root: &Item) -> Result<()> {
    write_atomic(path, |file| Ok(write::write_pt(file, root)?))
}

/// A tensor (any device, any strides) as part of a file to write; shares its memory with `tensor`.
///
/// # Errors
/// A dtype that these files cannot hold.
pub(crate) fn tensor_item(tensor: &Tensor) -> Result<Item<'static>> {
    let dtype = dtypes::to_torch(tensor.kind());
    Ok(Item::tensor(TorchTensor {
        dtype: dtype.with_context(|| format!("a .pt file cannot hold {:?}", tensor.kind()))?,
        shape: tensor.size().iter().map(|&n| n as usize).collect(),
        tensor: tensor.shallow_clone(),
    }))
}

/// A tensor to be written; its bytes are copied to the host when its turn comes.
struct TorchTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    tensor: Tensor,
}

impl TensorData for TorchTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        let copy = || -> std::result::Result<Vec<u8>, TchError> {
            let host = self.tensor.f_detach()?;
            let host = host.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut bytes = vec![0; host.numel() * self.dtype.size_bytes()];
            host.f_copy_data_u8(&mut bytes, host.numel())?;
            Ok(bytes)
        };
        copy().map(Cow::Owned).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn tensors_of_any_strides_come_back_from_nested_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nested.pt");
        let table = Tensor::from_slice(&[1f64, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        let tensors = [
            ("transposed", table.tr()),
            ("part", table.narrow(1, 1, 2)),
            (
                "trained",
                table.to_kind(Kind::Float).set_requires_grad(true),
            ),
            ("half", table.to_kind(Kind::BFloat16)),
            ("mask", table.gt(2.5)),
            ("scalar", Tensor::from(7i64)),
        ];
        let items = tensors
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor_item(tensor).unwrap()));
        let model = Item::OrderedDict(items.collect());
        let root = Item::Dict(vec![
            ("step".to_owned(), Item::Int(9)),
            ("ema".to_owned(), model.clone()),
            ("model".to_owned(), model),
        ]);
        write_pt(&path, &root).unwrap();

        let file = WeightsFile::open(&path).unwrap();
        assert_eq!(file.root.at("step").unwrap().kind(), "int 9");
        for group in ["ema", "model"] {
            let read = file.state_dict(file.root.get(group).unwrap()).unwrap();
            assert_eq!(read.len(), tensors.len());
            for ((name, tensor), (read_name, read)) in tensors.iter().zip(&read) {
                assert_eq!(read_name, name);
                assert_eq!(read.kind(), tensor.kind());
                assert_eq!(read, tensor, "{name}");
            }
        }
    }

    #[test]
    fn a_dtype_without_a_place_is_refused_before_a_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("complex.pt");
        let complex = Tensor::from(1.0).to_kind(Kind::ComplexFloat);
        let error = write_state_dict(&path, &[("z".to_owned(), complex)]).unwrap_err();
        assert!(error.to_string().contains("ComplexFloat"));
        assert!(!path.exists());
    }
}

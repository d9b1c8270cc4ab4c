//! Plain `state_dict`s by file name: `.safetensors`, or PyTorch's own format for anything else.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::host_tensor::HostTensor;
use super::{dtypes, pt, pt_write, safetensors};
use crate::fs::write_atomic;

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

/// Reads a plain `state_dict`, in the file's order.
///
/// # Errors
/// Each names the file, what was seen and what was wanted.
pub fn read_state_dict(path: &Path) -> Result<Vec<(String, Tensor)>> {
    if is_safetensors(path) {
        return Ok(safetensors::open(path)?.tensors);
    }
    let tensors = pt::read(path)?.state_dict()?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = to_tensor(&tensor)
                .with_context(|| format!("tensor {name} of {}", path.display()))?;
            Ok((name, tensor))
        })
        .collect()
}

/// Writes a plain `state_dict` that `torch.load(weights_only=True)` reads, whole or not at all.
pub fn write_state_dict(path: &Path, state_dict: &[(String, Tensor)]) -> Result<()> {
    let tensors = state_dict
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), to_host(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    write_atomic(path, |file| Ok(pt_write::write_state_dict(file, &tensors)?))
}

fn to_tensor(host: &HostTensor) -> Result<Tensor> {
    let kind = dtypes::kind_of_torch(host.dtype);
    let shape: Vec<i64> = host.shape.iter().map(|&n| n as i64).collect();
    let kind = kind.context("a dtype without a place in libtorch")?;
    Ok(Tensor::f_from_data_size(&host.data, &shape, kind)?)
}

fn to_host(tensor: &Tensor) -> Result<HostTensor> {
    let host = tensor.detach().to_device(Device::Cpu).contiguous();
    let dtype = dtypes::to_torch(host.kind());
    let dtype = dtype.with_context(|| format!("a .pt file cannot hold {:?}", host.kind()))?;
    let mut data = vec![0; host.numel() * dtype.size_bytes()];
    host.f_copy_data_u8(&mut data, host.numel())?;
    let shape = host.size().iter().map(|&n| n as usize).collect();
    Ok(HostTensor::new(dtype, shape, data)?)
}

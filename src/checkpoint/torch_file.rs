//! Plain `state_dict`s by file name: `.safetensors`, or PyTorch's own format for anything else.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::host_tensor::{Dtype, HostTensor};
use super::{pt, pt_write, safetensors};
use crate::fs::write_atomic;

const KINDS: [(Dtype, Kind); 10] = [
    (Dtype::F64, Kind::Double),
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::Bool, Kind::Bool),
];

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
    let kind = KINDS
        .iter()
        .find(|(d, _)| *d == host.dtype)
        .map(|(_, k)| *k);
    let shape: Vec<i64> = host.shape.iter().map(|&n| n as i64).collect();
    let kind = kind.context("a dtype without a place in libtorch")?;
    Ok(Tensor::f_from_data_size(&host.data, &shape, kind)?)
}

fn to_host(tensor: &Tensor) -> Result<HostTensor> {
    let host = tensor.detach().to_device(Device::Cpu).contiguous();
    let dtype = KINDS
        .iter()
        .find(|(_, k)| *k == host.kind())
        .map(|(d, _)| *d);
    let dtype = dtype.with_context(|| format!("a .pt file cannot hold {:?}", host.kind()))?;
    let mut data = vec![0; host.numel() * dtype.size_bytes()];
    host.f_copy_data_u8(&mut data, host.numel())?;
    let shape = host.size().iter().map(|&n| n as usize).collect();
    Ok(HostTensor::new(dtype, shape, data)?)
}

//! safetensors files: read by mapping, written whole or not at all.

mod header;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, View};
use tch::{Device, Kind, Tensor};

use self::header::read_header;
use super::dtypes;
use crate::fs::{open_regular, write_atomic};
use crate::native;
use crate::text::shown;

/// A mapped file. The tensors share its pages until they are copied.
#[derive(Debug)]
pub struct SafetensorsFile {
    /// The header's `__metadata__`.
    pub metadata: HashMap<String, String>,
    /// All tensors on CPU, sorted by name.
    pub tensors: Vec<(String, Tensor)>,
}

/// True if a file begins like a safetensors file: eight bytes of length, then JSON.
///
/// # Errors
/// A missing file, or no permission to read it.
pub fn is(path: &Path) -> Result<bool> {
    let mut head = [0; 9];
    let mut file = open_regular(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(std::io::Read::read_exact(&mut file, &mut head).is_ok() && head[8] == b'{')
}

/// Checks a file's header and maps its tensors.
///
/// # Errors
/// A missing or truncated file, not a safetensors file, a dtype libtorch does not have; each names the file.
pub fn open(path: &Path) -> Result<SafetensorsFile> {
    map(path).with_context(|| format!("cannot read {}", path.display()))
}

fn map(path: &Path) -> Result<SafetensorsFile> {
    // libtorch opens it again by its name.
    let file_bytes = open_regular(path)?.metadata()?.len();
    ensure!(
        file_bytes >= 8,
        "not a safetensors file: {file_bytes} bytes long"
    );
    let name = path
        .to_str()
        .context("libtorch maps only files with UTF-8 names")?;
    let file = Tensor::f_from_file(name, false, file_bytes as i64, (Kind::Uint8, Device::Cpu))?;
    let (header_bytes, header) = read_header(native::host_bytes(&file)?).with_context(|| {
        format!("not a safetensors file, or a truncated one of {file_bytes} bytes")
    })?;
    let data_start = 8 + header_bytes as i64;

    let mut tensors = Vec::new();
    for (key, info) in header.tensors() {
        let (start, end) = info.data_offsets;
        let raw = file.f_narrow(0, data_start + start as i64, (end - start) as i64)?;
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let kind = dtypes::kind_of_safetensors(info.dtype).with_context(|| {
            format!(
                "tensor {:?} is {:?}, which libtorch does not have; convert it to f32 in Python",
                shown(&key),
                info.dtype
            )
        })?;
        let tensor = typed(&raw, kind).and_then(|t| Ok(t.f_view(shape.as_slice())?));
        tensors.push((
            key.clone(),
            tensor.with_context(|| format!("tensor {:?}", shown(&key)))?,
        ));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(SafetensorsFile {
        metadata: header.metadata().clone().unwrap_or_default(),
        tensors,
    })
}

/// Reinterprets bytes; a tensor that starts off its element size is copied first.
fn typed(raw: &Tensor, kind: Kind) -> Result<Tensor> {
    if kind == Kind::Uint8 {
        return Ok(raw.shallow_clone());
    }
    if kind == Kind::Bool {
        // libtorch does not check this.
        if let Some(found) = native::host_bytes(raw)?.iter().find(|&&byte| byte > 1) {
            bail!("a bool is stored as 0 or 1, found {found}; the file is damaged");
        }
    }
    // An empty tensor has no address to check.
    let aligned =
        raw.numel() > 0 && (raw.data_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes());
    let raw = if aligned {
        raw.shallow_clone()
    } else {
        raw.copy()
    };
    Ok(raw.f_view_dtype(kind)?)
}

/// Writes `tensors` (any device, any strides) with one metadata entry.
///
/// # Errors
/// Disk full, folder not writable, …; an older file at `path` stays as it was.
pub fn write(path: &Path, metadata: (String, String), tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, TensorView::new(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    write_atomic(path, |file| {
        let metadata = Some(HashMap::from([metadata]));
        safetensors::serialize_to_file(views, metadata, file.path())?;
        Ok(())
    })
}

/// A tensor to be written; its bytes are copied to the host one tensor at a time.
struct TensorView<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl<'a> TensorView<'a> {
    fn new(tensor: &'a Tensor) -> Result<TensorView<'a>> {
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        Ok(TensorView {
            tensor,
            dtype: dtypes::to_safetensors(tensor.kind())
                .with_context(|| format!("a safetensors file cannot hold {:?}", tensor.kind()))?,
            shape,
        })
    }
}

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let host = self.tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        host.copy_data_u8(&mut bytes, host.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dir: &Path) -> (std::path::PathBuf, Vec<(String, Tensor)>) {
        let path = dir.join("a.safetensors");
        let tensors = vec![
            (
                "b".to_owned(),
                Tensor::from_slice(&[1.5f32, -2.0, 3.25, 4.0]).view([2, 2]),
            ),
            ("a".to_owned(), Tensor::from_slice(&[1i64, -5])),
            ("odd".to_owned(), Tensor::from_slice(&[7u8, 8, 9])),
            (
                "t".to_owned(),
                Tensor::from_slice(&[1f64, 2.0, 3.0, 4.0]).view([2, 2]).tr(),
            ),
            (
                "half".to_owned(),
                Tensor::from_slice(&[0.5f32]).to_kind(Kind::BFloat16),
            ),
        ];
        write(&path, ("k".into(), "v".into()), &tensors).unwrap();
        (path, tensors)
    }

    #[test]
    fn round_trip_of_kinds_strides_and_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let (path, tensors) = sample(dir.path());
        let file = open(&path).unwrap();
        assert_eq!(file.metadata["k"], "v");
        assert_eq!(file.tensors.len(), tensors.len());
        for (name, tensor) in &tensors {
            let (_, read) = file.tensors.iter().find(|(n, _)| n == name).unwrap();
            assert_eq!(read.kind(), tensor.kind());
            assert_eq!(read, tensor);
        }
    }

    fn open_bytes(header: &str, data: &[u8]) -> Result<SafetensorsFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&length, header.as_bytes(), data].concat()).unwrap();
        open(&path)
    }

    #[test]
    fn tensors_may_start_anywhere_even_empty_ones() {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},
            "c":{"dtype":"F32","shape":[0,3],"data_offsets":[5,5]}}"#;
        let file = open_bytes(header, &[1, 0, 0, 0x80, 0x3f]).unwrap();
        assert_eq!(file.tensors[1].1, Tensor::from_slice(&[1f32]));
        assert_eq!(file.tensors[2].1.size(), [0, 3]);
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        let header = r#"{"m":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}"#;
        let tensors = open_bytes(header, &[0, 1, 0]).unwrap().tensors;
        assert_eq!(tensors[0].1, Tensor::from_slice(&[false, true, false]));
        let error = format!("{:#}", open_bytes(header, &[0, 1, 2]).unwrap_err());
        assert!(
            error.contains("tensor \"m\": a bool is stored as 0 or 1, found 2"),
            "{error}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = sample(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let cut = dir.path().join("cut.safetensors");
        for percent in 0..100 {
            std::fs::write(&cut, &whole[..whole.len() * percent / 100]).unwrap();
            let error = format!("{:#}", open(&cut).unwrap_err());
            assert!(error.contains("cut.safetensors"), "{error}");
        }
        std::fs::write(&cut, [whole.as_slice(), b"tail"].concat()).unwrap();
        assert!(open(&cut).is_err());
        std::fs::write(&cut, [0xff; 64]).unwrap();
        assert!(open(&cut).is_err());
    }
}

//! Files made by hand, byte for byte, and how tests look at what was read.

use std::io::{Cursor, Write};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use tch::Tensor;

use super::LEGACY_MAGIC;
use crate::formats::dtypes::to_torch;
use crate::formats::host_tensor::HostTensor;

/// A tensor's dtype, shape and bytes. Panics unless it is contiguous.
pub(in super::super) fn to_host(tensor: &Tensor) -> HostTensor {
    assert!(tensor.is_contiguous());
    let dtype = to_torch(tensor.kind()).unwrap();
    let mut data = vec![0; tensor.numel() * dtype.size_bytes()];
    tensor.copy_data_u8(&mut data, tensor.numel());
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    HostTensor::new(dtype, shape, data).unwrap()
}

pub(in super::super) fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, data) in entries {
        archive.start_file(*name, options).unwrap();
        archive.write_all(data).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

pub(in super::super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

pub(in super::super) fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

pub(in super::super) fn ints(values: &[i64]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|&value| int(value)).collect();
    [b"(", &values.concat()[..], b"t"].concat()
}

/// Instructions for a uint8 view of storage "0", said to hold `numel` elements.
pub(in super::super) fn view(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    view_of("ByteStorage", numel, offset, shape, strides)
}

/// [`view`] of any class of storage.
pub(in super::super) fn view_of(
    class: &str,
    numel: i64,
    offset: i64,
    shape: &[i64],
    strides: &[i64],
) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        format!("ctorch\n{class}\n").as_bytes(),
        &text("0"),
        &text("cpu"),
        &int(numel),
        b"tQ",
        &int(offset),
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A pickle of `{"w": view}`.
pub(in super::super) fn dict_of(view: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", &text("w")[..], view, b"s."].concat()
}

pub(in super::super) fn zip_view(view: &[u8]) -> Vec<u8> {
    zip_pickle(&dict_of(view), &[1, 2, 3, 4, 5, 6])
}

pub(in super::super) fn legacy_view(view: &[u8]) -> Vec<u8> {
    legacy_pickle(&dict_of(view), 6, &[1, 2, 3, 4, 5, 6])
}

/// A zip archive with one pickle and storage "0".
pub(in super::super) fn zip_pickle(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip_of(&[("a/data.pkl", pickle), ("a/data/0", storage)])
}

/// A file from before torch 1.6 with one pickle and storage "0" of `numel` elements.
pub(in super::super) fn legacy_pickle(pickle: &[u8], numel: u64, storage: &[u8]) -> Vec<u8> {
    [
        LEGACY_MAGIC,
        b"\x80\x02M\xe9\x03.",
        &[b"\x80\x02}", &text("little_endian")[..], b"\x88s."].concat(),
        pickle,
        &[b"\x80\x02]", &text("0")[..], b"a."].concat(),
        &numel.to_le_bytes(),
        storage,
    ]
    .concat()
}

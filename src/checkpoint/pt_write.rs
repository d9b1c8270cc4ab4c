//! Writes a flat state_dict as `torch.save` does: a zip archive of a protocol-2 pickle and raw
//! storages.
//!
//! Python reads it with `torch.load(FILE, weights_only=True)`, memory-mapped too. Each tensor gets
//! a storage of its own. torch's `.format_version` is left out on purpose: it promises the byte
//! layout of torch's own zip writer.

use std::collections::HashSet;
use std::io::{self, Seek, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::host_tensor::{HostTensor, contiguous_strides};
use super::pickle::storage_class;

/// Folder of the archive's entries; torch accepts any name.
const FOLDER: &str = "archive";
/// Where torch aligns storages, so that a memory-mapped tensor is aligned.
const ALIGNMENT_BYTES: u16 = 64;
/// Entries from this size on need the zip64 fields.
const ZIP64_BYTES: usize = u32::MAX as usize;

/// Writes `tensors` as an `OrderedDict`, in the order given; the same tensors make the same bytes.
///
/// Nothing is flushed to disk and no file is replaced here: that is the caller's part.
///
/// # Errors
/// `InvalidInput` if a name stands twice or a tensor's bytes do not fit its shape, before anything
/// is written; otherwise whatever the writer reports.
pub fn write_state_dict<W: Write + Seek>(
    writer: W,
    tensors: &[(String, HostTensor)],
) -> io::Result<()> {
    check(tensors)?;
    let pickle = pickle(tensors)?;
    let mut archive = ZipWriter::new(writer);
    add(&mut archive, "data.pkl", &pickle)?;
    add(&mut archive, "byteorder", b"little")?;
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        add(&mut archive, &format!("data/{key}"), &tensor.data)?;
    }
    add(&mut archive, "version", b"3\n")?;
    archive.finish()?;
    Ok(())
}

fn check(tensors: &[(String, HostTensor)]) -> io::Result<()> {
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
    let mut names = HashSet::new();
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(invalid(format!(
                "two tensors are named {name:?}; a state_dict holds each name once"
            )));
        }
        tensor
            .check()
            .map_err(|error| invalid(format!("tensor {name:?}: {error}")))?;
    }
    Ok(())
}

fn add<W: Write + Seek>(archive: &mut ZipWriter<W>, name: &str, data: &[u8]) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT_BYTES)
        .large_file(data.len() >= ZIP64_BYTES);
    archive.start_file(format!("{FOLDER}/{name}"), options)?;
    archive.write_all(data)
}

/// The pickle of `OrderedDict((name, tensor), ...)`; tensor `i` looks at storage `i`.
fn pickle(tensors: &[(String, HostTensor)]) -> io::Result<Vec<u8>> {
    let mut out = b"\x80\x02".to_vec(); // PROTO 2
    push_empty_ordered_dict(&mut out);
    out.push(b'('); // MARK
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        push_text(&mut out, name)?;
        push_tensor(&mut out, key, tensor)?;
    }
    out.extend(b"u."); // SETITEMS, STOP
    Ok(out)
}

/// A call of `_rebuild_tensor_v2(storage, 0, shape, strides, requires_grad=False,
/// hooks=OrderedDict())`.
fn push_tensor(out: &mut Vec<u8>, key: usize, tensor: &HostTensor) -> io::Result<()> {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n("); // GLOBAL, MARK
    push_storage(out, key, tensor)?;
    push_int(out, 0)?;
    push_tuple(out, &tensor.shape)?;
    push_tuple(out, &contiguous_strides(&tensor.shape))?;
    out.push(0x89); // NEWFALSE
    push_empty_ordered_dict(out);
    out.extend(b"tR"); // TUPLE, REDUCE
    Ok(())
}

/// The persistent id `('storage', class, key, 'cpu', numel)`.
fn push_storage(out: &mut Vec<u8>, key: usize, tensor: &HostTensor) -> io::Result<()> {
    out.push(b'('); // MARK
    push_text(out, "storage")?;
    out.extend(format!("ctorch\n{}\n", storage_class(tensor.dtype)).into_bytes()); // GLOBAL
    push_text(out, &key.to_string())?;
    push_text(out, "cpu")?;
    push_int(out, tensor.data.len() / tensor.dtype.size_bytes())?;
    out.extend(b"tQ"); // TUPLE, BINPERSID
    Ok(())
}

fn push_empty_ordered_dict(out: &mut Vec<u8>) {
    out.extend(b"ccollections\nOrderedDict\n)R"); // GLOBAL, EMPTY_TUPLE, REDUCE
}

fn push_tuple(out: &mut Vec<u8>, numbers: &[usize]) -> io::Result<()> {
    out.push(b'('); // MARK
    for &number in numbers {
        push_int(out, number)?;
    }
    out.push(b't'); // TUPLE
    Ok(())
}

fn push_int(out: &mut Vec<u8>, number: usize) -> io::Result<()> {
    let wide = i64::try_from(number).map_err(io::Error::other)?;
    if let Ok(narrow) = i32::try_from(wide) {
        out.push(b'J'); // BININT
        out.extend(narrow.to_le_bytes());
    } else {
        out.extend(b"\x8a\x08"); // LONG1 of 8 bytes
        out.extend(wide.to_le_bytes());
    }
    Ok(())
}

fn push_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let len = u32::try_from(text.len()).map_err(io::Error::other)?;
    out.push(b'X'); // BINUNICODE
    out.extend(len.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::super::host_tensor::Dtype;
    use super::super::pickle::{Value, unpickle};
    use super::*;

    fn tensor(dtype: Dtype, shape: &[usize]) -> HostTensor {
        let bytes = shape.iter().product::<usize>() * dtype.size_bytes();
        let data = (0..bytes).map(|byte| (byte % 2) as u8).collect();
        HostTensor::new(dtype, shape.to_vec(), data).unwrap()
    }

    #[test]
    fn storages_are_stored_and_aligned() {
        let tensors: Vec<_> = Dtype::ALL
            .map(|dtype| (dtype.to_string(), tensor(dtype, &[3, 5])))
            .into();
        let mut file = Cursor::new(Vec::new());
        write_state_dict(&mut file, &tensors).unwrap();
        let mut archive = zip::ZipArchive::new(file).unwrap();
        for (key, (_, tensor)) in tensors.iter().enumerate() {
            let mut entry = archive.by_name(&format!("archive/data/{key}")).unwrap();
            assert_eq!(entry.compression(), CompressionMethod::Stored);
            assert_eq!(entry.data_start().unwrap() % 64, 0);
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            assert_eq!(data, tensor.data);
        }
    }

    #[test]
    fn the_pickle_says_what_was_given() {
        let tensors = [
            ("scalar".to_owned(), tensor(Dtype::I64, &[])),
            ("leer \u{2205}".to_owned(), tensor(Dtype::BF16, &[0, 3])),
            ("conv".to_owned(), tensor(Dtype::F32, &[2, 3, 4])),
        ];
        let pickle = pickle(&tensors).unwrap();
        let Value::Dict(items) = unpickle(&mut &pickle[..]).unwrap().root else {
            panic!("wanted a dict");
        };
        let kinds: Vec<String> = (items.iter())
            .map(|(key, value)| format!("{} {}", key.kind(), value.kind()))
            .collect();
        assert_eq!(
            kinds,
            [
                "str \"scalar\" tensor int64 []",
                "str \"leer \u{2205}\" tensor bfloat16 [0, 3]",
                "str \"conv\" tensor float32 [2, 3, 4]",
            ]
        );
    }

    #[test]
    fn wide_counts_are_written_as_longs() {
        let mut out = b"\x80\x02".to_vec();
        push_int(&mut out, 3_000_000_000).unwrap();
        out.push(b'.');
        let value = unpickle(&mut &out[..]).unwrap().root;
        assert_eq!(value, Value::Int(3_000_000_000));
    }

    #[test]
    fn bad_input_is_refused_before_anything_is_written() {
        let mut wrong = tensor(Dtype::F32, &[2]);
        wrong.data.pop();
        let good = tensor(Dtype::F32, &[2]);
        for (tensors, message) in [
            (
                vec![("a".to_owned(), good.clone()), ("a".to_owned(), good)],
                "two tensors are named \"a\"; a state_dict holds each name once",
            ),
            (
                vec![("w".to_owned(), wrong)],
                "tensor \"w\": float32 [2] takes 8 bytes, found 7",
            ),
        ] {
            let mut file = Cursor::new(Vec::new());
            let error = write_state_dict(&mut file, &tensors).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), message);
            assert!(file.into_inner().is_empty());
        }
    }
}

//! The header of a safetensors file, checked beyond what the `safetensors` crate checks.
//!
//! The crate checks offsets and shapes against the file. Here are the limits it does not set: the
//! length of the header, the dimensions of a tensor, and duplicate keys, of which it would keep the last.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Metadata, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::text::quoting;
use crate::text::shown;

/// Longest header that is read: a thousand tensors take about 100 kB, and parsing may take forty
/// times the memory.
const MAX_HEADER_BYTES: u64 = 8 << 20;
/// Most dimensions of a tensor, which is torch's own limit.
const MAX_DIMS: usize = 64;

/// Reads the header that a file's bytes start with, and its length.
pub(super) fn read_header(file: &[u8]) -> Result<(usize, Metadata)> {
    let (length, rest) = file
        .split_first_chunk()
        .context("the length of its header is missing")?;
    let length = u64::from_le_bytes(*length);
    ensure!(
        length <= MAX_HEADER_BYTES,
        "its header should take {length} bytes, wanted at most {MAX_HEADER_BYTES}"
    );
    let text = rest.get(..length as usize).with_context(|| {
        let found = rest.len();
        format!("its header should take {length} bytes, found {found}")
    })?;
    serde_json::from_slice::<UniqueKeys>(text).map_err(quoting)?;
    let (length, header) = SafeTensors::read_metadata(file).map_err(quoting)?;
    for (name, info) in header.tensors() {
        ensure!(
            info.shape.len() <= MAX_DIMS,
            "tensor {:?} has {} dimensions, wanted at most {MAX_DIMS}",
            shown(&name),
            info.shape.len()
        );
    }
    Ok((length, header))
}

/// A JSON object without duplicate keys, here and in `__metadata__`.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let is_metadata = key == "__metadata__";
            if keys.contains(&key) {
                return Err(A::Error::custom(format!(
                    "the key {:?} is there twice; do not trust this file",
                    shown(&key)
                )));
            }
            keys.insert(key);
            if is_metadata {
                map.next_value::<Option<UniqueKeys>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str, data_bytes: usize) -> Result<(usize, Metadata)> {
        let length = (header.len() as u64).to_le_bytes();
        read_header(&[&length[..], header.as_bytes(), &vec![0; data_bytes]].concat())
    }

    fn problem(header: &str, data_bytes: usize) -> String {
        format!("{:#}", read(header, data_bytes).unwrap_err())
    }

    #[test]
    fn keys_stand_once() {
        let w = r#""w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
        assert!(read(&format!("{{{w}}}"), 1).is_ok());
        let twice = problem(&format!("{{{w},{w}}}"), 1);
        assert!(twice.contains(r#"the key "w" is there twice"#), "{twice}");
        let metadata = r#""__metadata__":{"a":"1","\u0061":"2"}"#;
        let twice = problem(&format!("{{{metadata},{w}}}"), 1);
        assert!(twice.contains(r#"the key "a" is there twice"#), "{twice}");
        assert!(read(&format!("{{\"__metadata__\":null,{w}}}"), 1).is_ok());
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed() {
        let header = format!("{{\"w{}", " ".repeat(MAX_HEADER_BYTES as usize));
        assert!(problem(&header, 0).contains("wanted at most 8388608"));
    }

    #[test]
    fn dimensions_are_limited() {
        let header = |dims: usize| {
            let shape = vec!["1"; dims].join(",");
            format!(r#"{{"w":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#)
        };
        assert!(read(&header(64), 1).is_ok());
        assert!(problem(&header(65), 1).contains("\"w\" has 65 dimensions"));
    }

    #[test]
    fn messages_are_cut_and_escaped() {
        let dtype = format!("\\u001b{}", "x".repeat(10_000));
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,1]}}}}"#);
        let message = problem(&header, 1);
        assert!(message.contains("variant `\\u{1b}xxx"), "{message}");
        assert!(message.len() < 3000);
    }
}

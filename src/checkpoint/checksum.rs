//! The checksum by which a file of ours proves unchanged.

use anyhow::Result;
use tch::Tensor;

use crate::formats::dtypes;
use crate::native::host_bytes;

/// BLAKE3 of the settings and of each tensor's name, type, shape and bytes, in the order of their names: 64
/// hexadecimal digits.
///
/// # Errors
/// A tensor that is not contiguous on CPU, or of a type safetensors does not have.
pub(super) fn checksum(meta: &str, tensors: &[(String, Tensor)]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    // JSON of each part shows where it ends, so that no two files read the same.
    hasher.update(&serde_json::to_vec(meta)?);
    let mut by_name: Vec<_> = tensors.iter().collect();
    by_name.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in by_name {
        let dtype = dtypes::to_safetensors(tensor.kind()).map(|dtype| dtype.to_string());
        hasher.update(&serde_json::to_vec(&(name, dtype, tensor.size()))?);
        // On one thread: the other threads are training.
        hasher.update(host_bytes(tensor)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_the_order_does_not() {
        let entry = |name: &str, values: &[f32]| (name.to_owned(), Tensor::from_slice(values));
        let of = |meta: &str, tensors: &[_]| checksum(meta, tensors).unwrap();
        let (a, b) = (entry("a", &[1.0]), entry("b", &[2.0, 3.0]));
        let first = of("{}", &[entry("a", &[1.0]), entry("b", &[2.0, 3.0])]);
        assert_eq!(first, of("{}", &[b, a]));
        for other in [
            of("{} ", &[entry("a", &[1.0]), entry("b", &[2.0, 3.0])]),
            of("{}", &[entry("a", &[1.0]), entry("c", &[2.0, 3.0])]),
            of("{}", &[entry("a", &[1.0]), entry("b", &[2.0, 3.5])]),
            of(
                "{}",
                &[
                    entry("a", &[1.0]),
                    (
                        "b".to_owned(),
                        Tensor::from_slice(&[2f32, 3.0]).view([2, 1]),
                    ),
                ],
            ),
            of("{}", &[entry("a", &[1.0])]),
        ] {
            assert_ne!(first, other);
        }
    }
}

//! The decoded data set in a file, for an instant next start.
//!
//! A safetensors file with one tensor `pixels` u8 `[N, C, H, W]` and, in its metadata, the
//! fingerprint of the folder and settings it was made from. It is mapped, not read: training pages
//! it in as it goes.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::PictureSpec;
use crate::checkpoint::safetensors;

/// Metadata of a cache file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheKey {
    /// Version of this layout.
    pub(super) version: u32,
    /// Hash of file names, sizes, times and decode settings.
    pub(super) fingerprint: String,
}

const METADATA_KEY: &str = "ddpm-cache";

/// The cached pixels if `path` exists and was made from the same folder and settings.
///
/// # Errors
/// A file that is there but is no cache: it is never overwritten.
pub(super) fn read(path: &Path, key: &CacheKey, spec: &PictureSpec) -> Result<Option<Tensor>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = safetensors::open(path)?;
    let Some(found) = file.metadata.get(METADATA_KEY) else {
        bail!(
            "{} is not a picture cache; name another file for --cache",
            path.display()
        );
    };
    let found: Result<CacheKey, _> = serde_json::from_str(found);
    if !matches!(found, Ok(k) if k == *key) {
        return Ok(None);
    }
    let (_, pixels) = file
        .tensors
        .into_iter()
        .find(|(name, _)| name == "pixels")
        .with_context(|| format!("{} holds no tensor `pixels`; delete it", path.display()))?;
    let size = pixels.size();
    let chw = [spec.channels, spec.height, spec.width].map(|n| n as i64);
    ensure!(
        pixels.kind() == Kind::Uint8 && size.len() == 4 && size[0] > 0 && size[1..] == chw,
        "{} holds {:?} {size:?}, not pictures of {chw:?}; delete it",
        path.display(),
        pixels.kind()
    );
    Ok(Some(pixels))
}

/// Writes `pixels` for a later [`read`] with the same key.
pub(super) fn write(path: &Path, key: &CacheKey, pixels: &Tensor) -> Result<()> {
    let metadata = (METADATA_KEY.to_owned(), serde_json::to_string(key)?);
    safetensors::write(
        path,
        metadata,
        &[("pixels".to_owned(), pixels.shallow_clone())],
    )
}

//! Cache file of the decoded data set, so that the next start is instant.
//!
//! A safetensors file. Its metadata hold the fingerprint of the folder and of the settings it was made from. It has
//! four u8 tensors: `pixels` `[N, C, H, W]`; `manifest`, the text of the list of these images; `skipped`, a line for
//! each file that could not be read: path below the folder, tab, reason, escaped as in the list; and `remarks`, a line
//! for each that there is something to say of. The pixels are memory-mapped: training reads them as it goes, so that
//! they may exceed memory.
//!
//! Version 2 is that of the first rules of images, and has no remarks. Version 1 had only the pixels; such a file is
//! rebuilt.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::{Kind, Tensor};

use super::folder::{Folder, Take};
use super::manifest::{escape, unescape};
use super::{ImageSpec, Manifest, Remarks};
use crate::config::ImageRules;
use crate::formats::safetensors;
use crate::fs::write_atomic;
use crate::native;

/// Version of the layout for images by these rules.
pub(super) fn version(rules: ImageRules) -> u32 {
    match rules {
        ImageRules::V1 => 2,
        ImageRules::V2 => 3,
    }
}

/// Metadata of a cache file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheKey {
    /// Version of the layout.
    pub(super) version: u32,
    /// Hash of file names, sizes, times and decode settings.
    pub(super) fingerprint: String,
}

const METADATA_KEY: &str = "ddpm-cache";

/// Offset of the pixels, whole pages; the header before them is written last.
const HEADER_BYTES: usize = 4096;

/// Contents of a cache file.
#[derive(Debug)]
pub(super) struct Cached {
    /// `[N, C, H, W]` u8.
    pub(super) pixels: Tensor,
    /// Names and hashes of the images.
    pub(super) manifest: Manifest,
    /// Files that could not be read, with the reason.
    pub(super) skipped: Vec<(PathBuf, String)>,
    /// What was noticed about others.
    pub(super) remarks: Remarks,
}

/// Reads the cache of folder `dir`; `None` unless `path` exists and was made from the same folder and settings.
///
/// # Errors
/// A file at `path` that is not a cache (it is never overwritten); a damaged cache.
pub(super) fn read(
    path: &Path,
    key: &CacheKey,
    dir: &Path,
    spec: &ImageSpec,
) -> Result<Option<Cached>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = safetensors::open(path)?;
    let Some(found) = file.metadata.get(METADATA_KEY) else {
        bail!(
            "{} is not an image cache; name another file for `start.cache`",
            path.display()
        );
    };
    let found: Result<CacheKey, _> = serde_json::from_str(found);
    if !matches!(found, Ok(k) if k == *key) {
        return Ok(None);
    }
    let tensor = |name: &str| {
        let found = file.tensors.iter().find(|(n, _)| n == name);
        found.map(|(_, tensor)| tensor.shallow_clone())
    };
    let damaged = || format!("{} is damaged; delete it", path.display());
    let unpacked = unpack(tensor, dir, spec).with_context(damaged)?;
    Ok(Some(unpacked))
}

/// Checks and reads the tensors of a file.
fn unpack(tensor: impl Fn(&str) -> Option<Tensor>, dir: &Path, spec: &ImageSpec) -> Result<Cached> {
    let tensor = |name: &str| tensor(name).with_context(|| format!("no tensor `{name}`"));
    let bytes = |name: &str| -> Result<Vec<u8>> {
        let tensor = tensor(name)?;
        ensure!(
            tensor.kind() == Kind::Uint8,
            "`{name}` is {:?}",
            tensor.kind()
        );
        Ok(native::host_bytes(&tensor)?.to_vec())
    };
    let pixels = tensor("pixels")?;
    let size = pixels.size();
    let chw = [spec.channels, spec.height, spec.width].map(|n| n as i64);
    ensure!(
        pixels.kind() == Kind::Uint8 && size.len() == 4 && size[0] > 0 && size[1..] == chw,
        "it holds {:?} {size:?}, expected images of {chw:?}",
        pixels.kind()
    );
    let manifest = Manifest::parse(&bytes("manifest")?).context("in tensor `manifest`")?;
    ensure!(
        manifest.len() as i64 == size[0],
        "it holds {} images and lists {}",
        size[0],
        manifest.len()
    );
    let text =
        |name: &str| String::from_utf8(bytes(name)?).with_context(|| format!("in tensor `{name}`"));
    let skipped = text("skipped")?;
    let skipped = skipped
        .lines()
        .map(|line| skipped_file(line, dir).with_context(|| format!("a skipped file: {line:?}")))
        .collect::<Result<_>>()?;
    let remarks = match spec.rules {
        ImageRules::V1 => Remarks::default(),
        ImageRules::V2 => Remarks::parse(&text("remarks")?)?,
    };
    Ok(Cached {
        pixels,
        manifest,
        skipped,
        remarks,
    })
}

/// A line of tensor `skipped`.
fn skipped_file(line: &str, dir: &Path) -> Option<(PathBuf, String)> {
    use std::os::unix::ffi::OsStringExt;
    let (path, reason) = line.split_once('\t')?;
    let path = std::ffi::OsString::from_vec(unescape(path)?);
    Some((dir.join(path), String::from_utf8(unescape(reason)?).ok()?))
}

/// Writes the images of folder `dir` that `decode` produces, for a later [`read`] with the same key.
///
/// Pixels are written as they come, so that they may exceed memory. This is why the file is assembled here: the
/// safetensors crate requires a whole tensor at once.
///
/// # Errors
/// Errors of `decode`; a full disk. An older file stays unchanged.
pub(super) fn write(
    path: &Path,
    key: &CacheKey,
    dir: &Path,
    spec: &ImageSpec,
    decode: impl FnOnce(&mut Take) -> Result<Folder>,
) -> Result<()> {
    write_atomic(path, |file| {
        let mut out = BufWriter::new(file.as_file_mut());
        out.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        let folder = decode(&mut |pixels| out.write_all(pixels))?;
        let mut texts = vec![
            ("manifest", folder.manifest.to_text()),
            ("skipped", skipped_text(&folder, dir)),
        ];
        if spec.rules >= ImageRules::V2 {
            texts.push(("remarks", folder.remarks.to_text()));
        }
        for (_, text) in &texts {
            out.write_all(text.as_bytes())?;
        }
        out.rewind()?;
        out.write_all(&header(key, spec, folder.manifest.len(), &texts)?)?;
        Ok(out.flush()?)
    })
}

/// Tensor `skipped`.
fn skipped_text(folder: &Folder, dir: &Path) -> String {
    let line = |(path, reason): &(PathBuf, String)| {
        let path = path.strip_prefix(dir).unwrap_or(path);
        let path = escape(path.as_os_str().as_encoded_bytes());
        format!("{path}\t{}\n", escape(reason.as_bytes()))
    };
    folder.skipped.iter().map(line).collect()
}

/// Header: length, JSON, and spaces up to the first pixel.
fn header(
    key: &CacheKey,
    spec: &ImageSpec,
    count: usize,
    texts: &[(&str, String)],
) -> Result<Vec<u8>> {
    let mut end = 0;
    let mut tensor = |shape: &[usize]| {
        let start = end;
        end += shape.iter().product::<usize>();
        json!({"dtype": "U8", "shape": shape, "data_offsets": [start, end]})
    };
    let mut json = json!({
        "__metadata__": {METADATA_KEY: serde_json::to_string(key)?},
        "pixels": tensor(&[count, spec.channels, spec.height, spec.width]),
    });
    for (name, text) in texts {
        json[name] = tensor(&[text.len()]);
    }
    let json = json.to_string();
    let length = HEADER_BYTES - size_of::<u64>();
    ensure!(json.len() <= length, "a header of {} bytes", json.len());
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(HEADER_BYTES, b' ');
    Ok(bytes)
}

#[cfg(test)]
mod tests;

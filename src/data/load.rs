//! From settings to the decoded data set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::cache::{self, CacheKey};
use super::{PictureSpec, Store, faces, folder};
use crate::config::{DataConfig, ModelConfig};

/// A data set ready for training, and what is worth telling about it.
#[derive(Debug)]
pub struct Loaded {
    /// The pictures.
    pub store: Store,
    /// Files that could not be read, each with the reason.
    pub skipped: Vec<(PathBuf, String)>,
    /// Where the pictures came from, for people.
    pub origin: String,
    /// File of each picture, in the store's order; empty for built-in pictures or from a cache.
    pub paths: Vec<PathBuf>,
}

/// Loads the pictures that `data` names in the shape that `model` wants.
///
/// `progress(done, total)` is called from several threads while files are decoded. `seed` draws the
/// built-in pictures.
///
/// # Errors
/// No such folder, no readable picture in it, a `cache` that is some other file.
pub fn load(
    data: &DataConfig,
    model: &ModelConfig,
    seed: u64,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Loaded> {
    let [channels, height, width] = model.chw().map(|n| n as usize);
    let spec = PictureSpec {
        height,
        width,
        channels,
        resize: data.resize,
        background: data.background,
    };
    match &data.folder {
        None => builtin(data.builtin_images, seed, &spec, device),
        Some(dir) => from_folder(dir, &spec, cache, device, progress),
    }
}

fn builtin(count: u64, seed: u64, spec: &PictureSpec, device: Device) -> Result<Loaded> {
    let bytes = faces::dataset(seed, count, spec.height, spec.width, spec.channels);
    let pixels = to_tensor(bytes, count as usize, spec)?;
    Ok(Loaded {
        store: Store::new(pixels, device)?,
        skipped: vec![],
        origin: format!("{count} built-in faces"),
        paths: vec![],
    })
}

fn from_folder(
    dir: &Path,
    spec: &PictureSpec,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Loaded> {
    let files = folder::list(dir)?;
    let key = CacheKey {
        version: 1,
        fingerprint: folder::fingerprint(dir, &files, spec)?,
    };
    if let Some(path) = cache
        && let Some(pixels) = cache::read(path, &key, spec)?
    {
        return Ok(Loaded {
            origin: format!("{} pictures cached in {}", pixels.size()[0], path.display()),
            store: Store::new(pixels, device)?,
            skipped: vec![],
            paths: vec![],
        });
    }
    if let Some(path) = cache {
        crate::fs::check_writable(path)?;
    }
    let total = files.len();
    let read = folder::load(dir, spec, &|done| progress(done, total))?;
    let pixels = to_tensor(read.pixels, read.count, spec)?;
    if let Some(path) = cache {
        cache::write(path, &key, &pixels).context("cannot keep the decoded pictures")?;
    }
    Ok(Loaded {
        store: Store::new(pixels, device)?,
        skipped: read.skipped,
        origin: format!("{} pictures from {}", read.count, dir.display()),
        paths: read.paths,
    })
}

/// Takes the bytes, so that they are not kept beside the tensor.
fn to_tensor(bytes: Vec<u8>, count: usize, spec: &PictureSpec) -> Result<Tensor> {
    let shape = [count, spec.channels, spec.height, spec.width].map(|n| n as i64);
    Ok(Tensor::f_from_slice(&bytes)?.f_view(shape)?)
}

//! From settings to the decoded data set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;
use tch::{Device, Tensor};

use super::cache::{self, CacheKey, Cached};
use super::{Manifest, PictureSpec, Store, faces, folder, manifest};
use crate::config::{DataConfig, ModelConfig};

/// A data set ready for training, and what is worth telling about it.
#[derive(Debug)]
pub struct Loaded {
    /// The pictures.
    pub store: Store,
    /// Files that could not be read, each with the reason; also those of the start that made the
    /// cache.
    pub skipped: Vec<(PathBuf, String)>,
    /// Where the pictures came from, for people.
    pub origin: String,
    /// Name and hash of each picture, in the store's order.
    pub manifest: Manifest,
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
    let hashes: Vec<u64> = bytes
        .par_chunks_exact(spec.bytes())
        .map(manifest::hash)
        .collect();
    let names = (0..count).map(|index| format!("face-{index:06}"));
    let manifest = Manifest::new(names.zip(hashes));
    let pixels = to_tensor(bytes, count as usize, spec)?;
    Ok(Loaded {
        store: Store::new(pixels, device)?,
        skipped: vec![],
        origin: format!("{count} built-in faces"),
        manifest,
    })
}

fn from_folder(
    dir: &Path,
    spec: &PictureSpec,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Loaded> {
    // Listed once: what is decoded is what the key is of. A file that changes from here on is
    // decoded as it is then, and has another key the next time.
    let listing = folder::list(dir)?;
    let key = CacheKey {
        version: cache::VERSION,
        fingerprint: folder::fingerprint(dir, &listing.files, spec),
    };
    if let Some(path) = cache
        && let Some(found) = cache::read(path, &key, dir, spec)?
    {
        let count = found.manifest.len();
        let origin = format!("{count} pictures cached in {}", path.display());
        return loaded(found, origin, device);
    }
    if let Some(path) = cache {
        crate::fs::check_writable(path)?;
    }
    let total = listing.files.len();
    let read = folder::load(dir, listing, spec, &|done| progress(done, total))?;
    let made = Cached {
        pixels: to_tensor(read.pixels, read.count, spec)?,
        manifest: read.manifest,
        skipped: read.skipped,
    };
    if let Some(path) = cache {
        cache::write(path, &key, dir, &made).context("cannot keep the decoded pictures")?;
    }
    let origin = format!("{} pictures from {}", read.count, dir.display());
    loaded(made, origin, device)
}

fn loaded(from: Cached, origin: String, device: Device) -> Result<Loaded> {
    Ok(Loaded {
        store: Store::new(from.pixels, device)?,
        skipped: from.skipped,
        origin,
        manifest: from.manifest,
    })
}

/// Takes the bytes, so that they are not kept beside the tensor.
fn to_tensor(bytes: Vec<u8>, count: usize, spec: &PictureSpec) -> Result<Tensor> {
    let shape = [count, spec.channels, spec.height, spec.width].map(|n| n as i64);
    Ok(Tensor::f_from_slice(&bytes)?.f_view(shape)?)
}

//! Loads and decodes the data set that the settings describe.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::cache::{self, CacheKey, Cached};
use super::folder::{self, Take};
use super::listing::{self, Listing};
use super::{
    DataError, ImageSpec, Loaded, Manifest, PassedOver, Remarks, Store, apart, faces, manifest,
};
use crate::config::{DataConfig, ImageRules, ModelConfig};
use crate::memory::available_bytes;
use crate::native;
use crate::report::bytes;
use crate::text::plural;

/// Loads the images that `data` names, in the shape that `model` expects. Those that it holds out are set apart.
///
/// `progress(done, total)` is called from several threads while files are decoded. `seed` seeds the
/// built-in images.
///
/// # Errors
/// A missing folder, one without readable images, or a `cache` file that is not an image cache; too many built-in
/// images; all of them held out.
pub fn load(
    data: &DataConfig,
    model: &ModelConfig,
    seed: u64,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Loaded> {
    load_until(data, model, seed, cache, device, progress, &|| false)
}

/// As [`load`], until `stop` is true, which several threads ask before each file.
///
/// # Errors
/// As `load`, and [`DataError::Stopped`]; a `cache` is then left as it was.
pub fn load_until(
    data: &DataConfig,
    model: &ModelConfig,
    seed: u64,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Loaded> {
    let [channels, height, width] = model.chw().map(|n| n as usize);
    let spec = ImageSpec {
        height,
        width,
        channels,
        resize: data.resize,
        background: data.background,
        rules: data.rules,
    };
    let all = match &data.folder {
        None => {
            data.check_builtin(model.chw())?;
            builtin(data.builtin_images, seed, &spec, device)?
        }
        Some(dir) => from_folder(dir, &spec, cache, device, progress, stop)?,
    };
    match &data.hold_out {
        None => Ok(all),
        Some(hold_out) => apart::set_apart(all, hold_out, |dir| {
            from_folder(dir, &spec, None, Device::Cpu, progress, stop)
        }),
    }
}

/// Total size of the image files in `dir` and below by these rules, bytes.
///
/// # Errors
/// A missing folder, or one without images.
pub fn file_bytes(dir: &Path, rules: ImageRules) -> Result<u64> {
    let files = listing::list(dir, rules)?.files;
    let sizes = files
        .iter()
        .filter_map(|file| Some(std::fs::metadata(file).ok()?.len()));
    Ok(sizes.sum())
}

fn builtin(count: u64, seed: u64, spec: &ImageSpec, device: Device) -> Result<Loaded> {
    let pixels = faces::dataset(seed, count, spec.height, spec.width, spec.channels);
    let bytes = pixels.as_slice().context("the faces have gaps")?;
    let hashes: Vec<u64> = (bytes.par_chunks_exact(spec.bytes()))
        .map(manifest::hash)
        .collect();
    let names = (0..count).map(|index| format!("face-{index:06}"));
    let manifest = Manifest::new(names.zip(hashes));
    Ok(Loaded {
        // Consumes the array, so that it is not kept beside the tensor.
        store: Store::new(Tensor::try_from(pixels)?, device)?,
        skipped: vec![],
        passed_over: PassedOver::default(),
        remarks: Remarks::default(),
        origin: format!("{count} built-in faces"),
        manifest,
        held_out: None,
    })
}

fn from_folder(
    dir: &Path,
    spec: &ImageSpec,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Loaded> {
    // Listed once, so that the key covers exactly the decoded files. A file that changes from here on
    // is decoded as it is then, and changes the key the next time.
    let listing = listing::list(dir, spec.rules)?;
    let passed_over = listing.passed_over.clone();
    let loaded = |from, origin, store: &dyn Fn(Tensor) -> Result<Store>| {
        loaded(from, origin, passed_over.clone(), store)
    };
    let key = CacheKey {
        version: cache::version(spec.rules),
        fingerprint: folder::fingerprint(dir, &listing.files, spec),
    };
    let total = listing.files.len();
    let progress = |done| progress(done, total);
    let Some(path) = cache else {
        let read = in_memory(dir, listing, spec, &progress, stop)?;
        let origin = from(read.manifest.len(), dir);
        return loaded(read, origin, &|pixels| Store::new(pixels, device));
    };
    let mapped = |pixels| Store::mapped(pixels, device);
    if let Some(found) = cache::read(path, &key, dir, spec)? {
        let count = found.manifest.len();
        let origin = format!(
            "{} cached in {}",
            plural(count as u64, "image"),
            path.display()
        );
        return loaded(found, origin, &mapped);
    }
    check_room(path, total, spec)?;
    let decode = |take: &mut Take| Ok(folder::load(dir, listing, spec, &progress, stop, take)?);
    cache::write(path, &key, dir, spec, decode).context("cannot keep the decoded images")?;
    let made = cache::read(path, &key, dir, spec)?.context("the cache was replaced meanwhile")?;
    let origin = from(made.manifest.len(), dir);
    loaded(made, origin, &mapped)
}

fn from(count: usize, dir: &Path) -> String {
    format!("{} from {}", plural(count as u64, "image"), dir.display())
}

fn loaded(
    from: Cached,
    origin: String,
    passed_over: PassedOver,
    store: impl FnOnce(Tensor) -> Result<Store>,
) -> Result<Loaded> {
    Ok(Loaded {
        store: store(from.pixels)?,
        skipped: from.skipped,
        passed_over,
        remarks: from.remarks,
        origin,
        manifest: from.manifest,
        held_out: None,
    })
}

/// Decodes a folder into one tensor.
fn in_memory(
    dir: &Path,
    listing: Listing,
    spec: &ImageSpec,
    progress: &(dyn Fn(usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Cached> {
    let count = listing.files.len();
    let mut pixels = allocate(count, spec, available_bytes(Device::Cpu))?;
    let (room, mut filled) = (native::host_bytes_mut(&mut pixels)?, 0);
    let mut take = |part: &[u8]| {
        room[filled..][..part.len()].copy_from_slice(part);
        filled += part.len();
        Ok(())
    };
    let read = folder::load(dir, listing, spec, progress, stop, &mut take)?;
    Ok(Cached {
        pixels: pixels.f_narrow(0, 0, read.manifest.len() as i64)?,
        manifest: read.manifest,
        skipped: read.skipped,
        remarks: read.remarks,
    })
}

/// Allocates `[count, C, H, W]` u8, if it fits into `free` bytes.
fn allocate(count: usize, spec: &ImageSpec, free: Option<u64>) -> Result<Tensor, DataError> {
    let free_bytes = free.unwrap_or(u64::MAX);
    let too_much = || DataError::OutOfMemory {
        count,
        image_bytes: spec.bytes(),
        free_bytes,
    };
    let wanted = count.checked_mul(spec.bytes()).ok_or_else(too_much)?;
    if wanted as u64 > free_bytes {
        return Err(too_much());
    }
    let shape = [count, spec.channels, spec.height, spec.width].map(|n| n as i64);
    Tensor::f_empty(shape, (Kind::Uint8, Device::Cpu)).map_err(|_| too_much())
}

/// Refuses up front a cache that the disk has no room for.
fn check_room(path: &Path, count: usize, spec: &ImageSpec) -> Result<()> {
    crate::fs::check_writable(path)?;
    let wanted = (count as u64).saturating_mul(spec.bytes() as u64);
    // The folder's file system: the file itself may not exist yet.
    if let Some(free) = crate::fs::free_bytes(crate::fs::folder_of(path))
        && free < wanted
    {
        bail!(
            "`start.cache` = {}: {count} decoded images take {} and {} are free there; name a file on another disk",
            path.display(),
            bytes(wanted),
            bytes(free)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_images_than_memory_is_an_error_that_names_the_cache() {
        let spec = ImageSpec::rgb(1, 1);
        for (count, free) in [(usize::MAX / 2, None), (5, Some(14)), (1 << 60, None)] {
            let error = allocate(count, &spec, free).unwrap_err();
            assert!(matches!(error, DataError::OutOfMemory { .. }), "{error}");
            assert!(error.to_string().contains("`start.cache`"), "{error}");
        }
        assert_eq!(allocate(5, &spec, Some(15)).unwrap().size(), [5, 3, 1, 1]);
    }

    #[test]
    fn more_images_than_the_disk_holds_are_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let error = check_room(&dir.path().join("cache"), 1 << 50, &ImageSpec::rgb(64, 64));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("another disk"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

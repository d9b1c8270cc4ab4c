//! Loads and decodes the data set that the settings describe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::cache::{self, CacheKey, Cached};
use super::entry::Entry;
use super::folder::{self, Take};
use super::labels::{self, Assigned};
use super::listing::Listing;
use super::manifest::escape;
use super::sources::{self, Wanted};
use super::{
    DataError, ImageSpec, Loaded, Manifest, PassedOver, Remarks, Store, apart, faces, manifest,
};
use crate::config::{DataConfig, ImageRules, LabelsFrom, ModelConfig, Sources};
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
/// A missing folder, one without readable images, an archive that is damaged, or a `cache` file that is not an image
/// cache; labels that cannot be used; too many built-in images; all of them held out.
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
    let spec = ImageSpec::of(model.chw(), data);
    let from = data.labels.as_ref().unwrap_or(&LabelsFrom::None);
    let all = match &data.folder {
        None => {
            data.check_builtin(model.chw())?;
            builtin(data.builtin_images, seed, &spec, device)?
        }
        Some(places) => from_sources(places, &spec, from, cache, device, progress, stop)?,
    };
    match &data.hold_out {
        None => Ok(all),
        Some(hold_out) => apart::set_apart(all, hold_out, |dir| {
            let places = Sources::from(dir);
            let read = |from| from_sources(&places, &spec, from, None, Device::Cpu, progress, stop);
            match read(from) {
                // What says the classes of the others need not know these.
                Err(error) if is_about_labels(&error) => {
                    let mut read = read(&LabelsFrom::None)?;
                    read.notices.push(format!("no labels: {error:#}"));
                    Ok(read)
                }
                read => read,
            }
        }),
    }
}

fn is_about_labels(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DataError::Labels { .. }))
}

/// Total size of the images of these sources by these rules, as files or bare pixels, bytes.
///
/// # Errors
/// A missing source, or one without images.
pub fn file_bytes(places: &Sources, rules: ImageRules) -> Result<u64> {
    let labels = false;
    let entries = sources::list(places, Wanted { rules, labels })?.entries;
    let sizes = entries.iter().filter_map(|entry| entry.place.bytes().ok());
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
        labels: None,
        why_no_labels: None,
        notices: vec![],
        held_out: None,
    })
}

fn from_sources(
    places: &Sources,
    spec: &ImageSpec,
    from: &LabelsFrom,
    cache: Option<&Path>,
    device: Device,
    progress: &(dyn Fn(usize, usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Loaded> {
    // Listed once, so that the key covers exactly the decoded files. A file that changes from here on
    // is decoded as it is then, and changes the key the next time.
    let wanted = Wanted {
        rules: spec.rules,
        labels: *from == LabelsFrom::Auto,
    };
    let listing = sources::list(places, wanted)?;
    let loaded = |read, origin, store: &dyn Fn(Tensor) -> Result<Store>| {
        loaded(read, origin, &listing, from, store)
    };
    let key = CacheKey {
        version: cache::version(spec.rules),
        fingerprint: folder::fingerprint(&listing.entries, spec),
    };
    let total = listing.entries.len();
    let progress = |done| progress(done, total);
    // For messages, and what paths in a cache are below.
    let dir = &PathBuf::from(places.to_string());
    let below = places.one().unwrap_or(Path::new(""));
    let Some(path) = cache else {
        let read = in_memory(dir, &listing, spec, &progress, stop)?;
        let origin = origin(read.manifest.len(), places);
        return loaded(read, origin, &|pixels| Store::new(pixels, device));
    };
    let mapped = |pixels| Store::mapped(pixels, device);
    if let Some(found) = cache::read(path, &key, below, spec)? {
        let count = found.manifest.len();
        let origin = format!(
            "{} cached in {}",
            plural(count as u64, "image"),
            path.display()
        );
        return loaded(found, origin, &mapped);
    }
    check_room(path, total, spec)?;
    let decode = |take: &mut Take| Ok(folder::load(dir, &listing, spec, &progress, stop, take)?);
    cache::write(path, &key, below, spec, decode).context("cannot keep the decoded images")?;
    let made = cache::read(path, &key, below, spec)?.context("the cache was replaced meanwhile")?;
    let origin = origin(made.manifest.len(), places);
    loaded(made, origin, &mapped)
}

fn origin(count: usize, places: &Sources) -> String {
    format!("{} from {places}", plural(count as u64, "image"))
}

fn loaded(
    read: Cached,
    origin: String,
    listing: &Listing,
    from: &LabelsFrom,
    store: impl FnOnce(Tensor) -> Result<Store>,
) -> Result<Loaded> {
    let entries = entries_of(&read.manifest, &listing.entries);
    let Assigned {
        labels,
        notices,
        why_none,
    } = labels::assign(from, &entries, &listing.said)?;
    Ok(Loaded {
        store: store(read.pixels)?,
        skipped: read.skipped,
        passed_over: listing.passed_over.clone(),
        remarks: read.remarks,
        origin,
        manifest: read.manifest,
        labels,
        why_no_labels: why_none,
        notices: [&listing.notices[..], &notices].concat(),
        held_out: None,
    })
}

/// Where each image of a list is from: those that could not be decoded are not in it.
fn entries_of<'a>(manifest: &Manifest, entries: &'a [Entry]) -> Vec<&'a Entry> {
    let mut found = Vec::with_capacity(manifest.len());
    for entry in entries {
        if manifest.name(found.len()) == Some(&escape(&entry.name)) {
            found.push(entry);
        }
    }
    found
}

/// Decodes all images into one tensor.
fn in_memory(
    dir: &Path,
    listing: &Listing,
    spec: &ImageSpec,
    progress: &(dyn Fn(usize) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Cached> {
    let count = listing.entries.len();
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

//! Pins keep a checkpoint for a file that needs it, such as a `.ddcm` file.
//!
//! `RUN/checkpoints/step-00002000.1f3a09c2.pin` is one file's hold on step-00002000.safetensors: a small JSON file with
//! that file's path, from which the eight digits are made, and the [`fingerprint`](super::fingerprint) of the network.
//! As long as a checkpoint has a pin, training does not remove it and does not count it among those to keep. A pinned
//! checkpoint that a rollback leaves behind becomes `step-00002000.pinned.safetensors`, since the run may come to the
//! same step again by another way. To release a checkpoint, delete its pins. Each pin is a file of its own, so that
//! several processes may pin while another one trains.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::calibration::Calibration;
use super::file::{Meta, Weights, read_checkpoint};
use super::newest::step_of;
use crate::fs::{folder_of, remove_on_quit, write_bytes};

/// Largest pin that is read: a path has at most 4 KiB.
const MAX_BYTES: u64 = 1 << 16;

/// One file's hold on a checkpoint.
#[derive(Debug)]
pub struct Pin {
    path: PathBuf,
    checkpoint: PathBuf,
    /// Removed again if the file that needs it is never written.
    tentative: bool,
}

/// Contents of a pin.
#[derive(Debug, Serialize, Deserialize)]
struct Needed {
    /// The file that needs the checkpoint.
    file: String,
    /// Fingerprint of the network that it needs, in hexadecimal.
    network: String,
}

impl Pin {
    /// Pins a checkpoint in a run for `file`, which need not be written yet; until [`keep`](Pin::keep) the pin goes
    /// with this value.
    ///
    /// # Errors
    /// Not a checkpoint in a run's folder; no permission, or a full disk; the checkpoint has just been removed.
    pub fn set(checkpoint: &Path, file: &Path, network: &blake3::Hash) -> Result<Pin> {
        let checkpoint = in_a_run(checkpoint).with_context(|| {
            let checkpoint = checkpoint.display();
            format!("{checkpoint} is not in the checkpoints of a run, and nothing will remove it")
        })?;
        let file = std::path::absolute(file)?;
        let digits = blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex();
        let path = checkpoint.with_extension(format!("{}.pin", &digits[..8]));
        let tentative = !path.exists();
        let needed = Needed {
            file: file.to_string_lossy().into_owned(),
            network: network.to_hex().to_string(),
        };
        let text = serde_json::to_string(&needed)? + "\n";
        if tentative {
            remove_on_quit(&path);
        }
        write_bytes(&path, text.as_bytes())?;
        let pin = Pin {
            path,
            checkpoint,
            tentative,
        };
        pin.check()?;
        Ok(pin)
    }

    /// The pin itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds out whether training removed the checkpoint just before it was pinned.
    ///
    /// # Errors
    /// It did.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.checkpoint.exists(),
            "{} was removed by its training meanwhile; start again",
            self.checkpoint.display()
        );
        Ok(())
    }

    /// The file is written: the pin stays.
    pub fn keep(mut self) {
        self.tentative = false;
        crate::fs::keep(&self.path);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.tentative {
            // A pin too many keeps a file too many: no harm.
            let _ = std::fs::remove_file(&self.path);
            crate::fs::keep(&self.path);
        }
    }
}

/// The path without links of a checkpoint that training may remove; `None` for any other file.
pub fn in_a_run(checkpoint: &Path) -> Option<PathBuf> {
    let path = std::fs::canonicalize(checkpoint).ok()?;
    let ours = step_of(&path).is_some();
    (ours && folder_of(&path).ends_with("checkpoints")).then_some(path)
}

/// All checkpoints of a run, also those set aside, from the newest; none without the folder.
pub fn every_checkpoint(run: &Path) -> Vec<PathBuf> {
    let mut found = entries(&run.join("checkpoints")).unwrap_or_default();
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("step-") && name.ends_with(".safetensors"))
    });
    found.sort();
    found.reverse();
    found
}

/// The checkpoints of a run that are pinned for this network.
pub fn pinned_for(run: &Path, network: &blake3::Hash) -> Vec<PathBuf> {
    let beside = entries(&run.join("checkpoints")).unwrap_or_default();
    let for_it = |pin: &Path| read(pin).is_ok_and(|pin| pin.network == network.to_hex().as_str());
    let mut found = every_checkpoint(run);
    found.retain(|path| beside.iter().any(|pin| is_pin_of(pin, path) && for_it(pin)));
    found
}

/// True if a file holds on to this checkpoint.
///
/// # Errors
/// The folder cannot be read.
pub fn is_pinned(checkpoint: &Path) -> Result<bool> {
    let beside = entries(folder_of(checkpoint))?;
    Ok(beside.iter().any(|pin| is_pin_of(pin, checkpoint)))
}

/// `step-2.1f3a09c2.pin` belongs to `step-2.safetensors` and `step-2.pinned.safetensors`.
fn is_pin_of(pin: &Path, checkpoint: &Path) -> bool {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let (Some(pin), Some(checkpoint)) = (name(pin), name(checkpoint)) else {
        return false;
    };
    let step = checkpoint.split('.').next().unwrap_or_default();
    pin.strip_prefix(step)
        .is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".pin"))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

fn read(pin: &Path) -> Result<Needed> {
    let size = fs::symlink_metadata(pin)?;
    ensure!(size.is_file() && size.len() <= MAX_BYTES, "not a pin");
    Ok(serde_json::from_slice(&fs::read(pin)?)?)
}

/// Removes a checkpoint with what was measured of it; one that is pinned is set aside.
///
/// # Errors
/// No permission.
pub(super) fn remove_or_set_aside(checkpoint: &Path) -> Result<()> {
    if is_pinned(checkpoint)? {
        let aside = free_name(checkpoint)?;
        fs::rename(checkpoint, &aside)?;
        return move_measurements(checkpoint, &aside);
    }
    remove(checkpoint)
}

/// Removes a checkpoint with what was measured of it.
///
/// # Errors
/// No permission.
pub(super) fn remove(checkpoint: &Path) -> Result<()> {
    fs::remove_file(checkpoint)?;
    for weights in [Weights::Ema, Weights::Raw] {
        match fs::remove_file(Calibration::path_beside(checkpoint, weights)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Before a checkpoint of the same step is written: keeps the pinned one that is there, unless its networks are the
/// same.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn spare(checkpoint: &Path, meta: &Meta, tensors: &[(String, Tensor)]) -> Result<()> {
    if checkpoint.exists() && is_pinned(checkpoint)? && !holds(checkpoint, meta, tensors) {
        let aside = free_name(checkpoint)?;
        // With a second name there is no moment without the checkpoint. Not all file systems have them.
        if fs::hard_link(checkpoint, &aside).is_err() {
            fs::rename(checkpoint, &aside)?;
        }
        move_measurements(checkpoint, &aside)?;
    }
    Ok(())
}

fn holds(checkpoint: &Path, meta: &Meta, tensors: &[(String, Tensor)]) -> bool {
    let Ok(there) = read_checkpoint(checkpoint) else {
        return false;
    };
    let average = |meta: &Meta| (meta.ema_steps, meta.config.optim.ema.to_bits());
    let mut networks = tensors
        .iter()
        .filter(|(name, _)| !name.starts_with("optim."));
    average(&there.meta) == average(meta)
        && there.meta.config.model == meta.config.model
        && networks.all(|(name, tensor)| {
            let same = |(other, found): &(String, Tensor)| other == name && found == tensor;
            there.tensors.iter().any(same)
        })
}

/// `step-2.pinned.safetensors`, or with a number if that is taken.
fn free_name(checkpoint: &Path) -> Result<PathBuf> {
    let name = |number: u32| match number {
        1 => checkpoint.with_extension("pinned.safetensors"),
        _ => checkpoint.with_extension(format!("pinned-{number}.safetensors")),
    };
    match (1..1000).map(name).find(|path| !path.exists()) {
        Some(path) => Ok(path),
        None => bail!("{} has been set aside too often", checkpoint.display()),
    }
}

fn move_measurements(checkpoint: &Path, aside: &Path) -> Result<()> {
    for weights in [Weights::Ema, Weights::Raw] {
        let from = Calibration::path_beside(checkpoint, weights);
        if from.exists() {
            fs::rename(from, Calibration::path_beside(aside, weights))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Contents, RunFolder};
    use crate::config::Preset;

    /// A run whose checkpoints hold one number.
    struct Run {
        dir: tempfile::TempDir,
        folder: RunFolder,
    }

    impl Run {
        fn new() -> Run {
            let dir = tempfile::tempdir().unwrap();
            let folder = RunFolder::new(dir.path().to_owned());
            Run { dir, folder }
        }

        fn save(&self, step: u64, weight: f32) {
            let mut meta = Meta::new(Contents::Training, &Preset::Demo.config());
            meta.step = step;
            let weights = ["model.w", "ema.w", "optim.exp_avg.w"];
            let tensors = weights.map(|name| (name.to_owned(), Tensor::from_slice(&[weight])));
            self.folder.save(&meta, &tensors, 1).unwrap();
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join("checkpoints").join(name)
        }

        fn pin(&self, step: u64) -> Pin {
            let checkpoint = self.at(&format!("step-{step:08}.safetensors"));
            Pin::set(
                &checkpoint,
                &self.dir.path().join("a.ddcm"),
                &blake3::hash(b""),
            )
            .unwrap()
        }

        /// Steps, and what follows them up to .safetensors, without pins.
        fn names(&self) -> Vec<String> {
            let name = |path: PathBuf| {
                let name = path.file_name()?.to_str()?.strip_prefix("step-0000000")?;
                (!name.ends_with(".pin")).then(|| name.replace(".safetensors", ""))
            };
            let entries = entries(&self.at("")).unwrap();
            let mut names: Vec<String> = entries.into_iter().filter_map(name).collect();
            names.sort();
            names
        }

        fn weight(&self, name: &str) -> f64 {
            let read = read_checkpoint(&self.at(name)).unwrap();
            read.section("model.")[0].1.double_value(&[0])
        }
    }

    #[test]
    fn a_pin_goes_with_the_work_that_fails() {
        let run = Run::new();
        run.save(1, 1.0);
        let pin = run.pin(1);
        let path = pin.path().to_owned();
        assert!(path.exists() && is_pinned(&run.at("step-00000001.safetensors")).unwrap());
        drop(pin);
        assert!(!path.exists());
        run.pin(1).keep();
        // Another attempt fails, and the file of the first is still there.
        drop(run.pin(1));
        assert!(path.exists());
        run.save(2, 2.0);
        run.save(3, 3.0);
        assert_eq!(run.names(), ["1", "3"]);
        fs::remove_file(path).unwrap();
        run.save(4, 4.0);
        assert_eq!(run.names(), ["4"]);
    }

    #[test]
    fn a_removed_checkpoint_is_not_pinned() {
        let run = Run::new();
        run.save(1, 1.0);
        let pin = run.pin(1);
        let checkpoint = run.at("step-00000001.safetensors");
        fs::remove_file(&checkpoint).unwrap();
        let said = pin.check().unwrap_err().to_string();
        assert!(
            said.contains("was removed by its training meanwhile"),
            "{said}"
        );
        let elsewhere = run.dir.path().join("weights.safetensors");
        std::fs::write(&elsewhere, "").unwrap();
        for path in [&checkpoint, &elsewhere] {
            let refused = Pin::set(path, Path::new("a.ddcm"), &blake3::hash(b"")).unwrap_err();
            let said = refused.to_string();
            assert!(
                said.contains("is not in the checkpoints of a run"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_rollback_sets_a_pinned_checkpoint_aside() {
        let run = Run::new();
        run.save(1, 1.0);
        run.save(2, 2.0);
        run.pin(2).keep();
        let measured = |name: &str| {
            Calibration::path_beside(
                &run.at(&format!("step-0000000{name}.safetensors")),
                Weights::Ema,
            )
        };
        std::fs::write(measured("2"), "measured").unwrap();
        run.save(1, 1.0);
        run.folder.remove_after(1).unwrap();
        assert_eq!(run.names(), ["1", "2.pinned", "2.pinned.ema.analytic.json"]);
        // It comes to the step again: both stay, as they have pins of this step.
        run.save(2, 2.5);
        run.save(3, 3.0);
        assert_eq!(
            run.names(),
            ["2", "2.pinned", "2.pinned.ema.analytic.json", "3"]
        );
        assert_eq!(run.weight("step-00000002.pinned.safetensors"), 2.0);
        let all = every_checkpoint(run.dir.path());
        assert_eq!(all.len(), 3);
        assert_eq!(pinned_for(run.dir.path(), &blake3::hash(b"")).len(), 2);
        assert!(pinned_for(run.dir.path(), &blake3::hash(b"x")).is_empty());
    }

    #[test]
    fn a_pinned_checkpoint_is_not_written_over() {
        let run = Run::new();
        run.save(1, 1.0);
        run.pin(1).keep();
        // The same network once more.
        run.save(1, 1.0);
        assert_eq!(run.names(), ["1"]);
        run.save(1, 1.5);
        run.save(1, 1.75);
        assert_eq!(run.names(), ["1", "1.pinned", "1.pinned-2"]);
        assert_eq!(run.weight("step-00000001.pinned.safetensors"), 1.0);
        assert_eq!(run.weight("step-00000001.pinned-2.safetensors"), 1.5);
        assert_eq!(run.weight("step-00000001.safetensors"), 1.75);
    }
}

//! The record of a sampling that is under way: what is being sampled into a folder, so that the same command goes on
//! where an interrupted one was, and any other is refused.
//!
//! It is a file of the folder, written before the first image and removed after the last. While it is there, all images
//! of the folder that it counts are of the sampling that it describes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tch::{Device, Tensor};

use crate::device::Chosen;
use crate::fs::{Locked, open_regular, read_text, write_bytes};
use crate::native::host_bytes;
use crate::pretrained::{Guided, Pretrained};
use crate::sample::{
    Choice, ChosenSampler, Classes, Guidance, Images, NoiseSource, Sampler, StartFrom,
};
use crate::text;

/// Name of the file.
const NAME: &str = "sampling.json";

/// A record lists up to T time steps.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says of itself, and is known by.
const ABOUT: (&str, &str) = (
    "about",
    "ddpm sample is at work here, or was interrupted: the same command goes on. This file goes when all images are \
     there.",
);

/// Longest part of a setting that a message shows.
const SHOWN: usize = 60;

/// All that decides the bits of a sampling's images, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Record(BTreeMap<String, String>);

/// What a record is made of.
pub(super) struct Sampled<'a> {
    pub(super) network: &'a Pretrained,
    pub(super) chosen: &'a Chosen,
    pub(super) sampler: &'a ChosenSampler,
    pub(super) start: &'a StartFrom,
    pub(super) wanted: &'a Images,
    pub(super) classes: &'a Classes,
    pub(super) guided: &'a Guided<'a>,
}

impl Sampled<'_> {
    /// The record of this sampling; `then` is what is done with its images before they are
    /// written.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(super) fn record(&self, then: Vec<(String, String)>) -> Result<Record> {
        let mut record = Record::new([
            ("batch", &self.wanted.batch),
            ("checkpoint", &self.network.fingerprint()?),
            ("class", &of_classes(self.classes)),
            ("clip_x0", &self.sampler.clip_x0),
            ("environment", &self.chosen.environment),
            ("images", &self.wanted.numbers.end),
            ("noise", &of_noise(&self.wanted.noise)?),
            ("sampler", &of_sampler(self.sampler)),
            ("start", &of_start(self.start)?),
            ("time steps", &of_times(&self.sampler.steps.times)),
        ]);
        // Absent in records of before.
        if let Some(guidance) = of_guidance(self.guided)? {
            record.0.insert("guidance".to_owned(), guidance);
        }
        record.0.extend(then);
        Ok(record)
    }
}

fn of_classes(classes: &Classes) -> String {
    match classes {
        Classes::All => "none, or all in turn".to_owned(),
        Classes::These(these) => {
            let these: Vec<String> = these.iter().map(ToString::to_string).collect();
            these.join(",")
        }
        Classes::AsOften(counts) => format!("as often as {counts:?}"),
        Classes::None => "no class".to_owned(),
    }
}

fn of_guidance(guided: &Guided) -> Result<Option<String>> {
    let guidance = guided.guidance();
    if guidance.is_none() {
        return Ok(None);
    }
    let with = match guided.other() {
        Some(other) => format!("network {:.12}", other.fingerprint()?.to_hex()),
        None => "no class".to_owned(),
    };
    let Guidance {
        scale,
        interval,
        rescale,
    } = guidance;
    let interval = interval.map_or("all steps".to_owned(), |(first, last)| {
        format!("{first}:{last}")
    });
    Ok(Some(format!(
        "{scale} at {interval}, rescaled {rescale}, with {with}"
    )))
}

fn of_noise(noise: &NoiseSource) -> Result<String> {
    Ok(match noise {
        NoiseSource::Seed(seed) => format!("seed {seed}"),
        NoiseSource::Numbered(seed, numbers) => format!("seed {seed}, images {numbers:?}"),
        NoiseSource::Given(noise) => format!("given, hash {}", hash(noise)?),
        NoiseSource::Codebook(book, Choice::Seed(seed)) => format!("{book:?}, seed {seed}"),
        NoiseSource::Codebook(book, choice) => format!("{book:?}, {choice:?}"),
    })
}

fn of_sampler(chosen: &ChosenSampler) -> String {
    let name = chosen.kind.name();
    match &chosen.sampler {
        Sampler::Ddim(ddim) => {
            let variances = ddim.eps_variances.iter().flat_map(|v| v.to_le_bytes());
            let variances = blake3::hash(&variances.collect::<Vec<u8>>());
            let (eta, last) = (ddim.eta, ddim.last_noise);
            format!("{name}, eta {eta}, last noise {last}, hash of variances {variances}")
        }
        other => format!("{name}, {other:?}"),
    }
}

/// A sampler, and the time steps that it visits.
pub(super) fn of_sampler_and_times(chosen: &ChosenSampler) -> String {
    format!(
        "{}, time steps {}",
        of_sampler(chosen),
        of_times(&chosen.steps.times)
    )
}

fn of_start(start: &StartFrom) -> Result<String> {
    Ok(match start {
        StartFrom::Noise => "noise".to_owned(),
        StartFrom::Image(x_0) => format!("image, hash {}", hash(x_0)?),
        StartFrom::Part(part, resampling) => {
            let mask: Vec<u8> = part.unknown.iter().map(|unknown| *unknown as u8).collect();
            let (image, mask) = (hash(&part.x_0)?, blake3::hash(&mask));
            format!("part of an image, hash {image}, hash of its mask {mask}, {resampling:?}")
        }
    })
}

fn of_times(times: &[i64]) -> String {
    let listed: Vec<String> = times.iter().rev().map(ToString::to_string).collect();
    format!("{}: {}", times.len(), listed.join(","))
}

fn hash(tensor: &Tensor) -> Result<blake3::Hash> {
    let values = tensor.to_device(Device::Cpu).contiguous();
    Ok(blake3::hash(host_bytes(&values)?))
}

impl Record {
    fn new<const N: usize>(settings: [(&str, &dyn Display); N]) -> Record {
        let named = settings.map(|(name, value)| (name.to_owned(), value.to_string()));
        let about = (ABOUT.0.to_owned(), ABOUT.1.to_owned());
        Record(named.into_iter().chain([about]).collect())
    }

    /// The record in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// Another file of its name.
    pub(in crate::cli) fn read(dir: &Path) -> Result<Option<Record>> {
        let path = dir.join(NAME);
        let text = match read_text(&path, MAX_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let settings: Option<BTreeMap<String, String>> = serde_json::from_str(&text).ok();
        let ours = settings.filter(|found| found.get(ABOUT.0).is_some_and(|said| said == ABOUT.1));
        match ours {
            Some(settings) => Ok(Some(Record(settings))),
            None => bail!(
                "{} is no record of a sampling, which would take its name; choose another folder",
                text::path(&path)
            ),
        }
    }

    /// Images in a batch.
    pub(super) fn batch(&self) -> Option<u64> {
        self.0.get("batch")?.parse().ok()
    }

    /// The file's content: a setting a line.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.0)? + "\n")
    }

    /// What `other` has otherwise, setting by setting; empty for the same.
    fn differences(&self, other: &Record) -> Vec<String> {
        let names = self
            .0
            .keys()
            .chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        let differ = names.filter(|name| self.0.get(*name) != other.0.get(*name));
        let shown = |record: &Record, name: &str| {
            let value = record.0.get(name).map_or("nothing", String::as_str);
            let start: String = value.chars().take(SHOWN).collect();
            let more = if start.len() < value.len() { "…" } else { "" };
            text::printable(&format!("{start}{more}"))
        };
        differ
            .map(|name| format!("{name}: {}, here {}", shown(self, name), shown(other, name)))
            .collect()
    }
}

/// A folder that this process samples into, alone.
#[derive(Debug)]
pub(super) struct UnderWay {
    dir: PathBuf,
    /// Locked, for as long as it is open.
    _record: Locked,
}

impl UnderWay {
    /// Begins in `dir`, which is made; its first images, if they are there, are removed, and so is another's record.
    ///
    /// # Errors
    /// Another process is at work there; a file that cannot be written or removed.
    pub(super) fn begin(dir: &Path, record: &Record, replaced: &[PathBuf]) -> Result<UnderWay> {
        fs_err::create_dir_all(dir)?;
        let path = dir.join(NAME);
        let earlier = Record::read(dir)?.map(|_| lock(&path)).transpose()?;
        // In this order, so that an image beside a record is always of what that describes.
        if earlier.is_some() {
            fs_err::remove_file(&path)?;
        }
        for image in replaced {
            remove(image)?;
        }
        write_bytes(&path, record.text()?.as_bytes())?;
        Ok(UnderWay {
            dir: dir.to_owned(),
            _record: lock(&path)?,
        })
    }

    /// Goes on with what `earlier` describes.
    ///
    /// # Errors
    /// It is not what `record` describes; another process is at work there.
    pub(super) fn go_on(dir: &Path, earlier: &Record, record: &Record) -> Result<UnderWay> {
        let differences = earlier.differences(record);
        ensure!(
            differences.is_empty(),
            "--separate {} holds an interrupted sampling of other images ({}); give its command again to go on \
             with it, choose another folder, or begin anew with --force",
            text::path(dir),
            differences.join("; ")
        );
        let locked = lock(&dir.join(NAME))?;
        remove_leftovers(dir)?;
        Ok(UnderWay {
            dir: dir.to_owned(),
            _record: locked,
        })
    }

    /// All images are there.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub(super) fn end(self) -> Result<()> {
        Ok(fs_err::remove_file(self.dir.join(NAME))?)
    }
}

/// Keeps other processes out of the folder of a record, where the file system has locks.
fn lock(path: &Path) -> Result<Locked> {
    let record = open_regular(path).with_context(|| format!("cannot read {}", path.display()))?;
    match flock(&record, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => bail!(
            "another process is sampling into the folder of {}; wait for it, or end it",
            text::path(path)
        ),
        // Locks are a courtesy.
        _ => Ok(Locked::new(record)),
    }
}

/// Removes an image; of a link, the file that it leads to.
fn remove(image: &Path) -> Result<()> {
    match std::fs::canonicalize(image) {
        Ok(file) if file.is_file() => Ok(fs_err::remove_file(file)?),
        // Links to nothing, and devices, are written to.
        _ => Ok(()),
    }
}

/// Removes what a killed process was writing.
fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let rest = name.and_then(|name| name.strip_prefix(".tmp-"));
        // The tempfile crate adds six letters or digits.
        let is_ours =
            |rest: &str| rest.len() == 6 && rest.chars().all(|c| c.is_ascii_alphanumeric());
        if rest.is_some_and(is_ours) && path.is_file() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64, images: u64) -> Record {
        Record::new([
            ("batch", &16),
            ("images", &images),
            ("noise", &format!("seed {seed}")),
        ])
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_same_sampling_goes_on_and_another_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/folder");
        let begun = UnderWay::begin(&dir, &record(1, 20), &[]).unwrap();
        let found = Record::read(&dir).unwrap().unwrap();
        assert_eq!((found.batch(), &found), (Some(16), &record(1, 20)));
        let busy = UnderWay::go_on(&dir, &found, &record(1, 20)).unwrap_err();
        assert!(busy.to_string().contains("another process"), "{busy}");
        drop(begun);
        for name in [".tmp-a1B2c3", ".tmp-notes", "00000.png"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let other = UnderWay::go_on(&dir, &found, &record(2, 30)).unwrap_err();
        let said = "other images (images: 20, here 30; noise: seed 1, here seed 2); give";
        assert!(other.to_string().contains(said), "{other}");
        let again = UnderWay::go_on(&dir, &found, &record(1, 20)).unwrap();
        assert_eq!(names(&dir), [".tmp-notes", "00000.png", NAME]);
        again.end().unwrap();
        assert_eq!(names(&dir), [".tmp-notes", "00000.png"]);
        assert_eq!(Record::read(&dir).unwrap(), None);
    }

    #[test]
    fn what_begins_anew_leaves_no_image_of_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(UnderWay::begin(dir.path(), &record(1, 9), &[]).unwrap());
        for name in ["00000.png", "00002.png", "far.png"] {
            std::fs::write(at(name), "old").unwrap();
        }
        std::os::unix::fs::symlink("far.png", at("00001.png")).unwrap();
        let replaced = [at("00000.png"), at("00001.png")];
        let _begun = UnderWay::begin(dir.path(), &record(2, 2), &replaced).unwrap();
        assert_eq!(names(dir.path()), ["00001.png", "00002.png", NAME]);
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record(2, 2)));
    }

    #[test]
    fn a_file_of_others_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "[1]", r#"{"about": "cats"}"#] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let refused = Record::read(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("choose another folder"), "{refused}");
            UnderWay::begin(dir.path(), &record(1, 1), &[]).unwrap_err();
        }
    }

    #[test]
    fn long_settings_are_shown_by_their_beginning() {
        let times = |last: i64| Record::new([("time steps", &of_times(&[last, 99]))]);
        let said = times(3).differences(&times(4));
        assert_eq!(said, ["time steps: 2: 99,3, here 2: 99,4"]);
        let all: Vec<i64> = (0..100).collect();
        let long = Record::new([("time steps", &of_times(&all))]);
        let said = long.differences(&times(4)).remove(0);
        assert!(
            said.contains("100: 99,98,") && said.contains("…, here 2"),
            "{said}"
        );
    }
}

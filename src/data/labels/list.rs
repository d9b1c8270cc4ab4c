//! The list of a run's classes and labels, as a text file.
//!
//! # Format
//!
//! UTF-8 text, every line ended by a newline. The first line is `ddpm labels 1 K N`: the version, the number of classes
//! and that of images. Then the name of each class, escaped as names are in the list of images, and for each image in
//! the order of the data set the number of its class, from 0, or `-` for none.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Labels, MAX_CLASSES};
use crate::data::manifest::{escape, unescape};
use crate::fs::read_text;

const MAGIC: &str = "ddpm labels ";

const VERSION: &str = "1";

/// Maximum length of the file, bytes.
const MAX_BYTES: u64 = 1 << 28;

impl Labels {
    /// Writes the list as a text file, whole or not at all.
    ///
    /// # Errors
    /// Disk full, folder not writable, …; an older file at `path` stays unchanged.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::fs::write_bytes(path, self.to_text().as_bytes())
    }

    /// Reads a file of [`Labels::write`]. The file is untrusted.
    ///
    /// # Errors
    /// A missing file, or one that is of another kind, cut short or damaged.
    pub fn read(path: &Path) -> Result<Labels> {
        let read = || Labels::parse(&read_text(path, MAX_BYTES)?);
        read().with_context(|| format!("cannot read the list of labels {}", path.display()))
    }

    /// How the classes or those of images differ from `before`; `None` if they do not.
    pub fn differences(&self, before: &Labels) -> Option<String> {
        if self.names != before.names {
            let missing = |from: &[String], of: &[String]| -> Vec<String> {
                let there: HashSet<&String> = from.iter().collect();
                let missing = of.iter().filter(|name| !there.contains(name));
                missing
                    .take(5)
                    .map(|name| escape(name.as_bytes()))
                    .collect()
            };
            let gone = missing(&self.names, &before.names);
            let new = missing(&before.names, &self.names);
            let (now, then) = (self.classes(), before.classes());
            let mut said = format!("{now} instead of {then} classes");
            for (names, what) in [(gone, "gone"), (new, "new")] {
                if !names.is_empty() {
                    let _ = write!(said, ", {what}: {}", names.join(", "));
                }
            }
            return Some(said);
        }
        if self.of.len() != before.of.len() {
            let (now, then) = (self.of.len(), before.of.len());
            return Some(format!("labels of {now} images instead of {then}"));
        }
        let changed = self
            .of
            .iter()
            .zip(&before.of)
            .filter(|(a, b)| a != b)
            .count();
        (changed > 0).then(|| match changed {
            1 => "1 image is of another class".to_owned(),
            n => format!("{n} images are of other classes"),
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}{VERSION} {} {}\n", self.names.len(), self.of.len());
        for name in &self.names {
            let _ = writeln!(text, "{}", escape(name.as_bytes()));
        }
        for class in &self.of {
            let _ = match class {
                Some(class) => writeln!(text, "{class}"),
                None => writeln!(text, "-"),
            };
        }
        text
    }

    fn parse(text: &str) -> Result<Labels> {
        let header = || {
            format!(
                "it does not begin with `{MAGIC}{VERSION}`: another kind of file, or a newer one"
            )
        };
        let mut lines = text.lines();
        let numbers = lines.next().and_then(|line| line.strip_prefix(MAGIC));
        let numbers = numbers.with_context(header)?;
        let numbers = numbers.strip_prefix(VERSION).with_context(header)?;
        let (classes, images) = numbers.trim_start().split_once(' ').with_context(header)?;
        let (classes, images): (u64, u64) = (classes.parse()?, images.parse()?);
        ensure!(
            classes <= MAX_CLASSES,
            "it has {classes} classes, above the limit of {MAX_CLASSES}"
        );
        let mut names = Vec::new();
        for line in lines.by_ref().take(classes as usize) {
            let name = unescape(line).and_then(|name| String::from_utf8(name).ok());
            names.push(name.with_context(|| format!("a class: {line:?}"))?);
        }
        let class = |line: &str| match line {
            "-" => Ok(None),
            number => {
                let class = number.parse::<u32>().ok();
                let class = class.filter(|class| u64::from(*class) < classes);
                class
                    .map(Some)
                    .with_context(|| format!("no number of a class: {line:?}"))
            }
        };
        let of: Vec<Option<u32>> = lines.map(class).collect::<Result<_>>()?;
        ensure!(
            names.len() as u64 == classes && of.len() as u64 == images && text.ends_with('\n'),
            "it announces {classes} classes and {images} images and lists {} and {}: cut short or damaged",
            names.len(),
            of.len()
        );
        Ok(Labels { names, of })
    }
}

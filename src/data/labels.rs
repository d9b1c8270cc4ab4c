//! Classes of images: which there are, and which each image is of.

use std::collections::{BTreeSet, HashMap};

use super::Manifest;
use super::passed_over::{are, quoted};
use crate::text::{self, plural, printable};

mod assign;
mod auto;
mod list;
mod missing;
mod table;
#[cfg(test)]
mod tests;

pub(super) use assign::{Assigned, assign, look_up};
pub(super) use table::{DatasetJson, MAX_FILE_BYTES, of_dataset_json, of_json, of_text};

/// Most classes: each has weights in a network.
const MAX_CLASSES: u64 = 100_000;

/// Classes that a line lists all of; of more, only the first.
const LISTED: usize = 10;

/// First classes of a longer list.
const FIRST: usize = 5;

/// The classes of a data set, and that of each image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Names of the classes; their places are the classes' numbers, from 0.
    pub names: Vec<String>,
    /// The class of each image, in the store's order; none for an image without a label.
    pub of: Vec<Option<u32>>,
}

/// How classes that are given as text are numbered.
#[derive(Debug, Clone, Copy)]
enum Numbering<'a> {
    /// By the order of the names' bytes.
    Sorted,
    /// As they are, if all are whole numbers from 0: then numbers stay numbers. Else sorted.
    AsTheyAre,
    /// As they are, and these are their names; numbers beyond make them as if there were none.
    Named(&'a [String]),
}

impl Labels {
    /// Numbers the classes of images.
    ///
    /// # Errors
    /// Numbers of more than 100,000 classes.
    fn new(texts: &[Option<String>], numbering: Numbering) -> Result<Labels, String> {
        let given = || texts.iter().flatten();
        let number = |text: &String| text.parse::<u64>().ok();
        let numbers: Option<BTreeSet<u64>> = match numbering {
            Numbering::Sorted => None,
            Numbering::AsTheyAre | Numbering::Named(_) => given().map(number).collect(),
        };
        let names: Vec<String> = match (numbers.as_ref().and_then(BTreeSet::last), numbering) {
            (Some(last), Numbering::Named(names)) if *last < names.len() as u64 => names.to_vec(),
            (Some(last), _) if *last >= MAX_CLASSES => {
                return Err(format!(
                    "class {last}: numbers below {MAX_CLASSES} are wanted, as every number up to the largest is a class"
                ));
            }
            (Some(last), _) => (0..=*last).map(|n| n.to_string()).collect(),
            (None, _) => {
                let distinct: BTreeSet<&String> = given().collect();
                distinct.into_iter().cloned().collect()
            }
        };
        if names.len() as u64 > MAX_CLASSES {
            let classes = names.len();
            return Err(format!(
                "{classes} classes, above the limit of {MAX_CLASSES}"
            ));
        }
        let places: HashMap<&str, u32> = match numbers {
            Some(_) => HashMap::new(),
            None => names.iter().map(String::as_str).zip(0..).collect(),
        };
        let place = |text: &String| match places.get(text.as_str()) {
            Some(place) => *place,
            None => number(text).unwrap_or_default() as u32,
        };
        let of = texts.iter().map(|text| text.as_ref().map(place)).collect();
        Ok(Labels { names, of })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.names.len()
    }

    /// Number of images of each class.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.names.len()];
        for class in self.of.iter().flatten() {
            counts[*class as usize] += 1;
        }
        counts
    }

    /// Number of images without a label.
    pub fn unlabelled(&self) -> u64 {
        self.of.iter().filter(|class| class.is_none()).count() as u64
    }

    /// Those of the images with these numbers, in this order.
    pub(super) fn of_images(&self, indices: &[usize]) -> Labels {
        Labels {
            names: self.names.clone(),
            of: indices.iter().map(|index| self.of[*index]).collect(),
        }
    }

    /// The same in the numbers that `names` have, and the classes that they lack: their images then have no label.
    pub fn among(self, names: &[String]) -> (Labels, Vec<String>) {
        let places: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
        let place = |name: &String| places.get(name.as_str()).copied();
        let to: Vec<Option<u32>> = self.names.iter().map(place).collect();
        let counts = self.counts();
        let lost = (self.names.iter().zip(&to).zip(counts))
            .filter(|((_, to), count)| to.is_none() && *count > 0)
            .map(|((name, _), _)| name.clone())
            .collect();
        let moved = |class: &Option<u32>| class.and_then(|class| to[class as usize]);
        let labels = Labels {
            names: names.to_vec(),
            of: self.of.iter().map(moved).collect(),
        };
        (labels, lost)
    }

    /// What there is to say of the classes of these images: their names and numbers, and what is odd.
    pub fn lines(&self, images: &Manifest) -> Vec<String> {
        let counts = self.counts();
        let mut lines = vec![self.summary(&counts)];
        let unlabelled = self.unlabelled();
        if unlabelled > 0 {
            let without = self
                .of
                .iter()
                .enumerate()
                .filter(|(_, class)| class.is_none());
            let name = |(i, _)| images.name(i).unwrap_or_default().to_owned();
            // A few more than are quoted.
            let names: Vec<String> = without.take(LISTED).map(name).collect();
            let (plural, are) = (plural(unlabelled, "image"), are(unlabelled));
            lines.push(format!(
                "warning: {plural} {are} without a label: {}",
                quoted(&names)
            ));
        }
        for (wanted, images) in [(0, "no image"), (1, "a single image")] {
            let named = self.names.iter().zip(&counts);
            let rare = named.filter(|(_, count)| **count == wanted);
            let names: Vec<String> = rare.map(|(name, _)| printable(name)).collect();
            let verb = if names.len() == 1 {
                "class has"
            } else {
                "classes have"
            };
            if !names.is_empty() {
                lines.push(format!(
                    "warning: {} {verb} {images}: {}",
                    names.len(),
                    quoted(&names)
                ));
            }
        }
        lines
    }

    /// For example `3 classes: cat 12, dog 9, emu 1`, or `2 classes of 50 images each: a, b`.
    fn summary(&self, counts: &[u64]) -> String {
        let (least, most) = (
            counts.iter().min().copied().unwrap_or(0),
            counts.iter().max().copied().unwrap_or(0),
        );
        let shown = match self.names.len() {
            few if few <= LISTED => few,
            _ => FIRST,
        };
        let with_count = |(name, count): (&String, &u64)| match least == most {
            true => text::shown(&printable(name)),
            false => format!("{} {count}", text::shown(&printable(name))),
        };
        let named = self.names.iter().zip(counts).take(shown);
        let mut parts: Vec<String> = named.map(with_count).collect();
        if shown < self.names.len() {
            parts.push("…".to_owned());
        }
        let classes = match self.names.len() {
            1 => "1 class".to_owned(),
            n => format!("{n} classes"),
        };
        let each = match self.names.len() {
            _ if least < most && shown == self.names.len() => String::new(),
            _ if least < most => format!(" of {least} to {most} images"),
            1 => format!(" of {}", plural(least, "image")),
            _ => format!(" of {} each", plural(least, "image")),
        };
        format!("{classes}{each}: {}", parts.join(", "))
    }
}

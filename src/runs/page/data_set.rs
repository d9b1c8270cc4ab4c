//! The images that a run is trained on, as its folder lists them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::jpegs::Jpegs;
use super::{remark, text_of};
use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::data::{Labels, Manifest, original_sizes};
use crate::text::{self, plural};

/// Most pixels a side of the sheet, and most bytes of it.
const SHEET: (u32, usize) = (768, 250_000);

/// Most lines of a list.
const MOST_LINES: usize = 200;

/// Images whose size is looked at.
const MOST_SIZES: usize = 500;

/// Longest skipped.tsv that is read.
const MAX_BYTES: u64 = 16 << 20;

/// What a page shows of a data set.
#[derive(Debug, Default, Serialize)]
pub(super) struct DataSet {
    facts: Vec<(&'static str, String)>,
    sheet: Option<String>,
    sheet_text: String,
    classes: Vec<Class>,
    duplicates: Vec<String>,
    duplicates_text: String,
    skipped: Vec<Skipped>,
    skipped_text: String,
}

#[derive(Debug, Serialize)]
struct Class {
    name: String,
    images: u64,
}

/// A file that could not be read.
#[derive(Debug, Serialize)]
struct Skipped {
    name: String,
    reason: String,
}

/// Reads the lists of a run; what is not there is left out.
pub(super) fn read(
    folder: &RunFolder,
    config: &RunConfig,
    jpegs: &mut Jpegs,
    remarks: &mut Vec<String>,
) -> DataSet {
    let mut set = DataSet::default();
    if let Some(images) = list(&folder.images_path(), remarks) {
        set.facts.push(("Images", images.len().to_string()));
        set.take_duplicates(&images);
        set.take_sizes(config, &images);
    }
    if let Some(held_out) = list(&folder.held_out_path(), remarks) {
        set.facts.push(("Held out", held_out.len().to_string()));
    }
    if folder.labels_path().exists() {
        let labels = remark(remarks, Labels::read(&folder.labels_path()));
        labels.iter().for_each(|labels| set.take_classes(labels));
    }
    let skipped = remark(remarks, text_of(&folder.skipped_path(), MAX_BYTES));
    set.take_skipped(&skipped.flatten().unwrap_or_default());
    let sheet = folder.sheet_path();
    if sheet.exists() {
        set.sheet = remark(remarks, jpegs.url(&sheet, SHEET.0, SHEET.1));
        set.sheet_text = "Some of the images, as the network sees them".to_owned();
    }
    set
}

fn list(path: &Path, remarks: &mut Vec<String>) -> Option<Manifest> {
    let exists = path.exists();
    exists
        .then(|| remark(remarks, Manifest::read(path)))
        .flatten()
}

impl DataSet {
    fn take_duplicates(&mut self, images: &Manifest) {
        let mut by_hash: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, hash) in images.hashes().enumerate() {
            by_hash.entry(hash).or_default().push(place);
        }
        let groups: Vec<_> = by_hash
            .into_values()
            .filter(|group| group.len() > 1)
            .collect();
        let more: usize = groups.iter().map(|group| group.len() - 1).sum();
        self.facts.push((
            "Duplicates",
            match more {
                0 => "none".to_owned(),
                1 => "1 image is equal to another".to_owned(),
                more => format!("{more} images are equal to others"),
            },
        ));
        self.duplicates_text = shown_of("group", "of equal images", groups.len());
        let names = |group: &Vec<usize>| -> String {
            let names: Vec<String> = (group.iter())
                .filter_map(|place| images.name(*place).map(str::to_owned))
                .collect();
            text::listed(&names)
        };
        self.duplicates = groups.iter().take(MOST_LINES).map(names).collect();
    }

    /// The sizes of the files, where they are still there.
    fn take_sizes(&mut self, config: &RunConfig, images: &Manifest) {
        let Some(folder) = config.data.folder.as_ref().and_then(|data| data.one()) else {
            return;
        };
        let sizes = original_sizes(folder, images, MOST_SIZES);
        let looked_at: u64 = sizes.values().sum();
        if looked_at == 0 {
            return;
        }
        let mut by_count: Vec<_> = sizes.into_iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let all = looked_at == images.len() as u64;
        let sizes: Vec<String> = (by_count.iter().take(6))
            .map(|((width, height), count)| format!("{width} × {height}: {count}"))
            .collect();
        let more = match by_count.len().saturating_sub(sizes.len()) {
            0 => String::new(),
            more => format!(", and {}", plural(more as u64, "other size")),
        };
        let of = if all {
            String::new()
        } else {
            format!(" (of {looked_at} files)")
        };
        self.facts.push((
            "Sizes of the files",
            format!("{}{more}{of}", sizes.join(", ")),
        ));
    }

    fn take_classes(&mut self, labels: &Labels) {
        let classes = labels.names.iter().zip(labels.counts());
        self.classes = classes
            .map(|(name, images)| Class {
                name: text::printable(name),
                images,
            })
            .collect();
        let unlabelled = labels.unlabelled();
        let without =
            (unlabelled > 0).then(|| format!(", {} without one", plural(unlabelled, "image")));
        self.facts.push((
            "Classes",
            format!("{}{}", self.classes.len(), without.unwrap_or_default()),
        ));
    }

    fn take_skipped(&mut self, lines: &str) {
        let all: Vec<&str> = lines.lines().collect();
        self.facts.push((
            "Files that could not be read",
            match all.len() {
                0 => "none".to_owned(),
                some => some.to_string(),
            },
        ));
        self.skipped_text = shown_of("file", "that could not be read", all.len());
        let skipped = |line: &&str| {
            let (name, reason) = line.split_once('\t').unwrap_or((line, ""));
            Skipped {
                name: text::printable(name),
                reason: text::printable(reason),
            }
        };
        self.skipped = all.iter().take(MOST_LINES).map(skipped).collect();
    }
}

/// For example `3 files that could not be read`, or `the first 200 of 512 files …`.
fn shown_of(what: &str, which: &str, all: usize) -> String {
    match all > MOST_LINES {
        true => format!(
            "the first {MOST_LINES} of {} {which}",
            plural(all as u64, what)
        ),
        false => format!("{} {which}", plural(all as u64, what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_missing_is_left_out() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = RunFolder::new(dir.path().to_owned());
        let config = crate::config::Preset::Demo.config();
        let mut remarks = Vec::new();
        let set = read(&folder, &config, &mut Jpegs::default(), &mut remarks);
        assert_eq!(
            set.facts,
            [("Files that could not be read", "none".to_owned())]
        );
        let list = "ddpm pictures 1 3\n00000000000000aa\ta.png\n00000000000000bb\tb.png\n00000000000000aa\tc.png\n";
        std::fs::write(folder.images_path(), list)?;
        let line = |n: usize| format!("{n}.png\tit is empty\n");
        std::fs::write(
            folder.skipped_path(),
            (0..300).map(line).collect::<String>(),
        )?;
        std::fs::write(folder.labels_path(), "what is this?")?;
        let set = read(&folder, &config, &mut Jpegs::default(), &mut remarks);
        assert_eq!(set.facts[0], ("Images", "3".to_owned()));
        assert_eq!(set.facts[1].1, "1 image is equal to another");
        assert_eq!(set.duplicates, ["a.png, c.png"]);
        assert_eq!(set.skipped.len(), MOST_LINES);
        assert_eq!(set.skipped[299 - 100].reason, "it is empty");
        assert_eq!(
            set.skipped_text,
            "the first 200 of 300 files that could not be read"
        );
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        Ok(())
    }
}

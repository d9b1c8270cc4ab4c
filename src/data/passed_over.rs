//! What a folder holds besides the images that are read, counted and said.

use std::collections::BTreeMap;

use crate::text::{plural, printable, shown};

/// Number of names or endings that a line quotes.
const QUOTED: usize = 5;

/// Files and folders below a data set's folder that are not read, though nothing is wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Files with an ending that no format has: their number by that ending, in lower case and with its dot.
    endings: BTreeMap<String, u64>,
    /// Number of files without an ending whose content is no format's; under the first rules, of all without one.
    pub(super) without_ending: u64,
    /// Hidden files and folders: their number by name.
    hidden: BTreeMap<String, u64>,
    /// Folders of training runs.
    pub(super) runs: Vec<String>,
    /// Pipes, sockets and devices with the ending of an image.
    pub(super) special: Vec<String>,
    /// Links to folders that are listed already.
    pub(super) links: Vec<String>,
}

impl PassedOver {
    pub(super) fn add_ending(&mut self, ending: &str) {
        let ending = format!(".{}", ending.to_ascii_lowercase());
        *self.endings.entry(ending).or_default() += 1;
    }

    pub(super) fn add_hidden(&mut self, name: String) {
        *self.hidden.entry(name).or_default() += 1;
    }

    /// Adds what another place has.
    pub(super) fn add_all(&mut self, other: PassedOver) {
        for (ending, files) in other.endings {
            *self.endings.entry(ending).or_default() += files;
        }
        for (name, items) in other.hidden {
            *self.hidden.entry(name).or_default() += items;
        }
        self.without_ending += other.without_ending;
        self.runs.extend(other.runs);
        self.special.extend(other.special);
        self.links.extend(other.links);
    }

    /// True if there are files that may hold images, which are read only where they are named themselves.
    pub(super) fn has_archives(&self) -> bool {
        let archives = [".zip", ".tar", ".gz", ".tgz", ".npz"];
        archives
            .iter()
            .any(|ending| self.endings.contains_key(*ending))
    }

    /// A line for each kind that there is.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let named = total(&self.endings);
        if named > 0 {
            let with = one_or(named, "another ending", "other endings");
            let (files, are) = (plural(named, "file"), are(named));
            lines.push(format!(
                "{files} with {with} {are} not read: {}",
                tops(&self.endings)
            ));
        }
        if self.without_ending > 0 {
            let n = self.without_ending;
            let (files, are) = (plural(n, "file"), are(n));
            lines.push(format!("{files} without an ending {are} not read"));
        }
        let hidden = total(&self.hidden);
        if hidden > 0 {
            let items = plural(hidden, "hidden item");
            lines.push(format!(
                "{items} {} passed over: {}",
                are(hidden),
                tops(&self.hidden)
            ));
        }
        for (names, noun, why) in [
            (&self.runs, "training run", ""),
            (&self.special, "special file", " (pipe, socket or device)"),
            (&self.links, "link", " (to a folder that is read already)"),
        ] {
            let n = names.len() as u64;
            if n > 0 {
                let (what, are) = (plural(n, noun), are(n));
                lines.push(format!("{what} {are} passed over{why}: {}", quoted(names)));
            }
        }
        lines
    }

    /// The same in a few words, as `3 .tif files, 2 hidden items`; empty if there is nothing.
    pub(super) fn in_short(&self) -> String {
        let mut parts: Vec<String> = top(&self.endings)
            .map(|(ending, n)| plural(n, &format!("{ending} file")))
            .collect();
        let more = self.endings.len().saturating_sub(QUOTED);
        for (n, noun, which) in [
            (more as u64, "other ending", ""),
            (self.without_ending, "file", " without ending"),
            (total(&self.hidden), "hidden item", ""),
            (self.runs.len() as u64, "training run", ""),
            (self.special.len() as u64, "special file", ""),
            (self.links.len() as u64, "link", ""),
        ] {
            if n > 0 {
                parts.push(plural(n, noun) + which);
            }
        }
        parts.join(", ")
    }
}

pub(super) fn are(n: u64) -> &'static str {
    one_or(n, "is", "are")
}

fn one_or(n: u64, one: &'static str, many: &'static str) -> &'static str {
    if n == 1 { one } else { many }
}

fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// The most frequent keys, and by name where equal.
fn top(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, u64)> {
    let mut counts: Vec<_> = counts.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts.into_iter().take(QUOTED)
}

/// For example `.tif 2, .heic 1, …`.
fn tops(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = top(counts)
        .map(|(key, n)| format!("{} {n}", readable(key)))
        .collect();
    parts.join(", ") + ellipsis(counts.len())
}

/// The first of some names.
pub(super) fn quoted(names: &[String]) -> String {
    let first: Vec<String> = names
        .iter()
        .take(QUOTED)
        .map(|name| readable(name))
        .collect();
    first.join(", ") + ellipsis(names.len())
}

/// A name that a file chose, safe to print and of a length to read.
fn readable(name: &str) -> String {
    shown(&printable(name))
}

fn ellipsis(all: usize) -> &'static str {
    if all > QUOTED { ", …" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_one_line() {
        let mut over = PassedOver::default();
        assert_eq!((over.lines().len(), over.in_short()), (0, String::new()));
        over.add_ending("TIF");
        over.without_ending = 1;
        over.add_hidden(".DS_Store".into());
        over.runs.push("runs/a".into());
        assert_eq!(
            over.lines(),
            [
                "1 file with another ending is not read: .tif 1",
                "1 file without an ending is not read",
                "1 hidden item is passed over: .DS_Store 1",
                "1 training run is passed over: runs/a",
            ]
        );
        for ending in ["tif", "a", "b", "c", "d", "e", "heic", "heic", "heic"] {
            over.add_ending(ending);
        }
        over.without_ending = 2;
        over.links = ["x", "y"].map(str::to_owned).to_vec();
        over.special = ["p.png"].map(str::to_owned).to_vec();
        assert_eq!(
            over.lines(),
            [
                "10 files with other endings are not read: .heic 3, .tif 2, .a 1, .b 1, .c 1, …",
                "2 files without an ending are not read",
                "1 hidden item is passed over: .DS_Store 1",
                "1 training run is passed over: runs/a",
                "1 special file is passed over (pipe, socket or device): p.png",
                "2 links are passed over (to a folder that is read already): x, y",
            ]
        );
        assert_eq!(
            over.in_short(),
            "3 .heic files, 2 .tif files, 1 .a file, 1 .b file, 1 .c file, 2 other endings, 2 files without ending, \
             1 hidden item, 1 training run, 1 special file, 2 links"
        );
    }
}

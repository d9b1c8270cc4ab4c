//! Members of an archive, sorted into images, what says their classes, and the rest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Wanted, bad};
use crate::config::ImageRules;
use crate::data::archive::Archive;
use crate::data::entry::{Entry, Member, Place};
use crate::data::error::DataError;
use crate::data::labels::{self, DatasetJson, MAX_FILE_BYTES};
use crate::data::listing::{HEAD_BYTES, Kind, Listing, begins_as_an_image, hidden_name, kind};
use crate::data::manifest::escape;

/// EDM's list of classes, at the top of an archive or folder.
pub(super) const DATASET_JSON: &str = "dataset.json";

/// Longest file of one image's class, bytes.
const MAX_LABEL_BYTES: u64 = 1 << 20;

/// The members of an archive so far.
pub(super) struct Members {
    archive: Arc<Archive>,
    wanted: Wanted,
    listing: Listing,
    /// Place of each image by its name.
    places: HashMap<Box<[u8]>, usize>,
    /// Members without an ending, which their first bytes may show to be images.
    unknown: Vec<(Vec<u8>, Member)>,
    dataset_json: Option<Member>,
    /// Files that may say the class of the image of the same name: `.cls`, and `.json`.
    beside: [HashMap<Vec<u8>, Member>; 2],
    names_twice: bool,
}

impl Members {
    pub(super) fn new(archive: Arc<Archive>, wanted: Wanted) -> Members {
        Members {
            archive,
            wanted,
            listing: Listing::default(),
            places: HashMap::new(),
            unknown: Vec::new(),
            dataset_json: None,
            beside: [HashMap::new(), HashMap::new()],
            names_twice: false,
        }
    }

    /// Adds a file; `member` is an error for one that cannot be read.
    pub(super) fn add(&mut self, name: &[u8], member: Result<Member, String>) {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if let Some(hidden) = self.hidden(name) {
            return self.listing.passed_over.add_hidden(hidden);
        }
        match (kind(path(name), self.wanted.rules), member) {
            (Kind::Image, Ok(member)) => self.image(name, member),
            (Kind::Image, Err(reason)) => self.unreadable(name, reason),
            (Kind::Hidden(hidden), _) => self.listing.passed_over.add_hidden(hidden),
            (Kind::Other(_), Ok(member)) if name == DATASET_JSON.as_bytes() => {
                self.dataset_json = Some(member);
            }
            (Kind::Other(ending), Ok(member)) if ["cls", "json"].contains(&ending.as_str()) => {
                let kind = usize::from(ending == "json");
                self.beside[kind].insert(sample(name).to_vec(), member);
            }
            (Kind::Other(ending), _) => self.listing.passed_over.add_ending(&ending),
            (Kind::Unknown, Ok(member)) => self.unknown.push((name.to_vec(), member)),
            (Kind::Unknown, Err(_)) => self.listing.passed_over.without_ending += 1,
        }
    }

    /// Notes a link, which is not followed.
    pub(super) fn add_link(&mut self, name: &[u8]) {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if self.hidden(name).is_none() && matches!(kind(path(name), self.wanted.rules), Kind::Image)
        {
            self.unreadable(
                name,
                "a link, which is not followed in an archive".to_owned(),
            );
        }
    }

    /// Notes that names occur more than once, of which the last counts.
    pub(super) fn names_occur_twice(&mut self) {
        self.names_twice = true;
    }

    /// The images and their classes.
    ///
    /// # Errors
    /// No images; a class that cannot be read.
    pub(super) fn finish(mut self) -> Result<Listing, DataError> {
        for (name, member) in std::mem::take(&mut self.unknown) {
            match self.wanted.rules >= ImageRules::V2 && is_image(&member) {
                true => self.image(&name, member),
                false => self.listing.passed_over.without_ending += 1,
            }
        }
        if self.names_twice {
            self.listing.notices.push(format!(
                "some names occur more than once in {}; of each the last is read",
                crate::text::path(self.archive.path())
            ));
        }
        let mut listing = self
            .listing
            .in_order(self.archive.path(), self.wanted.rules)?;
        if !self.wanted.labels {
            return Ok(listing);
        }
        if let Some(member) = &self.dataset_json {
            let shown = self.archive.path().join(DATASET_JSON);
            let text = read(member, MAX_FILE_BYTES).map_err(|error| bad(&shown, error))?;
            apply_dataset_json(&mut listing, &shown, &text)?;
            return Ok(listing);
        }
        for (kind, members) in self.beside.iter().enumerate() {
            let is_json = kind == 1;
            if label_beside(&mut listing, members, is_json)? {
                listing.says(None);
                break;
            }
            // What is JSON may be about anything.
            if !is_json {
                let odd = beside_nothing(&listing, members, self.archive.path());
                listing.notices.extend(odd);
            }
        }
        Ok(listing)
    }

    fn image(&mut self, name: &[u8], member: Member) {
        let entry = Entry::new(name, Place::Member(member));
        match self.places.get(name) {
            // As unpacking would.
            Some(place) => {
                self.listing.entries[*place] = entry;
                self.names_twice = true;
            }
            None => {
                self.places
                    .insert(entry.name.clone(), self.listing.entries.len());
                self.listing.entries.push(entry);
            }
        }
    }

    fn unreadable(&mut self, name: &[u8], reason: String) {
        let mut shown = self.archive.path().as_os_str().as_bytes().to_vec();
        shown.push(b'/');
        shown.extend(name);
        let shown = PathBuf::from(OsStr::from_bytes(&shown));
        self.listing.unreadable.push((shown, reason));
    }

    /// The name under which a member is counted that is hidden, or in a hidden folder.
    fn hidden(&self, name: &[u8]) -> Option<String> {
        let normal = |part| match part {
            Component::Normal(name) => hidden_name(Path::new(name)),
            _ => None,
        };
        let hidden = path(name).components().find_map(normal);
        hidden.filter(|_| self.wanted.rules >= ImageRules::V2)
    }
}

/// A name as a path, only to look at it.
fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// WebDataset's name of a sample: all up to the first dot after the last slash.
fn sample(name: &[u8]) -> &[u8] {
    let file = name.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let dot = name[file..].iter().position(|b| *b == b'.');
    &name[..dot.map_or(name.len(), |dot| file + dot)]
}

fn is_image(member: &Member) -> bool {
    // What is unpacked only to look at its first bytes should be no bomb.
    let bytes = read(member, MAX_LABEL_BYTES.max(HEAD_BYTES) << 8);
    bytes.is_ok_and(|bytes| begins_as_an_image(&bytes[..bytes.len().min(HEAD_BYTES as usize)]))
}

fn read(member: &Member, most: u64) -> std::io::Result<Vec<u8>> {
    match member.bytes <= most {
        true => member.read(),
        false => Err(std::io::Error::other(format!(
            "{} bytes, above the limit of {most}",
            member.bytes
        ))),
    }
}

/// Gives each image the class that the file beside it says; true if one says any.
fn label_beside(
    listing: &mut Listing,
    members: &HashMap<Vec<u8>, Member>,
    json: bool,
) -> Result<bool, DataError> {
    let mut any = false;
    for entry in &mut listing.entries {
        let Some(member) = members.get(sample(&entry.name)) else {
            continue;
        };
        let wrong = |reason: String| {
            let beside = if json { ".json" } else { ".cls" };
            bad(
                &entry.path(),
                format!("the {beside} file beside it: {reason}"),
            )
        };
        let bytes = read(member, MAX_LABEL_BYTES).map_err(|error| wrong(error.to_string()))?;
        let label = match json {
            true => labels::of_json(&bytes),
            false => labels::of_text(&bytes),
        };
        let label = label.map_err(wrong)?;
        any |= label.is_some();
        entry.label = label.map(String::into_boxed_str);
    }
    Ok(any)
}

/// A word about `.cls` files none of which has the name of an image.
fn beside_nothing(
    listing: &Listing,
    members: &HashMap<Vec<u8>, Member>,
    archive: &Path,
) -> Option<String> {
    let named = |entry: &Entry| members.contains_key(sample(&entry.name));
    if listing.entries.iter().any(named) {
        return None;
    }
    let (first, image) = (members.keys().min()?, listing.entries.first()?);
    Some(format!(
        "warning: no .cls file of {} has the name of an image: one is {}.cls, for example, and an image is {}",
        crate::text::path(archive),
        escape(first),
        escape(&image.name)
    ))
}

/// Gives images the classes of EDM's `dataset.json`, which may also say that there are none.
///
/// # Errors
/// Text of another form, or vectors in place of classes.
pub(super) fn apply_dataset_json(
    listing: &mut Listing,
    path: &Path,
    text: &[u8],
) -> Result<(), DataError> {
    let shown = crate::text::path(path);
    let table = match labels::of_dataset_json(path, text)? {
        DatasetJson::Labels(table) => table,
        DatasetJson::NoLabels => {
            listing.says(None);
            return Ok(());
        }
        DatasetJson::Other => {
            let told = format!("{shown} has no list of labels, and is passed over");
            listing.notices.push(told);
            return Ok(());
        }
    };
    listing.says(None);
    let entries: Vec<&Entry> = listing.entries.iter().collect();
    match labels::look_up(&table, &shown, &entries) {
        Ok((found, told)) => {
            for (entry, label) in listing.entries.iter_mut().zip(found) {
                entry.label = label.map(String::into_boxed_str);
            }
            listing.notices.extend(told);
        }
        Err(reason) => listing.notices.push(format!(
            "warning: {shown} gives no image a class: {reason}; mend it, or choose what else says the classes \
             (`data.labels`)"
        )),
    }
    Ok(())
}

//! Classes where nobody has chosen what says them: each source is labelled by what it holds.

use std::collections::BTreeSet;

use super::Numbering;
use super::missing::Missing;
use crate::data::entry::Entry;
use crate::data::listing::Said;
use crate::data::manifest::escape;
use crate::data::passed_over::quoted;
use crate::text::plural;

/// The class of each image as text, and what else there is to say.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) texts: Vec<Option<String>>,
    pub(super) numbering: Numbering<'a>,
    pub(super) notices: Vec<String>,
    /// Why none has a class, if none has.
    pub(super) why_none: String,
}

/// The images of one source.
struct Part<'a> {
    /// Its name among several sources.
    name: String,
    /// What it says itself, if it says anything.
    said: Option<&'a Said>,
    /// The class of each image: what the source says, else its folder.
    texts: Vec<Option<String>>,
    /// Its folders, if it says nothing; none of them are classes if most images lie beside them.
    folders: BTreeSet<String>,
    /// Images that lie beside them.
    beside: usize,
}

/// The classes of images: what each source says itself, else the topmost folders in the others, if these have two or
/// more together, or one that is a class of the former. Classes of the same name are the same.
///
/// An image beside the folders has none. Where most lie beside them, the folders of that source are no classes.
pub(super) fn find<'a>(entries: &[&Entry], said: &'a [Said]) -> Found<'a> {
    let mut missing = Missing::default();
    let of_one_source = entries.chunk_by(|a, b| a.source == b.source);
    let mut parts: Vec<Part> = of_one_source
        .map(|own| Part::of(own, said, &mut missing))
        .collect();
    let mut notices: Vec<String> = parts.iter().filter_map(Part::doubt).collect();
    notices.extend(missing.lines());
    let folders: BTreeSet<&String> = parts.iter().flat_map(Part::classes_of_folders).collect();
    let told: BTreeSet<String> = parts.iter().flat_map(Part::names_said).collect();
    let by_folder = folders.len() > 1 || folders.iter().any(|folder| told.contains(*folder));
    let lists: BTreeSet<Option<&[String]>> = parts.iter().filter_map(Part::list).collect();
    let numbering = match (by_folder, lists.first().copied()) {
        (true, None) => Numbering::Sorted,
        (false, Some(Some(names))) if lists.len() == 1 => Numbering::Named(names),
        _ => Numbering::AsTheyAre,
    };
    let why_none = why_none(&parts);
    let by_name = by_folder || lists.len() > 1;
    for part in &mut parts {
        match part.said {
            Some(said) if by_name => part.name_classes(said),
            None if !by_folder => part.texts.fill(None),
            _ => {}
        }
    }
    let (with, without): (Vec<&Part>, Vec<&Part>) = parts.iter().partition(|p| p.has_classes());
    if !with.is_empty() && !without.is_empty() {
        let images = without.iter().map(|part| part.texts.len() as u64).sum();
        let names: Vec<String> = without.iter().map(|part| part.name.clone()).collect();
        notices.push(format!(
            "none of the {} of {} has a label",
            plural(images, "image"),
            quoted(&names)
        ));
    }
    Found {
        texts: parts.into_iter().flat_map(|part| part.texts).collect(),
        numbering,
        notices,
        why_none,
    }
}

impl<'a> Part<'a> {
    /// `entries` are of one source, one or more.
    fn of(entries: &[&Entry], said: &'a [Said], missing: &mut Missing) -> Part<'a> {
        let first = entries[0];
        let mut part = Part {
            name: escape(&first.name[..first.below.saturating_sub(1)]),
            said: said.get(first.source as usize).filter(|said| said.classes),
            texts: Vec::new(),
            folders: BTreeSet::new(),
            beside: 0,
        };
        if part.said.is_some() {
            let label = |entry: &&Entry| entry.label.as_deref().map(str::to_owned);
            part.texts = entries.iter().map(label).collect();
            missing.take_out(&mut part.texts);
            return part;
        }
        part.texts = entries.iter().map(|entry| folder(entry)).collect();
        part.folders = part.texts.iter().flatten().cloned().collect();
        part.beside = part.texts.iter().filter(|folder| folder.is_none()).count();
        if part.most_lie_beside() {
            part.texts.fill(None);
        }
        part
    }

    fn most_lie_beside(&self) -> bool {
        2 * self.beside > self.texts.len()
    }

    /// What is said of folders that could be classes, but hold the fewer images.
    fn doubt(&self) -> Option<String> {
        let folders: Vec<String> = self.folders.iter().cloned().collect();
        let inside = (self.texts.len() - self.beside) as u64;
        (folders.len() > 1 && self.most_lie_beside()).then(|| {
            format!(
                "note: {} {} in {} ({}) and {} beside them, so these are not taken for classes; `data.labels` = folder takes \
                 them, and leaves the others without a label",
                plural(inside, "image"),
                if inside == 1 { "lies" } else { "lie" },
                plural(folders.len() as u64, "folder"),
                quoted(&folders),
                self.beside
            )
        })
    }

    fn has_classes(&self) -> bool {
        self.texts.iter().any(Option::is_some)
    }

    /// Its folders that can be classes.
    fn classes_of_folders(&self) -> impl Iterator<Item = &String> {
        let can_be = !self.most_lie_beside();
        self.folders.iter().filter(move |_| can_be)
    }

    /// The list of names of a source that says classes; an inner none if it has numbers or names as they are.
    fn list(&self) -> Option<Option<&'a [String]>> {
        let said = self.said.filter(|_| self.has_classes())?;
        Some(said.names.as_deref())
    }

    /// The names of the classes that the source says.
    fn names_said(&self) -> BTreeSet<String> {
        let Some(said) = self.said else {
            return BTreeSet::new();
        };
        let texts: BTreeSet<&String> = self.texts.iter().flatten().collect();
        texts.into_iter().map(|text| name(said, text)).collect()
    }

    /// Names in place of the numbers of a list.
    fn name_classes(&mut self, said: &Said) {
        if said.names.is_some() {
            for text in self.texts.iter_mut().flatten() {
                *text = name(said, text);
            }
        }
    }
}

/// The topmost folder that an image lies in.
pub(super) fn folder(entry: &Entry) -> Option<String> {
    let path = entry.path_below();
    let start = path.iter().position(|b| *b != b'/')?;
    let length = path[start..].iter().position(|b| *b == b'/')?;
    Some(escape(&path[start..start + length]))
}

/// The name of a class that a source numbers, if it says it.
fn name(said: &Said, text: &str) -> String {
    let names = said.names.as_deref().unwrap_or_default();
    let number = text.parse::<usize>().ok();
    let name = number.and_then(|number| names.get(number));
    name.cloned().unwrap_or_else(|| text.to_owned())
}

fn why_none(parts: &[Part]) -> String {
    let folders: BTreeSet<&String> = parts.iter().flat_map(|part| &part.folders).collect();
    if parts.iter().any(|part| part.said.is_some()) {
        return "what their source says of classes is about none of them".to_owned();
    }
    if folders.len() > 1 {
        return "most of them lie beside the folders".to_owned();
    }
    match folders.first() {
        Some(folder) => format!("one folder alone, {folder}, is no class"),
        None => "none of them lies in a folder of its class".to_owned(),
    }
}

//! Which class each image is of, by what the settings say.

use std::collections::{BTreeSet, HashMap};

use super::auto::{self, folder};
use super::missing::Missing;
use super::table::{self, Table};
use super::{Labels, Numbering};
use crate::config::LabelsFrom;
use crate::data::entry::Entry;
use crate::data::error::DataError;
use crate::data::listing::Said;
use crate::data::manifest::escape;
use crate::data::passed_over::{are, quoted};
use crate::text::{plural, printable, shown};

/// Names that a line or an error quotes.
const QUOTED: usize = 6;

/// The classes of images, and what else there is to say.
#[derive(Debug, Default)]
pub(in crate::data) struct Assigned {
    pub(in crate::data) labels: Option<Labels>,
    pub(in crate::data) notices: Vec<String>,
    /// Why there are no classes.
    pub(in crate::data) why_none: Option<String>,
}

/// The classes of `entries`, by `from`; `said` is what each source itself says of them.
///
/// # Errors
/// Nothing says the class of any image, where that was asked for; a file that cannot be used; too many classes.
pub(in crate::data) fn assign(
    from: &LabelsFrom,
    entries: &[&Entry],
    said: &[Said],
) -> Result<Assigned, DataError> {
    let failed = |reason: String| DataError::Labels {
        labels: from.to_string(),
        reason,
    };
    let mut notices = Vec::new();
    let (texts, numbering) = match from {
        LabelsFrom::None => return Ok(Assigned::default()),
        LabelsFrom::Auto => {
            let found = auto::find(entries, said);
            notices.extend(found.notices);
            if found.texts.iter().all(Option::is_none) {
                return Ok(Assigned {
                    labels: None,
                    notices,
                    why_none: Some(found.why_none),
                });
            }
            (found.texts, found.numbering)
        }
        LabelsFrom::Folder => (
            entries.iter().map(|entry| folder(entry)).collect(),
            Numbering::Sorted,
        ),
        LabelsFrom::Prefix => (
            entries.iter().map(|entry| prefix(entry)).collect(),
            Numbering::Sorted,
        ),
        LabelsFrom::File(path) => {
            let table = table::read(path).map_err(failed)?;
            let (mut texts, told) = look_up(&table, "the labels", entries).map_err(failed)?;
            notices.extend(told);
            let mut missing = Missing::default();
            missing.take_out(&mut texts);
            notices.extend(missing.lines());
            (texts, Numbering::AsTheyAre)
        }
    };
    let texts: Vec<Option<String>> = texts;
    if texts.iter().all(Option::is_none) {
        let wanted = match from {
            LabelsFrom::Folder => {
                "no image lies in a folder of its own class below the place of the images"
            }
            LabelsFrom::Prefix => {
                "no image has a class before the first _ of its name, as in cat_0001.png"
            }
            LabelsFrom::File(_) => "the file gives none of the images a class",
            LabelsFrom::Auto | LabelsFrom::None => "nothing says them",
        };
        return Err(failed(wanted.to_owned()));
    }
    let labels = Some(Labels::new(&texts, numbering).map_err(failed)?);
    Ok(Assigned {
        labels,
        notices,
        why_none: None,
    })
}

/// The file's name before the first `_`.
fn prefix(entry: &Entry) -> Option<String> {
    let name = base(entry.path_below());
    let end = name.iter().position(|b| *b == b'_')?;
    (end > 0).then(|| escape(&name[..end]))
}

/// The last part of a path.
fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// A name of a table and its class.
type Row<'a> = (&'a String, &'a Option<String>);

/// The row of an image by its whole name, or by its path below its source.
fn exact<'a>(table: &'a Table, entry: &Entry) -> Option<Row<'a>> {
    let row = |name| table.get_key_value(std::str::from_utf8(name).ok()?);
    row(&entry.name).or_else(|| row(entry.path_below()))
}

/// The class of each image by a table of names, called `what`, and what there is to say.
///
/// # Errors
/// None of the names is one of an image.
pub(in crate::data) fn look_up(
    table: &Table,
    what: &str,
    entries: &[&Entry],
) -> Result<(Vec<Option<String>>, Option<String>), String> {
    let mut rows: Vec<Option<Row>> = entries.iter().map(|entry| exact(table, entry)).collect();
    if rows.iter().all(Option::is_none) {
        // Folders may differ; names that several have tell nothing.
        let of_entries = unique(entries.iter().map(|entry| base(&entry.name)));
        let by_base: HashMap<&[u8], _> = table
            .iter()
            .map(|row| (base(row.0.as_bytes()), row))
            .collect();
        let of_rows = unique(table.keys().map(|name| base(name.as_bytes())));
        let row = |entry: &&Entry| {
            let name = base(&entry.name);
            let tells = of_entries.get(name) == Some(&1) && of_rows.get(name) == Some(&1);
            by_base.get(name).copied().filter(|_| tells)
        };
        rows = entries.iter().map(row).collect();
    }
    let used: BTreeSet<&String> = rows.iter().flatten().map(|(name, _)| *name).collect();
    let unused = table.keys().filter(|name| !used.contains(*name));
    let mut unused: Vec<String> = unused.map(|name| shown(&printable(name))).collect();
    unused.sort();
    if used.is_empty() {
        let example = |names: Option<String>| names.unwrap_or_else(|| "nothing".to_owned());
        return Err(format!(
            "none of its {} is that of an image: it names, for example, {}, and an image is {}",
            plural(table.len() as u64, "name"),
            example(unused.into_iter().next()),
            example(entries.first().map(|entry| escape(&entry.name)))
        ));
    }
    let told = (!unused.is_empty()).then(|| {
        let n = unused.len() as u64;
        unused.truncate(QUOTED);
        format!(
            "{} of {what} {} no image: {}",
            plural(n, "name"),
            are(n),
            quoted(&unused)
        )
    });
    let labels = rows.into_iter().map(|row| row?.1.clone()).collect();
    Ok((labels, told))
}

/// How often each name occurs.
fn unique<'a>(names: impl Iterator<Item = &'a [u8]>) -> HashMap<&'a [u8], u32> {
    let mut counts = HashMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

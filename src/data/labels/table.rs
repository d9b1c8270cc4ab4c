//! Files that list names of images and their classes: CSV, TSV, JSON and JSON lines.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::data::error::DataError;
use crate::fs::read_regular;
use crate::text::{one_line, printable, shown};

/// Longest file, bytes.
pub(in crate::data) const MAX_FILE_BYTES: u64 = 1 << 30;

/// Names of the column, or key, of an image's name.
const FILE_NAMES: [&str; 7] = [
    "file_name",
    "file",
    "filename",
    "name",
    "path",
    "image",
    "id",
];

/// Names of the column, or key, of an image's class.
const LABEL_NAMES: [&str; 6] = ["label", "class", "cls", "labels", "category", "target"];

/// The class of each name; none for a name that is listed without one.
pub(in crate::data) type Table = HashMap<String, Option<String>>;

/// Reads a file of any form, by its ending, else by its content.
///
/// # Errors
/// A file that cannot be read, or is of another form; a name with two classes.
pub(super) fn read(path: &Path) -> Result<Table, String> {
    let bytes = read_regular(path, MAX_FILE_BYTES).map_err(|error| one_line(&error))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str().unwrap_or_default() {
        "json" => json(text),
        "jsonl" | "ndjson" => json_lines(text),
        "csv" => rows(text, b','),
        "tsv" => rows(text, b'\t'),
        _ => match text.trim_start().as_bytes().first() {
            Some(b'{' | b'[') => json(text).or_else(|error| json_lines(text).map_err(|_| error)),
            _ if text.lines().next().unwrap_or_default().contains('\t') => rows(text, b'\t'),
            _ => rows(text, b','),
        },
    }
}

/// What a file says that has the name of EDM's.
#[derive(Debug)]
pub(in crate::data) enum DatasetJson {
    /// The classes of images.
    Labels(Table),
    /// That there are none.
    NoLabels,
    /// Nothing of labels: it is another program's.
    Other,
}

/// Reads EDM's `dataset.json`.
///
/// # Errors
/// Text of another form, or vectors in place of classes.
pub(in crate::data) fn of_dataset_json(path: &Path, text: &[u8]) -> Result<DatasetJson, DataError> {
    let bad = |reason: String| DataError::BadSource {
        path: path.to_owned(),
        reason,
    };
    let value: Value = serde_json::from_slice(text).map_err(|error| bad(one_line(&error)))?;
    let table = match value.get("labels") {
        None => return Ok(DatasetJson::Other),
        Some(Value::Null) => Table::new(),
        Some(labels) => pairs(labels).map_err(|reason| {
            bad(format!(
                "{reason}; mend it, or choose what else says the classes (`data.labels`)"
            ))
        })?,
    };
    Ok(match table.is_empty() {
        true => DatasetJson::NoLabels,
        false => DatasetJson::Labels(table),
    })
}

/// The class in the JSON text of one image: a value, or that of a key such as `label`.
///
/// # Errors
/// Text that is no JSON, or a value that is no class.
pub(in crate::data) fn of_json(text: &[u8]) -> Result<Option<String>, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| one_line(&error))?;
    match &value {
        Value::Object(_) => named(&value, &LABEL_NAMES).map_or(Ok(None), class),
        value => class(value),
    }
}

/// The class that is the text of a file.
///
/// # Errors
/// No text.
pub(in crate::data) fn of_text(text: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8 text".to_owned())?;
    Ok(Some(text.trim())
        .filter(|text| !text.is_empty())
        .map(str::to_owned))
}

/// A class as JSON: a whole number or a name.
fn class(value: &Value) -> Result<Option<String>, String> {
    let no_class = || {
        Err(format!(
            "{} is no class: a whole number or a name is wanted for each image",
            shown(&printable(&value.to_string()))
        ))
    };
    match value {
        Value::Null => Ok(None),
        Value::String(text) => of_text(text.as_bytes()),
        Value::Bool(is) => Ok(Some(is.to_string())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(Some(whole.to_string())),
            // As some programs write whole numbers beside missing ones.
            (None, Some(real)) if real.fract() == 0.0 && real.abs() < 1e15 => {
                Ok(Some(format!("{real:.0}")))
            }
            _ => no_class(),
        },
        Value::Array(_) => Err(format!(
            "{} is a vector; vectors in place of classes are not read: a whole number or a name is wanted for each image",
            shown(&printable(&value.to_string()))
        )),
        Value::Object(_) => no_class(),
    }
}

fn named<'a>(object: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(name))
}

fn json(text: &str) -> Result<Table, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| one_line(&error))?;
    match &value {
        Value::Object(object) => match object.get("labels") {
            Some(labels @ Value::Array(_)) => pairs(labels),
            Some(Value::Null) => Err("its labels are null: it has none".to_owned()),
            _ => table(
                object
                    .iter()
                    .map(|(name, label)| Ok((name.clone(), class(label)?))),
            ),
        },
        Value::Array(list) if list.iter().all(Value::is_object) => table(list.iter().map(object)),
        list => pairs(list),
    }
}

/// EDM's list of pairs of a name and a class.
fn pairs(list: &Value) -> Result<Table, String> {
    let wanted = "a list of pairs of a name and a class is wanted";
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(name), label]) => Ok((name.clone(), class(label)?)),
        _ => Err(format!(
            "{}: {wanted}",
            shown(&printable(&pair.to_string()))
        )),
    };
    table(list.as_array().ok_or(wanted)?.iter().map(pair))
}

/// An object with a name and a class, as in Hugging Face's `metadata.jsonl`.
fn object(object: &Value) -> Result<(String, Option<String>), String> {
    let name = named(object, &FILE_NAMES).and_then(Value::as_str);
    match (name, named(object, &LABEL_NAMES)) {
        (Some(name), Some(label)) => Ok((name.to_owned(), class(label)?)),
        _ => Err(format!(
            "{}: keys such as file_name and label are wanted",
            shown(&printable(&object.to_string()))
        )),
    }
}

fn json_lines(text: &str) -> Result<Table, String> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    table(lines.map(|(i, line)| {
        let value: Result<Value, _> = serde_json::from_str(line);
        let value = value.map_err(|error| one_line(&error));
        value
            .and_then(|value| object(&value))
            .map_err(|error| format!("line {}: {error}", i + 1))
    }))
}

/// Rows of a name and a class, or of more columns with a header that names these two.
fn rows(text: &str, delimiter: u8) -> Result<Table, String> {
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter);
    let mut reader = reader.from_reader(text.as_bytes());
    let mut records = reader.records().peekable();
    let (name, label) = match records.peek() {
        Some(Ok(first)) => match (column(first, &FILE_NAMES), column(first, &LABEL_NAMES)) {
            (Some(name), Some(label)) => {
                records.next();
                (name, label)
            }
            _ if first.len() == 2 => (0, 1),
            _ => {
                let found: Vec<&str> = first.iter().take(8).collect();
                return Err(format!(
                    "columns such as file_name and label are wanted; the first line has {}",
                    shown(&printable(&found.join(", ")))
                ));
            }
        },
        _ => (0, 1),
    };
    table(records.map(|record| {
        let record = record.map_err(|error| one_line(&error))?;
        let line = record.position().map_or(0, |position| position.line());
        match (record.get(name), record.get(label)) {
            (Some(name), Some(label)) => Ok((name.to_owned(), of_text(label.as_bytes())?)),
            _ => Err(format!("line {line}: it has {} columns", record.len())),
        }
    }))
}

/// The first of these names that is a column, in any case.
fn column(header: &csv::StringRecord, names: &[&str]) -> Option<usize> {
    let place = |name: &&str| {
        header
            .iter()
            .position(|cell| cell.trim().eq_ignore_ascii_case(name))
    };
    names.iter().find_map(place)
}

/// A table with names as paths below a folder.
fn table(
    rows: impl Iterator<Item = Result<(String, Option<String>), String>>,
) -> Result<Table, String> {
    let mut table = Table::new();
    for row in rows {
        let (name, label) = row?;
        let name = name.trim().replace('\\', "/");
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        match table.get(&name) {
            Some(other) if *other != label => {
                return Err(format!("{} has two classes", shown(&printable(&name))));
            }
            _ => table.insert(name, label),
        };
    }
    Ok(table)
}

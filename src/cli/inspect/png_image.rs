//! What a PNG image was made with, as its file says it: anybody may have written that.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::ImageFormat;
use serde_json::{Value, json};

use crate::data::has_image_ending;
use crate::fs::{open_regular, read_regular};
use crate::report::{is_marked, settings_of_png};
use crate::text::{self, printable};

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Most characters of a text that are shown.
const MAX_SHOWN_CHARS: usize = 2000;

/// What an image has to say of itself to be made again.
const NEEDED: &str = "to make it again takes the checkpoint (and whether its EMA or raw weights), the seed and the image's number, \
                      the sampler with its steps, and the class, guidance or image to start from, if there were any";

/// A PNG file.
#[derive(Debug)]
pub(super) struct PngImage {
    path: PathBuf,
    /// As it stands in the file, if it says anything.
    settings: Option<Value>,
    /// Whether this program wrote it.
    is_ours: bool,
}

impl PngImage {
    /// The image in a file; `None` for what is no image.
    ///
    /// # Errors
    /// A damaged PNG file; an image of another format; a file with the name of an image that is none.
    pub(super) fn read(path: &Path) -> Result<Option<PngImage>> {
        if !path.is_file() {
            return Ok(None);
        }
        let name = text::path(path);
        let format = format_of(path).with_context(|| format!("cannot read {name}"))?;
        let Some(format) = format else {
            ensure!(
                !has_image_ending(path),
                "{name} has the name of an image and is none: it does not begin as one does"
            );
            return Ok(None);
        };
        if format != ImageFormat::Png {
            let format = format!("{format:?}").to_uppercase();
            bail!(
                "{name} is an image of the format {format}, which holds no settings; PNG files that `ddpm sample` writes do"
            );
        }
        let bytes = read_regular(path, MAX_BYTES)?;
        let settings = settings_of_png(&bytes).with_context(|| format!("cannot read {name}"))?;
        let parsed =
            settings.map(|said| serde_json::from_str(&said).unwrap_or(Value::String(said)));
        Ok(Some(PngImage {
            path: path.to_owned(),
            settings: parsed,
            is_ours: is_marked(path),
        }))
    }

    /// All of it, for programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "path": self.path.to_string_lossy(),
            "container": "PNG image",
            "written_by_ddpm": self.is_ours,
            "settings": self.settings,
        })
    }
}

/// The format of an image, by its first bytes; of those that other files may begin with, by its name too.
fn format_of(path: &Path) -> Result<Option<ImageFormat>> {
    let mut head = vec![];
    open_regular(path)?.take(32).read_to_end(&mut head)?;
    let format = image::guess_format(&head).ok();
    Ok(format.filter(|format| *format == ImageFormat::Png || has_image_ending(path)))
}

impl fmt::Display for PngImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.is_ours {
            ", written by ddpm"
        } else {
            ""
        };
        writeln!(f, "{}: PNG image{by}", text::path(&self.path))?;
        let Some(settings) = &self.settings else {
            writeln!(
                f,
                "  no settings: those of `ddpm sample` are in its PNG files unless --no-metadata is given, or another program has left them out"
            )?;
            return writeln!(f, "  {NEEDED}");
        };
        match settings.as_object() {
            None => writeln!(f, "  settings: {}", first_of(&plain(settings))),
            Some(settings) => settings.iter().try_for_each(|(name, value)| {
                writeln!(f, "  {}: {}", printable(name), first_of(&plain(value)))
            }),
        }
    }
}

/// Text as far as it can be read at a glance: whoever made the file chose its length.
fn first_of(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => {
            let all = text.chars().count();
            format!(
                "{}... ({all} characters; all of them with --json)",
                &text[..end]
            )
            .into()
        }
        None => text.into(),
    }
}

/// A value in words, on one line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(plain).collect();
            values.join(", ")
        }
        Value::Object(fields) => {
            let named = |(name, value): (&String, &Value)| match value.is_object() {
                true => format!("{} ({})", printable(name), plain(value)),
                false => format!("{} {}", printable(name), plain(value)),
            };
            let fields: Vec<String> = fields.iter().map(named).collect();
            fields.join(", ")
        }
        other => other.to_string(),
    }
}

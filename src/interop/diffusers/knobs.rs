//! A JSON file of settings, read knob by knob; every refusal names file, knob, value and wanted values.

use std::fmt::Display;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// Largest settings file that is read, in bytes; real ones are below 100 kB.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Longest name or word in it, in bytes: they are repeated in messages.
const MAX_WORD_BYTES: usize = 1000;

/// The knobs of one file.
#[derive(Debug)]
pub(super) struct Knobs {
    file: &'static str,
    map: Map<String, Value>,
}

impl Knobs {
    /// Parses `text`, the contents of `file`.
    ///
    /// # Errors
    /// Too long, not a JSON object, or words with control characters.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Knobs> {
        ensure!(
            text.len() as u64 <= MAX_BYTES,
            "{file} is {} bytes long, want at most {MAX_BYTES}",
            text.len()
        );
        let value: Value = serde_json::from_str(&without_infinities(text))
            .with_context(|| format!("{file} is not JSON"))?;
        check_words(&value).with_context(|| file.to_owned())?;
        match value {
            Value::Object(map) => Ok(Knobs { file, map }),
            _ => bail!("{file} is not a JSON object, want {{\"name\": value, …}}"),
        }
    }

    /// The value of `knob`, null included.
    pub(super) fn get(&self, knob: &str) -> Option<&Value> {
        self.map.get(knob)
    }

    /// Names and values, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// True if `knob` is there and not null.
    pub(super) fn is_set(&self, knob: &str) -> bool {
        self.get(knob).is_some_and(|v| !v.is_null())
    }

    /// The error for a wrong value of `knob`.
    pub(super) fn refused(&self, knob: &str, wanted: impl Display) -> anyhow::Error {
        anyhow::anyhow!("{}: {}: {wanted}", self.file, self.shown(knob))
    }

    /// `knob = value` for a message.
    pub(super) fn shown(&self, knob: &str) -> String {
        let seen = self.get(knob).map_or("(not there)".to_owned(), shown);
        format!("{knob} = {seen}")
    }

    /// A whole number in `range`; `default` if the knob is missing.
    pub(super) fn int(&self, knob: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64> {
        match self.get(knob) {
            None => Ok(default),
            Some(value) => self.int_of(knob, value, &range),
        }
    }

    /// A whole number in `range`; none if the knob is missing or null.
    pub(super) fn optional_int(
        &self,
        knob: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>> {
        match self.get(knob) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.int_of(knob, value, &range).map(Some),
        }
    }

    /// A list of whole numbers in `range`; `default` if the knob is missing.
    pub(super) fn ints(
        &self,
        knob: &str,
        default: &[i64],
        range: RangeInclusive<i64>,
    ) -> Result<Vec<i64>> {
        match self.get(knob) {
            None => Ok(default.to_vec()),
            Some(Value::Array(values)) => values
                .iter()
                .map(|value| self.int_of(knob, value, &range))
                .collect(),
            Some(_) => Err(self.refused(knob, "want a list of whole numbers")),
        }
    }

    fn int_of(&self, knob: &str, value: &Value, range: &RangeInclusive<i64>) -> Result<i64> {
        // Python may have written 1.0 for 1.
        let whole = value.as_i64().or_else(|| {
            let x = value.as_f64()?;
            (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64)
        });
        whole.filter(|n| range.contains(n)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.refused(knob, format!("want a whole number from {least} to {most}"))
        })
    }

    /// A number; `default` if the knob is missing.
    pub(super) fn float(&self, knob: &str, default: f64) -> Result<f64> {
        match self.get(knob) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| self.refused(knob, "want a number")),
        }
    }

    /// A number above 0; `default` if the knob is missing.
    pub(super) fn positive(&self, knob: &str, default: f64) -> Result<f64> {
        let x = self.float(knob, default)?;
        ensure!(x > 0.0, self.refused(knob, "want a number above 0"));
        Ok(x)
    }

    /// true or false; `default` if the knob is missing.
    pub(super) fn flag(&self, knob: &str, default: bool) -> Result<bool> {
        match self.get(knob) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.refused(knob, "want true or false")),
        }
    }

    /// A word; `default` if the knob is missing.
    pub(super) fn word<'a>(&'a self, knob: &str, default: &'a str) -> Result<&'a str> {
        match self.get(knob) {
            None => Ok(default),
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.refused(knob, "want a word in quotes")),
        }
    }

    /// A list of words; `default` if the knob is missing.
    pub(super) fn words<'a>(&'a self, knob: &str, default: &[&'a str]) -> Result<Vec<&'a str>> {
        let wrong = || self.refused(knob, "want a list of words in quotes");
        match self.get(knob) {
            None => Ok(default.to_vec()),
            Some(Value::Array(values)) => values
                .iter()
                .map(|value| value.as_str().ok_or_else(wrong))
                .collect(),
            Some(_) => Err(wrong()),
        }
    }
}

/// Refuses names and words that no program writes and that are unsafe to print.
fn check_words(value: &Value) -> Result<()> {
    let check = |word: &str| {
        ensure!(
            word.len() <= MAX_WORD_BYTES,
            "a name or word is {} bytes long, want at most {MAX_WORD_BYTES}",
            word.len()
        );
        ensure!(
            !word.contains(char::is_control),
            "{word:?} holds control characters"
        );
        Ok(())
    };
    match value {
        Value::String(word) => check(word),
        Value::Array(values) => values.iter().try_for_each(check_words),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            check(name)?;
            check_words(value)
        }),
        _ => Ok(()),
    }
}

/// A value for a message, shortened.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Replaces NaN and ±Infinity outside of strings by null: Python writes them, JSON does not have them,
/// and diffusers' DPM-Solver settings hold one.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !quoted && rest.starts_with(word));
        let taken = match (word, c) {
            (Some(word), _) => {
                out.push_str("null");
                word.len()
            }
            (None, '\\') if quoted => {
                let escaped = rest.chars().nth(1).map_or(0, char::len_utf8);
                out.push_str(&rest[..1 + escaped]);
                1 + escaped
            }
            (None, _) => {
                quoted ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(text: &str) -> Knobs {
        Knobs::parse("config.json", text).unwrap()
    }

    #[test]
    fn pythons_infinities_are_null_and_strings_stay() {
        let k = knobs(
            r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "NaN \" -Infinity \\", "d": "é"}"#,
        );
        assert!(!k.is_set("a"));
        assert_eq!(k.get("b").unwrap().to_string(), "[null,null]");
        assert_eq!(k.word("c", "").unwrap(), "NaN \" -Infinity \\");
        assert_eq!(k.word("d", "").unwrap(), "é");
    }

    #[test]
    fn refusals_name_file_knob_value_and_wish() {
        let k = knobs(r#"{"a": "x", "b": 7, "c": 1.5, "d": 2.0, "e": [1, "y"]}"#);
        assert_eq!(
            k.int("a", 0, 1..=9).unwrap_err().to_string(),
            "config.json: a = \"x\": want a whole number from 1 to 9"
        );
        assert_eq!(
            k.int("b", 0, 8..=9).unwrap_err().to_string(),
            "config.json: b = 7: want a whole number from 8 to 9"
        );
        assert!(k.int("c", 0, 0..=9).is_err());
        assert_eq!(k.int("d", 0, 0..=9).unwrap(), 2);
        assert!(k.ints("e", &[], 0..=9).is_err());
        assert!(k.words("e", &[]).is_err());
        assert!(k.flag("b", true).is_err());
        assert!(k.float("a", 0.0).is_err());
        assert!(k.flag("nothing", true).unwrap());
    }

    #[test]
    fn what_is_no_object_or_too_long_is_refused() {
        let refused = |text: &str| format!("{:#}", Knobs::parse("f.json", text).unwrap_err());
        assert!(refused("[1]").contains("not a JSON object"));
        assert!(refused("{\"a\": ").contains("f.json is not JSON"));
        assert!(refused(&"[".repeat(100_000)).contains("not JSON"));
        assert!(refused(&" ".repeat(1 + MAX_BYTES as usize)).contains("at most"));
    }

    #[test]
    fn words_that_no_message_can_repeat_are_refused() {
        let refused = |text: &str| format!("{:#}", Knobs::parse("f.json", text).unwrap_err());
        for text in [
            r#"{"_class_name": "UNet\u001b[2J"}"#,
            "{\"a\": [{\"b\u{7f}\": 1}]}",
            "{\"a\u{9b}2J\": 1}",
        ] {
            let message = refused(text);
            assert!(
                message.contains("f.json: ") && message.contains("holds control characters"),
                "{message}"
            );
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        let long = refused(&format!("{{\"a\": [\"{}\"]}}", "k".repeat(1001)));
        assert!(long.contains("1001 bytes long"), "{long}");
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let k = knobs(&format!("{{\"a\": \"{}\"}}", "ä".repeat(500)));
        let message = k.flag("a", true).unwrap_err().to_string();
        assert!(message.chars().count() < 200, "{message}");
    }
}

//! What was noticed about files while they were decoded: kept with the images in a cache.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::decode::Oddity;
use super::manifest::unescape;
use super::passed_over::{are, quoted};
use crate::text::plural;

/// What there is to say about a file that was read, or could have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// 12 bits stored in 16: nearly black.
    TwelveBitsIn16,
    /// All pixels of the decoded image are equal.
    OneColour,
    /// Made by this program, and so left out of a folder of other images.
    MadeByDdpm,
}

/// The words of [`Remarks::to_text`].
const WORDS: [(Remark, &str); 3] = [
    (Remark::TwelveBitsIn16, "twelve-bits-in-16"),
    (Remark::OneColour, "one-colour"),
    (Remark::MadeByDdpm, "made-by-ddpm"),
];

impl From<Oddity> for Remark {
    fn from(oddity: Oddity) -> Self {
        match oddity {
            Oddity::TwelveBitsIn16 => Self::TwelveBitsIn16,
        }
    }
}

/// Remarks, each with the files that it is about: their names as in a [`Manifest`](super::Manifest).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    names: BTreeMap<Remark, Vec<String>>,
}

impl Remarks {
    pub(super) fn add(&mut self, remark: Remark, name: String) {
        self.names.entry(remark).or_default().push(name);
    }

    /// Names of the files that a remark is about.
    pub fn names(&self, remark: Remark) -> &[String] {
        self.names.get(&remark).map_or(&[], Vec::as_slice)
    }

    /// A line for each kind of remark that there is, with the first names.
    pub fn lines(&self) -> Vec<String> {
        let line = |(remark, names): (&Remark, &Vec<String>)| {
            let n = names.len() as u64;
            let (images, are) = (plural(n, "image"), are(n));
            let start = match remark {
                Remark::TwelveBitsIn16 => {
                    format!(
                        "warning: {images} with 12 bits stored in 16 {are} nearly black; multiply the values by 16"
                    )
                }
                Remark::OneColour => format!("warning: {images} {are} all one colour"),
                Remark::MadeByDdpm => {
                    format!(
                        "{images} made by ddpm {are} passed over; only a folder without others is trained on"
                    )
                }
            };
            format!("{start}: {}", quoted(names))
        };
        self.names.iter().map(line).collect()
    }

    /// Lines of a kind, a tab and a name.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (remark, word) in WORDS {
            for name in self.names(remark) {
                text += &format!("{word}\t{name}\n");
            }
        }
        text
    }

    /// Inverse of [`Remarks::to_text`].
    ///
    /// # Errors
    /// A line that it does not write.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut remarks = Self::default();
        for line in text.lines() {
            let read = || {
                let (word, name) = line.split_once('\t')?;
                let (remark, _) = WORDS.iter().find(|(_, known)| *known == word)?;
                unescape(name)?;
                Some((*remark, name.to_owned()))
            };
            let (remark, name) = read().with_context(|| format!("a remark: {line:?}"))?;
            remarks.add(remark, name);
        }
        Ok(remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_are_lines_to_say_and_to_keep() {
        let mut remarks = Remarks::default();
        for number in 0..6 {
            remarks.add(Remark::OneColour, format!("{number}.png"));
        }
        remarks.add(Remark::MadeByDdpm, r"odd\tname.png".into());
        remarks.add(Remark::TwelveBitsIn16, "x-ray.png".into());
        assert_eq!(
            remarks.lines(),
            [
                "warning: 1 image with 12 bits stored in 16 is nearly black; multiply the values by 16: x-ray.png",
                "warning: 6 images are all one colour: 0.png, 1.png, 2.png, 3.png, 4.png, …",
                r"1 image made by ddpm is passed over; only a folder without others is trained on: odd\tname.png",
            ]
        );
        assert_eq!(Remarks::parse(&remarks.to_text()).unwrap(), remarks);
        assert_eq!(Remarks::parse("").unwrap(), Remarks::default());
        for bad in ["x\n", "one-color\ta.png\n", "one-colour\ta\\q.png\n"] {
            let error = Remarks::parse(bad).unwrap_err().to_string();
            assert!(error.contains("a remark"), "{error}");
        }
    }
}

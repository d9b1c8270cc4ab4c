//! Labels that stand for none.

use std::collections::BTreeSet;

use crate::data::passed_over::are;
use crate::text::{plural, printable};

/// What programs write for an image without a label, in lower case: EDM and others a number, tables words.
const NONE: [&str; 6] = ["-1", "null", "none", "nan", "na", "n/a"];

/// Labels that may stand for none.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Those that do, and how many images have them.
    taken: BTreeSet<String>,
    images: u64,
    /// Those that may be names, and stay.
    kept: BTreeSet<String>,
}

impl Missing {
    /// Takes out the labels of a file or a source that stand for none: among whole numbers they can be nothing else,
    /// and among names they may be names.
    pub(super) fn take_out(&mut self, texts: &mut [Option<String>]) {
        let is_none = |text: &String| NONE.iter().any(|none| text.eq_ignore_ascii_case(none));
        let found: BTreeSet<&String> = texts.iter().flatten().filter(|t| is_none(t)).collect();
        let found: Vec<String> = found.into_iter().map(|text| printable(text)).collect();
        let mut others = texts.iter().flatten().filter(|text| !is_none(text));
        if !others.all(|text| text.parse::<u64>().is_ok()) {
            self.kept.extend(found);
            return;
        }
        self.taken.extend(found);
        for text in texts {
            if text.as_ref().is_some_and(is_none) {
                *text = None;
                self.images += 1;
            }
        }
    }

    /// What there is to say of them.
    pub(super) fn lines(&self) -> Vec<String> {
        let listed = |names: &BTreeSet<String>| Vec::from_iter(names.clone()).join(", ");
        let mut lines = Vec::new();
        if self.images > 0 {
            lines.push(format!(
                "{} labelled {} {} without a label, as all other labels are whole numbers",
                plural(self.images, "image"),
                listed(&self.taken),
                are(self.images)
            ));
        }
        if !self.kept.is_empty() {
            lines.push(format!(
                "note: {} among the labels is the name of a class, as not all others are whole numbers; an image without a \
                 label has an empty one",
                listed(&self.kept)
            ));
        }
        lines
    }
}

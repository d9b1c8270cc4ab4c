//! Which sampled image is of which class: `labels.csv` beside separate images, the rows of a grid, and a line.

use std::path::Path;

use anyhow::Result;
use tch::Tensor;

use crate::cli::args::class::class_name;
use crate::cli::outputs::image_name;
use crate::config::RunConfig;
use crate::fs::write_bytes;
use crate::sample::Classes;
use crate::text::listed;

/// The list beside separate images, in the form that `--labels` reads.
pub(super) const LABELS: &str = "labels.csv";

/// Most rows of a grid, and images in a row.
const MOST: u64 = 100;

/// The class of each image, by name.
#[derive(Debug)]
pub(super) struct OfClasses {
    /// Names of the classes; numbers where the network does not say them.
    names: Vec<String>,
    of: Vec<usize>,
    /// The classes in turn, if there are several and they come in turn.
    in_turn: Vec<String>,
}

impl OfClasses {
    /// `labels` are those of `classes`, `[N]` i64; `None` for a network without classes, and for images of none.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new(
        config: &RunConfig,
        classes: &Classes,
        labels: Option<&Tensor>,
    ) -> Result<Option<OfClasses>> {
        let (Some(known), Some(labels)) = (config.model.classes(), labels) else {
            return Ok(None);
        };
        let name = |class: &i64| class_name(*class as usize, config);
        let in_turn = match classes {
            Classes::None => return Ok(None),
            Classes::AsOften(_) => vec![],
            Classes::All => (0..known).collect(),
            Classes::These(these) => these.clone(),
        };
        let of: Vec<i64> = labels.try_into()?;
        Ok(Some(OfClasses {
            names: (0..known).map(|class| name(&class)).collect(),
            of: of.into_iter().map(|class| class as usize).collect(),
            in_turn: match in_turn.len() {
                0 | 1 => vec![],
                _ => in_turn.iter().map(name).collect(),
            },
        }))
    }

    /// Writes the class of each image into the folder of separate ones, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        write_bytes(&dir.join(LABELS), &self.to_csv()?)
    }

    fn to_csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["file", "class"])?;
        for (number, class) in (0..).zip(&self.of) {
            csv.write_record([&image_name(number), &self.names[*class]])?;
        }
        Ok(csv.into_inner()?)
    }

    /// Names of a grid's rows, one a class: image `i` is in row `i` modulo their number. `None` where the images do not
    /// fill such rows, or rows would be too many or too long.
    pub(super) fn rows(&self) -> Option<&[String]> {
        let (images, rows) = (self.of.len() as u64, self.in_turn.len() as u64);
        let fills = rows > 0 && images.is_multiple_of(rows);
        let fits = fills && rows.max(images / rows) <= MOST;
        fits.then_some(&self.in_turn)
    }

    /// What there is to say of a grid that has no such rows; nothing of images of one class.
    pub(super) fn line(&self) -> Option<String> {
        if !self.in_turn.is_empty() {
            return Some(format!("classes in turn: {}", listed(&self.in_turn)));
        }
        let mut counts = vec![0; self.names.len()];
        self.of.iter().for_each(|class| counts[*class] += 1);
        let counted = self.names.iter().zip(counts).filter(|(_, n)| *n > 0);
        let counted: Vec<String> = counted.map(|(name, n)| format!("{name} {n}")).collect();
        (counted.len() > 1).then(|| {
            format!(
                "of the classes: {}; which image is of which says labels.csv of --separate",
                listed(&counted)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConditionalConfig, ModelKind, Preset};

    fn of(classes: &Classes, images: u64) -> OfClasses {
        let mut config = Preset::Demo.config();
        config.model = ModelKind::UnetAttention.config([3, 32, 32]);
        config.model.set_classes(Some(3), true);
        config.conditional = Some(ConditionalConfig {
            label_dropout: None,
            classes: ["cat", "a, \"b\"", "2"].map(str::to_owned).to_vec(),
            images: vec![2, 1, 0],
        });
        let labels = classes.of_images(&config.model, images).unwrap();
        let found = OfClasses::new(&config, classes, labels.as_ref()).unwrap();
        found.unwrap_or(OfClasses {
            names: vec![],
            of: vec![],
            in_turn: vec![],
        })
    }

    #[test]
    fn the_list_has_a_row_an_image() {
        let text = of(&Classes::These(vec![1, 0]), 3).to_csv().unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "file,class\n00000.png,\"a, \"\"b\"\"\"\n00001.png,cat\n00002.png,\"a, \"\"b\"\"\"\n"
        );
        assert!(of(&Classes::None, 3).of.is_empty());
    }

    #[test]
    fn rows_are_of_several_classes_that_fill_them() {
        let rows = |classes: Classes, images| of(&classes, images).rows().map(<[String]>::to_vec);
        let two = Classes::These(vec![2, 0]);
        assert_eq!(rows(two.clone(), 6), Some(vec!["2".into(), "cat".into()]));
        assert_eq!(rows(two.clone(), 5), None);
        assert_eq!(rows(two, 202), None);
        assert_eq!(rows(Classes::All, 3).map(|rows| rows.len()), Some(3));
        assert_eq!(rows(Classes::These(vec![1]), 6), None);
        assert_eq!(rows(Classes::AsOften(vec![2, 1, 0]), 6), None);
        let line = |classes, images| of(&classes, images).line();
        let all = "classes in turn: cat, a, \"b\", 2";
        assert_eq!(line(Classes::All, 5).as_deref(), Some(all));
        let counted = "of the classes: cat 4, a, \"b\" 2; which image is of which says labels.csv of --separate";
        let often = Classes::AsOften(vec![2, 1, 0]);
        assert_eq!(line(often, 6).as_deref(), Some(counted));
        assert_eq!(line(Classes::These(vec![1]), 6), None);
    }
}

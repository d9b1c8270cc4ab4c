//! The table of samplers.

use serde::Serialize;

use super::combinations::{Combination, spacing_name};
use super::markdown::{marked, number, table};
use super::measure::Values;

/// What was measured of a combination.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) sampler: String,
    pub(super) spacing: String,
    pub(super) steps: usize,
    /// Evaluations of the network for an image.
    pub(super) evaluations: usize,
    pub(super) secs_per_image: f64,
    #[serde(flatten)]
    pub(super) values: Values,
}

/// A column of values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) of: fn(&Values) -> Option<f64>,
    /// True where less is better.
    pub(super) less: bool,
}

/// All columns that there may be.
pub(super) const COLUMNS: [Column; 6] = [
    column("answer", |values| values.answer, true),
    column("swd", |values| values.swd, true),
    column("fid", |values| values.fid, true),
    column("kid", |values| values.kid, true),
    column("precision", |values| values.precision, false),
    column("recall", |values| values.recall, false),
];

const fn column(name: &'static str, of: fn(&Values) -> Option<f64>, less: bool) -> Column {
    Column { name, of, less }
}

impl Row {
    pub(super) fn new(combination: &Combination, secs_per_image: f64, values: Values) -> Row {
        Row {
            sampler: combination.sampler.clone(),
            spacing: spacing_name(combination.spacing),
            steps: combination.steps,
            evaluations: combination.evaluations,
            secs_per_image,
            values,
        }
    }

    /// The values in words: "answer 0.0520, swd 12.1000".
    pub(super) fn said(&self) -> String {
        let values = COLUMNS.iter().filter_map(|column| {
            let value = (column.of)(&self.values)?;
            Some(format!("{} {}", column.name, number(value)))
        });
        values.collect::<Vec<_>>().join(", ")
    }
}

/// A Markdown table: bold is a value that none of as few evaluations of the network beats.
pub(super) fn shown(rows: &[Row]) -> String {
    let columns: Vec<Column> = (COLUMNS.into_iter())
        .filter(|column| rows.iter().any(|row| (column.of)(&row.values).is_some()))
        .collect();
    let words = ["sampler", "spacing", "steps", "evaluations"];
    let mut header: Vec<String> = words.map(str::to_owned).to_vec();
    header.extend(columns.iter().map(|column| column.name.to_owned()));
    header.push("s/image".to_owned());
    let cells = |row: &Row| {
        let mut cells = vec![row.sampler.clone(), row.spacing.clone()];
        cells.extend([row.steps, row.evaluations].map(|count| count.to_string()));
        cells.extend(columns.iter().map(|column| match (column.of)(&row.values) {
            Some(value) => marked(value, is_unbeaten(rows, row, *column)),
            None => "-".to_owned(),
        }));
        cells.push(number(row.secs_per_image));
        cells
    };
    table(&header, 2, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// True if no row of as few evaluations has a better value.
fn is_unbeaten(rows: &[Row], own: &Row, column: Column) -> bool {
    let Some(value) = (column.of)(&own.values) else {
        return false;
    };
    let beats = |other: f64| match column.less {
        true => other < value,
        false => other > value,
    };
    !rows
        .iter()
        .filter(|row| row.evaluations <= own.evaluations)
        .any(|row| (column.of)(&row.values).is_some_and(beats))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bold_is_what_no_cheaper_row_beats() {
        let row = |sampler: &str, evaluations, answer, recall| Row {
            sampler: sampler.into(),
            spacing: "log-snr".into(),
            steps: 5,
            evaluations,
            secs_per_image: 0.5,
            values: Values {
                answer,
                recall: Some(recall),
                ..Values::default()
            },
        };
        let rows = [
            row("a", 5, Some(0.5), 0.5),
            row("b", 9, Some(0.6), 0.75),
            row("c", 10, Some(0.25), 0.5),
            row("d", 10, None, 0.25),
        ];
        let wanted = "\
| sampler | spacing | steps | evaluations |     answer |     recall | s/image |
| ------- | ------- | ----: | ----------: | ---------: | ---------: | ------: |
| a       | log-snr |     5 |           5 | **0.5000** | **0.5000** |  0.5000 |
| b       | log-snr |     5 |           9 |     0.6000 | **0.7500** |  0.5000 |
| c       | log-snr |     5 |          10 | **0.2500** |     0.5000 |  0.5000 |
| d       | log-snr |     5 |          10 |          - |     0.2500 |  0.5000 |
";
        assert_eq!(shown(&rows), wanted);
        assert_eq!(rows[3].said(), "recall 0.2500");
    }
}

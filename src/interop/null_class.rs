//! The last row of an embedding of classes: a class, or "no class". No file says which.

use anyhow::{Result, ensure};

use super::hints::Hints;
use super::report::Report;
use crate::config::AttentionUNetConfig;

/// Splits the rows of the embedding, which `model` has as classes, by the hint; without it all are classes.
///
/// # Errors
/// The hint for a network without classes, or with a single one.
pub(super) fn split(
    model: &mut AttentionUNetConfig,
    hints: &Hints,
    report: &mut Report,
) -> Result<()> {
    let null = hints.null_class == Some(true);
    let Some(rows) = model.classes else {
        ensure!(
            !null,
            "null_class = true: this network has no classes; leave null_class out"
        );
        return Ok(());
    };
    if null {
        ensure!(
            rows > 1,
            "null_class = true: the embedding of classes has a single row, which would be no class; leave null_class out"
        );
        (model.classes, model.null_class) = (Some(rows - 1), true);
        report.fact("classes", rows - 1, "shapes");
        report.fact(
            "no class",
            format!("number {}, the last row", rows - 1),
            "--null-class",
        );
        return Ok(());
    }
    report.fact("classes", rows, "shapes");
    if hints.null_class.is_none() {
        report.assume(format!(
            "all {rows} rows of the embedding are classes; if the last one means \"no class\", for guidance, set \
             `hints.null_class` = true"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::fixtures::small;

    #[test]
    fn the_hint_says_what_the_last_row_is() {
        let with = |rows: Option<i64>, null_class| {
            let mut model = small();
            model.classes = rows;
            let hints = Hints {
                null_class,
                ..Hints::default()
            };
            let mut report = Report::default();
            let done = split(&mut model, &hints, &mut report);
            let found = done.map(|()| (model.classes, model.null_class));
            (
                found.map_err(|error| error.to_string()),
                report.assumptions.len(),
            )
        };
        assert_eq!(with(Some(11), Some(true)), (Ok((Some(10), true)), 0));
        assert_eq!(with(Some(11), Some(false)), (Ok((Some(11), false)), 0));
        assert_eq!(with(Some(11), None), (Ok((Some(11), false)), 1));
        assert_eq!(with(None, None), (Ok((None, false)), 0));
        for (rows, want) in [(None, "has no classes"), (Some(1), "a single row")] {
            let error = with(rows, Some(true)).0.unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}

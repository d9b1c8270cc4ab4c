//! Tables in Markdown, which are readable as they are.

/// A table whose first `words` columns are aligned to the left and all others, numbers, to the right.
pub(super) fn table(header: &[String], words: usize, rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(header)
        .chain(rows.iter().map(Vec::as_slice))
        .map(|row| row.iter().map(|cell| cell.replace('|', "\\|")).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        // As wide as the dashes and the colon below the header.
        cells
            .map(|cell| cell.chars().count())
            .fold(4, std::cmp::Ord::max)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column < words {
            true => format!(" {cell:<width$} |"),
            false => format!(" {cell:>width$} |"),
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths
        .iter()
        .enumerate()
        .map(|(column, &width)| match column < words {
            true => format!(" {} |", "-".repeat(width)),
            false => format!(" {}: |", "-".repeat(width - 1)),
        });
    let mut text = line(&rows[0]);
    text += &format!("|{}\n", rule.collect::<String>());
    text.extend(rows[1..].iter().map(line));
    text
}

/// A measured value: four digits behind the point, more for small ones.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 0.1 => format!("{value:.4}"),
        size if size >= 1e-4 => {
            let zeros = (-size.log10()).floor().max(0.0) as usize;
            format!("{value:.*}", 4 + zeros)
        }
        _ => format!("{value:.3e}"),
    }
}

/// The same, bold if it `stands_out`.
pub(super) fn marked(value: f64, stands_out: bool) -> String {
    match stands_out {
        true => format!("**{}**", number(value)),
        false => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_names_cannot_add_columns() {
        let words = |row: &[&str]| {
            row.iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        let rows = [words(&["a|b", "1"]), words(&["c", "100.5"])];
        let wanted = "| run  |   fid |\n| ---- | ----: |\n| a\\|b |     1 |\n| c    | 100.5 |\n";
        assert_eq!(table(&words(&["run", "fid"]), 1, &rows), wanted);
    }

    #[test]
    fn numbers_have_at_least_four_digits_that_count() {
        let shown = [12.34567, -0.5, 0.0212345, 0.00021234, 2e-7, 0.0].map(number);
        assert_eq!(
            shown,
            [
                "12.3457",
                "-0.5000",
                "0.02123",
                "0.0002123",
                "2.000e-7",
                "0"
            ]
        );
        assert_eq!(marked(1.0, true), "**1.0000**");
    }
}

//! Measured numbers for people.

use crate::evaluate::Mean;
use crate::report::PlotLine;

/// "3.1234 ± 0.0123"
pub(super) fn shown(mean: &Mean) -> String {
    match mean.standard_error {
        Some(error) => format!("{} ± {}", number(mean.mean), number(error)),
        None => number(mean.mean),
    }
}

/// "3.1234"; "1.2346e11" where that is shorter, as of a network that diverges.
pub(super) fn number(value: f64) -> String {
    match value.abs() < 1e7 || !value.is_finite() {
        true => format!("{value:.4}"),
        false => format!("{value:.4e}"),
    }
}

/// Rows with columns of equal width, each row a line.
pub(in crate::cli) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let width = |column| cells(column).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A curve over t + `shift`, as a line of a plot.
pub(super) fn curve_line(name: &str, means: &[Option<f64>], shift: f64) -> PlotLine {
    let at = |(t, mean): (usize, &Option<f64>)| Some((t as f64 + shift, (*mean)?));
    PlotLine {
        name: name.into(),
        points: means.iter().enumerate().filter_map(at).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["a", "1 ± 2", "x"]), row(&["long", "3"])];
        assert_eq!(aligned(&rows), "a     1 ± 2  x\nlong  3\n");
        let mut mean = Mean {
            mean: 1.23456,
            standard_error: Some(0.01),
        };
        assert_eq!(shown(&mean), "1.2346 ± 0.0100");
        mean.standard_error = None;
        assert_eq!(shown(&mean), "1.2346");
        let diverged = Mean {
            mean: 3e24,
            standard_error: Some(f64::NAN),
        };
        assert_eq!(shown(&diverged), "3.0000e24 ± NaN");
    }
}

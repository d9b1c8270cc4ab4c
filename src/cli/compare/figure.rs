//! The figures of comparisons.

use std::path::Path;

use anyhow::Result;

use crate::fs::write_bytes;
use crate::report::{Plot, PlotAxis, PlotLine};

/// Values that lie further apart than by this factor are drawn on a logarithmic axis.
const WIDE: f64 = 10.0;

/// Draws lines as SVG. `x` says what lies along the bottom, and whether it is logarithmic where it spans several sizes;
/// `y` what lies along the left.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn draw(
    path: &Path,
    title: &str,
    (x, is_of_sizes): (&str, bool),
    y: &str,
    lines: Vec<PlotLine>,
) -> Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let axis = |label: &str, log| PlotAxis {
        label: label.to_owned(),
        log,
    };
    let plot = Plot {
        title: title.to_owned(),
        x: axis(x, is_of_sizes && is_wide(points().map(|(x, _)| *x))),
        y: axis(y, is_wide(points().map(|(_, y)| *y))),
        lines,
    };
    write_bytes(path, plot.to_svg().as_bytes())
}

/// True for positive values of several sizes.
fn is_wide(values: impl Iterator<Item = f64>) -> bool {
    let finite = values.filter(|value| value.is_finite());
    let (least, most) = finite.fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    least > 0.0 && most > WIDE * least
}

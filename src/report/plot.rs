//! Line plots as SVG, which browsers and editors of papers take.

use std::fmt::Write as _;

/// Lines over a common x.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Above the plot.
    pub title: String,
    /// What lies along the bottom.
    pub x: PlotAxis,
    /// What lies along the left.
    pub y: PlotAxis,
    /// The lines, drawn in this order.
    pub lines: Vec<PlotLine>,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct PlotAxis {
    /// What it measures, with its unit.
    pub label: String,
    /// Logarithmic; values of 0 and less are then left out.
    pub log: bool,
}

/// A line.
#[derive(Debug, Clone)]
pub struct PlotLine {
    /// Its name in the legend.
    pub name: String,
    /// Its points; the line is broken where one is not finite.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Left, top, right and bottom of the area of the lines.
const AREA: [f64; 4] = [80.0, 40.0, 700.0, 390.0];
/// Okabe and Ito's colours, which colour-blind people can tell apart.
const COLOURS: [&str; 6] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
];

impl Plot {
    /// The plot as an SVG document. Without any point that can be drawn, only its frame.
    pub fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let drawn = points().filter(|(x, y)| self.x.shows(*x) && self.y.shows(*y));
        let (xs, ys): (Vec<f64>, Vec<f64>) = drawn.copied().unzip();
        let x = Scale::new(self.x.log, &xs, [AREA[0], AREA[2]]);
        let y = Scale::new(self.y.log, &ys, [AREA[3], AREA[1]]);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        self.axes(&mut svg, &x, &y);
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            for run in line
                .points
                .split(|(x, y)| !self.x.shows(*x) || !self.y.shows(*y))
            {
                let at: Vec<String> = (run.iter())
                    .map(|(a, b)| format!("{:.1},{:.1}", x.at(*a), y.at(*b)))
                    .collect();
                match &at[..] {
                    [] => {}
                    [one] => {
                        let (x, y) = one.split_once(',').unwrap_or_default();
                        let _ = writeln!(
                            svg,
                            "<circle cx=\"{x}\" cy=\"{y}\" r=\"2\" fill=\"{colour}\"/>"
                        );
                    }
                    _ => {
                        let _ = writeln!(
                            svg,
                            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                            at.join(" ")
                        );
                    }
                }
            }
        }
        self.legend(&mut svg);
        svg + "</svg>\n"
    }

    fn axes(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let [left, top, right, bottom] = AREA;
        let mut grid = |from: (f64, f64), to: (f64, f64)| {
            let _ = writeln!(
                svg,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
                from.0, from.1, to.0, to.1
            );
        };
        let (across, up) = (x.ticks(), y.ticks());
        for tick in &across {
            grid((x.at(*tick), top), (x.at(*tick), bottom));
        }
        for tick in &up {
            grid((left, y.at(*tick)), (right, y.at(*tick)));
        }
        for tick in &across {
            text(svg, x.at(*tick), bottom + 18.0, "middle", &number(*tick));
        }
        for tick in &up {
            text(svg, left - 8.0, y.at(*tick) + 4.0, "end", &number(*tick));
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"black\"/>",
            right - left,
            bottom - top
        );
        let middle = (left + right) / 2.0;
        text(svg, middle, 24.0, "middle", &self.title);
        text(svg, middle, HEIGHT - 10.0, "middle", &self.x.label);
        let up = (top + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text transform=\"translate(18 {up}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(&self.y.label)
        );
    }

    fn legend(&self, svg: &mut String) {
        let [_, top, right, _] = AREA;
        for ((i, line), colour) in (self.lines.iter().enumerate()).zip(COLOURS.iter().cycle()) {
            let y = top + 18.0 * (i + 1) as f64;
            let _ = writeln!(
                svg,
                "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{colour}\" stroke-width=\"3\"/>",
                right - 28.0,
                y - 4.0,
                right - 8.0,
                y - 4.0
            );
            text(svg, right - 34.0, y, "end", &line.name);
        }
    }
}

impl PlotAxis {
    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A tick's value: 1000, 0.05, 1e-6.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 | 1e-3..1e5 => format!("{}", (value * 1e9).round() / 1e9),
        _ => format!("{value:e}"),
    }
}

/// From values to places.
struct Scale {
    log: bool,
    /// Of the values, or of their logarithms to base 10.
    range: [f64; 2],
    places: [f64; 2],
}

impl Scale {
    fn new(log: bool, values: &[f64], places: [f64; 2]) -> Scale {
        let values = values.iter().map(|v| if log { v.log10() } else { *v });
        let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        let range = match (least.partial_cmp(&most), log) {
            (Some(std::cmp::Ordering::Less), _) => [least, most],
            (Some(std::cmp::Ordering::Equal), true) => [least - 0.5, most + 0.5],
            (Some(std::cmp::Ordering::Equal), false) => {
                let margin = 0.5 * most.abs().max(1.0);
                [least - margin, most + margin]
            }
            _ => [0.0, 1.0],
        };
        Scale { log, range, places }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        let [least, most] = self.range;
        let [from, to] = self.places;
        from + (to - from) * (value - least) / (most - least)
    }

    /// Round values within the range, about six.
    fn ticks(&self) -> Vec<f64> {
        let [least, most] = self.range;
        let span = most - least;
        // Less than a power of ten has round values of its own.
        if self.log && span < 1.0 {
            let plain = Scale {
                log: false,
                range: [10f64.powf(least), 10f64.powf(most)],
                places: self.places,
            };
            return plain.ticks();
        }
        let rough = 10f64.powf((span / 6.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * rough);
        let step = step.into_iter().find(|step| span / step <= 7.0);
        let step = step
            .unwrap_or(10.0 * rough)
            .max(if self.log { 1.0 } else { 0.0 });
        let first = (least / step - 1e-9).ceil() as i64;
        let last = (most / step + 1e-9).floor() as i64;
        let ticks = (first..=last).map(|k| k as f64 * step);
        match self.log {
            true => ticks.map(|power| 10f64.powf(power)).collect(),
            false => ticks.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(log: bool, points: Vec<(f64, f64)>) -> String {
        let axis = |label: &str| PlotAxis {
            label: label.into(),
            log,
        };
        let line = PlotLine {
            name: "a < b & c".into(),
            points,
        };
        let plot = Plot {
            title: "title".into(),
            x: axis("across"),
            y: axis("up"),
            lines: vec![line],
        };
        plot.to_svg()
    }

    #[test]
    fn points_lie_where_the_axes_say() {
        let svg = plot(false, vec![(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)]);
        let want = "<polyline points=\"80.0,390.0 390.0,40.0 700.0,215.0\"";
        assert!(svg.contains(want), "{svg}");
        assert!(svg.contains(">a &lt; b &amp; c</text>"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten_and_leaves_out_what_has_no_logarithm() {
        let svg = plot(
            true,
            vec![(1.0, 1e-4), (10.0, 1e-2), (100.0, 0.0), (100.0, 1.0)],
        );
        assert!(svg.contains("points=\"80.0,390.0 390.0,215.0\""), "{svg}");
        // The point behind the gap.
        assert!(svg.contains("<circle cx=\"700.0\" cy=\"40.0\""), "{svg}");
        for tick in [">0.01<", ">1e-4<", ">1<", ">100<"] {
            assert!(svg.contains(tick), "{tick} {svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |log, values: &[f64]| Scale::new(log, values, [0.0, 1.0]).ticks();
        assert_eq!(
            ticks(false, &[0.0, 999.0]),
            [0.0, 200.0, 400.0, 600.0, 800.0]
        );
        assert_eq!(ticks(true, &[2.0, 5000.0]), [10.0, 100.0, 1000.0]);
        assert_eq!(ticks(true, &[2.0, 4.1]), [2.0, 2.5, 3.0, 3.5, 4.0]);
        for (log, values) in [(false, vec![]), (true, vec![3.0]), (false, vec![0.0])] {
            let ticks = ticks(log, &values);
            assert!((1..=8).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn nothing_to_draw_is_an_empty_frame() {
        let svg = plot(
            true,
            vec![(f64::NAN, 1.0), (1.0, f64::INFINITY), (0.0, 1.0)],
        );
        assert!(!svg.contains("polyline") && !svg.contains("NaN"), "{svg}");
    }
}

//! The curves of a run, in at most a thousand points however long it is.
//!
//! Steps are put together in points of 1, 2, 4, … steps each: when there are too many points, pairs become one. A run that goes
//! on adds its new lines and reads no old one again.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::fs::open_regular;
use crate::report::{Line, Mean, PARTS_OF_T, StepMetrics, read_lines};

/// Most points of a curve.
const MOST_POINTS: usize = 1000;

/// Bytes by which a file is known again: a line has some 300.
const TAIL_BYTES: u64 = 512;

/// Most steps between two lines, if some have been lost.
const WIDEST_GAP: u64 = 1_000_000;

/// Points that a smoothed value covers at least, about.
const LEAST_SMOOTHED: usize = 5;

/// Everything that metrics.jsonl says, as far as it was read.
#[derive(Debug, Clone)]
pub struct Curves {
    /// Steps in a point.
    every: u64,
    points: Vec<Point>,
    /// The values of each metric by step; of two of a step the later.
    evaluations: BTreeMap<String, BTreeMap<u64, f64>>,
    bad_lines: u64,
    last_step: u64,
    /// The step of the last line, if some are missing before it.
    ahead: Option<StepMetrics>,
    read_to: u64,
    /// The bytes before `read_to`: a file that has others there is another one, however long it is.
    tail: Vec<u8>,
}

/// What some steps have in common.
#[derive(Debug, Clone, Default)]
struct Point {
    /// Number of the point, from 0: steps `number * every + 1` and on.
    number: u64,
    last_step: u64,
    secs: f64,
    lr: f64,
    loss: Mean,
    low: f64,
    high: f64,
    grad_norm: Mean,
    images_per_sec: Mean,
    by_t: [Mean; PARTS_OF_T],
}

/// The curves as columns of equal length, to be drawn; five digits of each value.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Columns {
    /// Steps in a point.
    pub every: u64,
    /// The last step of each point.
    pub step: Vec<u64>,
    /// Seconds of the run at that step.
    pub secs: Vec<Option<f64>>,
    /// Mean loss.
    pub loss: Vec<Option<f64>>,
    /// Least loss of a step.
    pub low: Vec<Option<f64>>,
    /// Largest loss of a step.
    pub high: Vec<Option<f64>>,
    /// Exponential average of the mean loss over about a twentieth of the points.
    pub smooth: Vec<Option<f64>>,
    /// Learning rate at the last step.
    pub lr: Vec<Option<f64>>,
    /// Mean gradient norm.
    pub grad_norm: Vec<Option<f64>>,
    /// Mean speed.
    pub images_per_sec: Vec<Option<f64>>,
    /// Mean loss in the first quarter of the time steps, smoothed as `smooth` is.
    pub q1: Vec<Option<f64>>,
    /// In the second.
    pub q2: Vec<Option<f64>>,
    /// In the third.
    pub q3: Vec<Option<f64>>,
    /// In the last.
    pub q4: Vec<Option<f64>>,
}

/// The loss over t in a part of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartOfRun {
    /// Which steps.
    pub name: String,
    /// Mean loss in each part of the time steps.
    pub values: [Option<f64>; PARTS_OF_T],
}

impl Default for Curves {
    fn default() -> Curves {
        Curves {
            every: 1,
            points: Vec::new(),
            evaluations: BTreeMap::new(),
            bad_lines: 0,
            last_step: 0,
            ahead: None,
            read_to: 0,
            tail: Vec::new(),
        }
    }
}

impl Curves {
    /// Reads the lines that have come since the last time; all of them, if the run has gone back meanwhile.
    ///
    /// # Errors
    /// Not a regular file, or one that cannot be read.
    pub fn read_on(&mut self, metrics: &Path) -> Result<()> {
        if self.read_to > 0 && tail(metrics, self.read_to).ok().as_ref() != Some(&self.tail) {
            *self = Curves::default();
        }
        let read = read_lines(metrics, self.read_to, &mut |line| self.add(&line));
        let read = read.and_then(|read_to| Ok((read_to, tail(metrics, read_to)?)));
        match read {
            Ok(read) => {
                (self.read_to, self.tail) = read;
                Ok(())
            }
            Err(error) => {
                // Some lines may have been added.
                *self = Curves::default();
                Err(error)
            }
        }
    }

    fn add(&mut self, line: &Line) {
        match line {
            Line::Step(step) => self.take_step(step),
            Line::Evaluation(found) => {
                for (name, value) in &found.evaluation {
                    let of_metric = self.evaluations.entry(name.clone()).or_default();
                    of_metric.insert(found.step, *value);
                }
            }
            Line::Bad => self.bad_lines += 1,
        }
    }

    /// Takes a step that is a later one. Where some are missing before it, it waits for the next line: if that goes back behind
    /// it, its number is damage, and taken at its word all steps up to it would be bad.
    fn take_step(&mut self, step: &StepMetrics) {
        if let Some(ahead) = self.ahead.take() {
            match step.step > ahead.step {
                true => self.add_step(&ahead),
                false => self.bad_lines += 1,
            }
        }
        match step.step.checked_sub(self.last_step) {
            None | Some(0) => self.bad_lines += 1,
            Some(gap) if gap == 1 || self.points.is_empty() => self.add_step(step),
            Some(gap) if gap <= WIDEST_GAP => self.ahead = Some(*step),
            Some(_) => self.bad_lines += 1,
        }
    }

    fn add_step(&mut self, step: &StepMetrics) {
        self.last_step = step.step;
        let number = step.step.saturating_sub(1) / self.every;
        if self.points.last().is_none_or(|last| last.number != number) {
            if self.points.len() == MOST_POINTS {
                self.halve();
                return self.add_step(step);
            }
            self.points.push(Point {
                number,
                low: f64::INFINITY,
                high: f64::NEG_INFINITY,
                ..Point::default()
            });
        }
        if let Some(point) = self.points.last_mut() {
            point.add(step);
        }
    }

    /// Puts neighbours together.
    fn halve(&mut self) {
        self.every *= 2;
        let mut merged: Vec<Point> = Vec::with_capacity(MOST_POINTS);
        for mut point in std::mem::take(&mut self.points) {
            point.number /= 2;
            match merged.last_mut().filter(|last| last.number == point.number) {
                Some(last) => last.merge(&point),
                None => merged.push(point),
            }
        }
        self.points = merged;
    }

    /// The largest step.
    pub fn last_step(&self) -> u64 {
        self.last_step
    }

    /// Whole lines that are neither of a step nor of an evaluation.
    pub fn bad_lines(&self) -> u64 {
        self.bad_lines
    }

    /// The values of each metric by step.
    pub fn evaluations(&self) -> &BTreeMap<String, BTreeMap<u64, f64>> {
        &self.evaluations
    }

    /// The curves, to be drawn.
    pub fn columns(&self) -> Columns {
        let of = |value: &dyn Fn(&Point) -> Option<f64>| -> Vec<Option<f64>> {
            self.points
                .iter()
                .map(|p| value(p).and_then(shown))
                .collect()
        };
        let smooth = |value: &dyn Fn(&Point) -> Option<f64>| -> Vec<Option<f64>> {
            let smoothed = self.smoothed(value).into_iter();
            smoothed.map(|v| v.and_then(shown)).collect()
        };
        let quarter = |q: usize| smooth(&move |p: &Point| p.mean_of_parts(3 * q..3 * q + 3));
        Columns {
            every: self.every,
            step: self.points.iter().map(|p| p.last_step).collect(),
            secs: of(&|p| Some(p.secs)),
            loss: of(&|p| p.loss.value()),
            low: of(&|p| Some(p.low)),
            high: of(&|p| Some(p.high)),
            smooth: smooth(&|p| p.loss.value()),
            lr: of(&|p| Some(p.lr)),
            grad_norm: of(&|p| p.grad_norm.value()),
            images_per_sec: of(&|p| p.images_per_sec.value()),
            q1: quarter(0),
            q2: quarter(1),
            q3: quarter(2),
            q4: quarter(3),
        }
    }

    /// The mean of the first points, then an exponential average over a twentieth of all.
    fn smoothed(&self, value: &dyn Fn(&Point) -> Option<f64>) -> Vec<Option<f64>> {
        let covered = (self.points.len() / 20).max(LEAST_SMOOTHED);
        let (mut average, mut seen) = (0.0, 0);
        let smooth = |point: &Point| {
            let value = value(point)?;
            seen += 1;
            average += (value - average) / seen.min(covered) as f64;
            Some(average)
        };
        self.points.iter().map(smooth).collect()
    }

    /// The loss over t at the beginning, in the middle and at the end of what was trained: a tenth of the steps each. None of
    /// steps without it, and none of fewer than ten points.
    pub fn by_t(&self) -> Vec<PartOfRun> {
        let known: Vec<&Point> = (self.points.iter())
            .filter(|p| p.by_t.iter().any(|mean| mean.value().is_some()))
            .collect();
        let tenth = known.len() / 10;
        if tenth == 0 {
            return Vec::new();
        }
        let middle = (known.len() - tenth) / 2;
        let starts = [0, middle, known.len() - tenth];
        let parts = starts.map(|start| &known[start..start + tenth]);
        parts
            .into_iter()
            .map(|points| part_of_run(points, self.every))
            .collect()
    }
}

/// The last bytes before `end`: a line has the seconds of its step, and so no run writes the same ones twice.
fn tail(path: &Path, end: u64) -> Result<Vec<u8>> {
    if end == 0 {
        return Ok(Vec::new());
    }
    let start = end.saturating_sub(TAIL_BYTES);
    let mut file = open_regular(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn part_of_run(points: &[&Point], every: u64) -> PartOfRun {
    let mut sums = [Mean::default(); PARTS_OF_T];
    for point in points {
        sums.iter_mut()
            .zip(&point.by_t)
            .for_each(|(sum, mean)| sum.merge(*mean));
    }
    let first = points.first().map_or(0, |p| p.number * every + 1);
    let last = points.last().map_or(0, |p| p.last_step);
    PartOfRun {
        name: match first == last {
            true => format!("step {first}"),
            false => format!("steps {first} to {last}"),
        },
        values: sums.map(|mean| mean.value().and_then(shown)),
    }
}

impl Point {
    fn add(&mut self, step: &StepMetrics) {
        self.last_step = step.step;
        self.secs = step.secs;
        self.lr = step.lr;
        self.loss.add(step.loss);
        self.low = self.low.min(step.loss);
        self.high = self.high.max(step.loss);
        self.grad_norm.add(step.grad_norm);
        self.images_per_sec.add(step.images_per_sec);
        let parts = step.loss_by_t.unwrap_or_default().0;
        for (mean, part) in self.by_t.iter_mut().zip(parts) {
            mean.add(part.unwrap_or(f64::NAN));
        }
    }

    /// Adds a point of later steps.
    fn merge(&mut self, later: &Point) {
        self.last_step = later.last_step;
        self.secs = later.secs;
        self.lr = later.lr;
        self.loss.merge(later.loss);
        self.low = self.low.min(later.low);
        self.high = self.high.max(later.high);
        self.grad_norm.merge(later.grad_norm);
        self.images_per_sec.merge(later.images_per_sec);
        for (mean, part) in self.by_t.iter_mut().zip(later.by_t) {
            mean.merge(part);
        }
    }

    fn mean_of_parts(&self, parts: std::ops::Range<usize>) -> Option<f64> {
        let mut all = Mean::default();
        self.by_t[parts].iter().for_each(|part| all.merge(*part));
        all.value()
    }
}

/// With five digits: more cannot be seen, and the page stays small.
fn shown(value: f64) -> Option<f64> {
    let short = || format!("{value:.4e}").parse().ok();
    value.is_finite().then(short).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LossByT;

    fn step(step: u64) -> StepMetrics {
        let mut parts = [None; PARTS_OF_T];
        parts[(step % 12) as usize] = Some(step as f64);
        StepMetrics {
            step,
            loss: step as f64,
            lr: 1e-3,
            grad_norm: 2.0,
            images_per_sec: 10.0,
            secs: 0.5 * step as f64,
            loss_by_t: Some(LossByT(parts)),
        }
    }

    fn lines(steps: impl IntoIterator<Item = u64>) -> String {
        let line = |n| serde_json::to_string(&step(n)).unwrap() + "\n";
        steps.into_iter().map(line).collect()
    }

    fn of(steps: std::ops::RangeInclusive<u64>) -> Curves {
        let mut curves = Curves::default();
        steps.for_each(|n| curves.add(&Line::Step(step(n))));
        curves
    }

    #[test]
    fn a_long_run_has_few_points_that_mean_all_of_its_steps() {
        let columns = of(1..=10_000).columns();
        assert_eq!(columns.every, 16);
        assert_eq!(columns.step.len(), 625);
        assert_eq!((columns.step[0], columns.step[624]), (16, 10_000));
        assert_eq!(columns.loss[0], Some(8.5), "mean of 1 to 16");
        assert_eq!((columns.low[0], columns.high[0]), (Some(1.0), Some(16.0)));
        assert_eq!(columns.secs[0], Some(8.0));
        // Steps 1, 2, 12, 13 and 14 in the first three parts.
        assert_eq!(columns.q1[0], Some(8.4), "of the first point alone");
        let short = of(1..=1000).columns();
        assert_eq!((short.every, short.step.len()), (1, 1000));
        assert_eq!(short.smooth[1], Some(1.5));
    }

    #[test]
    fn reading_on_is_the_same_as_reading_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut curves = Curves::default();
        curves.read_on(&path).unwrap();
        assert_eq!(
            curves.columns(),
            Columns {
                every: 1,
                ..Columns::default()
            }
        );
        let evaluation = "{\"step\":700,\"evaluation\":{\"fid\":7.0}}\n";
        let all = lines(1..=700) + evaluation + &lines(701..=3000);
        for end in [5, 90_000, all.len()] {
            std::fs::write(&path, &all[..end]).unwrap();
            curves.read_on(&path).unwrap();
        }
        assert_eq!(curves.columns(), of(1..=3000).columns());
        assert_eq!(curves.evaluations()["fid"][&700], 7.0);
        assert_eq!((curves.last_step(), curves.bad_lines()), (3000, 0));
        // Back to 600, and beyond where it was.
        let again = lines(1..=600) + &lines(601..=4000) + "odd\n";
        std::fs::write(&path, again).unwrap();
        curves.read_on(&path).unwrap();
        assert_eq!(curves.columns(), of(1..=4000).columns());
        assert!(curves.evaluations().is_empty());
        // Back to 10, and no further.
        std::fs::write(&path, lines(1..=10)).unwrap();
        curves.read_on(&path).unwrap();
        assert_eq!((curves.last_step(), curves.bad_lines()), (10, 0));
    }

    #[test]
    fn a_damaged_step_number_costs_its_line_alone() {
        let mut curves = of(1..=10);
        for n in [WIDEST_GAP + 11, u64::MAX, 10, 0, 500, 11] {
            curves.add(&Line::Step(step(n)));
        }
        assert_eq!((curves.last_step(), curves.bad_lines()), (11, 5));
        // Lines that are lost are no damage of the next ones.
        for n in [20, 21, 30, 31] {
            curves.add(&Line::Step(step(n)));
        }
        assert_eq!((curves.last_step(), curves.bad_lines()), (31, 5));
        // The first one may be any: the lines before it may be gone.
        assert_eq!(of(5_000_000..=5_000_003).last_step(), 5_000_003);
    }

    #[test]
    fn the_loss_over_t_is_of_tenths_of_the_run() {
        let parts = of(1..=1200).by_t();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(
            names,
            ["steps 1 to 120", "steps 541 to 660", "steps 1081 to 1200"]
        );
        // Steps 12, 24, … 120 are in the first part.
        assert_eq!(parts[0].values[0], Some(66.0));
        assert!(of(1..=9).by_t().is_empty());
        let mut old = step(1);
        old.loss_by_t = None;
        let mut curves = Curves::default();
        for n in 1..=100 {
            curves.add(&Line::Step(StepMetrics { step: n, ..old }));
        }
        assert!(curves.by_t().is_empty());
        assert!(curves.columns().q1.iter().all(Option::is_none));
    }
}

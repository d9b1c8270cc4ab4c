//! The sample grids of a run: some of them, from the first to the last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::jpegs::Jpegs;
use super::remark;
use crate::checkpoint::RunFolder;
use crate::text::plural;

/// Most pixels a side.
const SIDE: u32 = 384;

/// Most bytes of a grid: with 48 of them, a third more in base64, a page stays well below 5 MB.
const MAX_BYTES: usize = 60_000;

/// The grids of a step, as `data:` URLs.
#[derive(Debug, Serialize)]
pub(super) struct Grid {
    step: u64,
    ema: Option<String>,
    raw: Option<String>,
}

/// The grids that are shown.
#[derive(Debug)]
pub(super) struct Grids {
    pub(super) grids: Vec<Grid>,
    /// What is left out.
    pub(super) note: Option<String>,
}

/// At most `most` grids, of raw and EMA weights together.
pub(super) fn read(
    folder: &RunFolder,
    most: usize,
    jpegs: &mut Jpegs,
    remarks: &mut Vec<String>,
) -> Grids {
    let steps = steps_with_grids(folder.dir());
    let all: Vec<u64> = steps.keys().copied().collect();
    let of_a_step = steps.values().map(BTreeSet::len).max().unwrap_or(1);
    let chosen = spread(&all, most / of_a_step);
    let mut url = |step: u64, which: &str| {
        steps[&step].contains(which).then_some(())?;
        let path = folder.sample_path(step, which);
        remark(remarks, jpegs.url(&path, SIDE, MAX_BYTES))
    };
    let grids: Vec<Grid> = (chosen.iter())
        .map(|&step| Grid {
            step,
            ema: url(step, "ema"),
            raw: url(step, "raw"),
        })
        .filter(|grid| grid.ema.is_some() || grid.raw.is_some())
        .collect();
    let note = (chosen.len() < all.len()).then(|| {
        format!(
            "The grids of {} out of {}; all are in the folder samples of the run.",
            chosen.len(),
            plural(all.len() as u64, "step")
        )
    });
    Grids { grids, note }
}

/// The steps that have grids, and of which weights.
fn steps_with_grids(run: &Path) -> BTreeMap<u64, BTreeSet<&'static str>> {
    let mut found: BTreeMap<u64, BTreeSet<&'static str>> = BTreeMap::new();
    let entries = std::fs::read_dir(run.join("samples"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some((step, which)) = name.to_str().and_then(step_of) {
            found.entry(step).or_default().insert(which);
        }
    }
    found
}

/// `step-00002000-ema.png`.
fn step_of(name: &str) -> Option<(u64, &'static str)> {
    let (step, which) = name.strip_prefix("step-")?.split_once('-')?;
    let which = ["ema", "raw"]
        .into_iter()
        .find(|w| which.strip_prefix(w) == Some(".png"))?;
    Some((step.parse().ok()?, which))
}

/// At most `most` of these steps, at least two if there are as many: the first and the last, and between them evenly by the
/// logarithm of the step, as images change most at the beginning.
fn spread(steps: &[u64], most: usize) -> Vec<u64> {
    let (Some(&first), Some(&last)) = (steps.first(), steps.last()) else {
        return Vec::new();
    };
    let mut chosen = BTreeSet::from([first, last]);
    while chosen.len() < most.max(2) && chosen.len() < steps.len() {
        chosen.extend(in_the_widest_gap(steps, &chosen));
    }
    chosen.into_iter().collect()
}

/// The step nearest to the middle of the widest gap between chosen ones that has steps in it.
fn in_the_widest_gap(steps: &[u64], chosen: &BTreeSet<u64>) -> Option<u64> {
    let ln = |step: u64| (step.max(1) as f64).ln();
    let gaps = chosen.iter().zip(chosen.iter().skip(1));
    let inside = |a: u64, b: u64| {
        steps
            .iter()
            .copied()
            .filter(move |step| a < *step && *step < b)
    };
    let (a, b) = gaps
        .map(|(a, b)| (*a, *b))
        .filter(|(a, b)| inside(*a, *b).next().is_some())
        .max_by(|(a, b), (c, d)| (ln(*b) - ln(*a)).total_cmp(&(ln(*d) - ln(*c))))?;
    let middle = (ln(a) + ln(b)) / 2.0;
    let off = |step: &u64| (ln(*step) - middle).abs();
    inside(a, b).min_by(|x, y| off(x).total_cmp(&off(y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_spread_evenly_by_the_logarithm_of_the_step() {
        let all: Vec<u64> = (1..=500).map(|k| k * 1000).collect();
        let chosen = spread(&all, 24);
        assert_eq!(chosen.len(), 24);
        assert_eq!((chosen[0], chosen[23]), (1000, 500_000));
        // Of the first steps all, of the last few.
        assert_eq!(chosen[1..4], [2000, 3000, 4000]);
        let ratios = chosen[8..]
            .windows(2)
            .map(|pair| pair[1] as f64 / pair[0] as f64);
        ratios.for_each(|ratio| assert!((1.1..2.1).contains(&ratio), "{chosen:?}"));
        assert_eq!(spread(&[7, 8], 24), [7, 8]);
        assert_eq!(spread(&[7], 24), [7]);
        assert_eq!(spread(&all, 0), [1000, 500_000]);
        assert!(spread(&[], 24).is_empty());
    }

    #[test]
    fn names_of_grids_are_known_and_others_passed_over() {
        assert_eq!(step_of("step-00002000-ema.png"), Some((2000, "ema")));
        assert_eq!(
            step_of("step-123456789-raw.png"),
            Some((123_456_789, "raw"))
        );
        for other in [
            "step-2-ema.png.tmp",
            "step-x-ema.png",
            "step--ema.png",
            "a.png",
            "step-1-best.png",
        ] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}

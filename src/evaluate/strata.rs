//! Which time steps images are noised to: all of them, or a sample.

use anyhow::{Result, ensure};
use ndarray::Array1;
use serde::Serialize;

use crate::rng::{Stream, part_key};

/// A sample of the time steps `first..T`: of each `every` successive ones, one is drawn for each image anew. Where t is
/// small, what is measured changes faster, so there it is one of t / 4, rounded down, and below t = 8 all are taken.
///
/// A value at the drawn t, times the number of steps that it stands for, estimates their sum without bias. As images
/// draw independently, the spread of such estimates over images holds both what differs between images and what the
/// steps left out may differ by, so that its standard error is an honest one.
#[derive(Debug, Clone)]
pub(super) struct Strata {
    /// The first t of each stratum, and T.
    starts: Vec<usize>,
    seed: u64,
}

impl Strata {
    /// Time steps `first..timesteps`; `every` = 1 for all of them.
    ///
    /// # Errors
    /// An `every` that is not in 1..=T.
    pub(super) fn new(first: usize, timesteps: usize, every: usize, seed: u64) -> Result<Strata> {
        ensure!(
            (1..=timesteps).contains(&every),
            "`evaluate.every` = {every}: this model has T = {timesteps} time steps, want 1 to {timesteps}"
        );
        let next = |t: &usize| Some(t + (t / 4).clamp(1, every)).filter(|next| *next < timesteps);
        let mut starts: Vec<usize> = std::iter::successors(Some(first), next).collect();
        starts.push(timesteps);
        Ok(Strata { starts, seed })
    }

    /// The number of time steps drawn for an image.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many time steps the one drawn from `stratum` stands for.
    pub(super) fn width(&self, stratum: usize) -> usize {
        self.starts[stratum + 1] - self.starts[stratum]
    }

    /// The t drawn from `stratum` for an image.
    pub(super) fn t(&self, image: u64, stratum: usize) -> usize {
        let drawn = part_key(self.seed, Stream::Timestep, image, stratum as u64);
        self.starts[stratum] + (drawn % self.width(stratum) as u64) as usize
    }
}

/// A mean over images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; none for a single image.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of values that were drawn independently, 1 or more.
    pub fn of(values: &[f64]) -> Mean {
        let values = Array1::from_iter(values.iter().copied());
        let n = values.len() as f64;
        Mean {
            mean: values.mean().unwrap_or(f64::NAN),
            standard_error: (values.len() > 1).then(|| values.std(1.0) / n.sqrt()),
        }
    }

    /// The same in other units.
    pub(super) fn times(self, scale: f64) -> Mean {
        Mean {
            mean: self.mean * scale,
            standard_error: self.standard_error.map(|error| error * scale.abs()),
        }
    }
}

/// Means of a value at each time step.
#[derive(Debug)]
pub(super) struct ByT {
    count: Vec<u64>,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

impl ByT {
    /// For t in `0..timesteps`.
    pub(super) fn new(timesteps: usize) -> ByT {
        ByT {
            count: vec![0; timesteps],
            sum: vec![0.0; timesteps],
            squares: vec![0.0; timesteps],
        }
    }

    pub(super) fn add(&mut self, t: usize, value: f64) {
        self.count[t] += 1;
        self.sum[t] += value;
        self.squares[t] += value * value;
    }

    /// Images seen at each t.
    pub(super) fn images(&self) -> Vec<u64> {
        self.count.clone()
    }

    /// The mean at each t that an image was seen at.
    pub(super) fn means(&self) -> Vec<Option<Mean>> {
        let mean = |t: usize| {
            let n = self.count[t] as f64;
            let mean = self.sum[t] / n;
            let variance = (self.squares[t] - n * mean * mean).max(0.0) / (n - 1.0);
            (n > 0.0).then(|| Mean {
                mean,
                standard_error: (n > 1.0).then(|| (variance / n).sqrt()),
            })
        };
        (0..self.count.len()).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_drawn_as_often_as_its_neighbours() {
        let strata = Strata::new(1, 20, 3, 5).unwrap();
        let widths: Vec<usize> = (0..strata.len()).map(|s| strata.width(s)).collect();
        // 1 to 7, 8 and 9, 10 and 11, 12 to 14, 15 to 17, 18 and 19.
        assert_eq!(widths, [1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 2]);
        let mut seen = [0u32; 20];
        for image in 0..3000 {
            for stratum in 0..strata.len() {
                seen[strata.t(image, stratum)] += 1;
            }
        }
        assert_eq!((seen[0], &seen[1..8]), (0, &[3000; 7][..]));
        // Standard deviations 27 and 26; the draws are the same in every run.
        let near = |n: &u32, want: u32| n.abs_diff(want) < 90;
        assert!(seen[8..12].iter().all(|n| near(n, 1500)), "{seen:?}");
        assert!(seen[12..18].iter().all(|n| near(n, 1000)), "{seen:?}");
    }

    #[test]
    fn one_of_one_is_all() {
        let strata = Strata::new(0, 7, 1, 0).unwrap();
        let drawn: Vec<usize> = (0..strata.len()).map(|s| strata.t(3, s)).collect();
        assert_eq!(drawn, [0, 1, 2, 3, 4, 5, 6]);
        for every in [0, 8] {
            let error = Strata::new(0, 7, every, 0).unwrap_err().to_string();
            assert!(error.contains("T = 7"), "{error}");
        }
    }

    #[test]
    fn a_mean_has_a_standard_error_if_it_is_one_of_several() {
        let mean = Mean::of(&[1.0, 2.0, 6.0]);
        assert_eq!(mean.mean, 3.0);
        // Deviations -2, -1, 3: variance 7.
        assert!((mean.standard_error.unwrap() - (7.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Mean::of(&[4.0]).standard_error, None);
        let mut by_t = ByT::new(2);
        [1.0, 2.0, 6.0].iter().for_each(|value| by_t.add(1, *value));
        assert_eq!(by_t.images(), [0, 3]);
        let [before, there] = by_t.means()[..] else {
            panic!("two time steps");
        };
        assert_eq!(before, None);
        let there = there.unwrap();
        assert!((there.standard_error.unwrap() - (7.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}

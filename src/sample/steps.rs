//! The time steps that a sampler visits, out of T.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use ndarray::s;

use crate::diffusion::Schedule;

/// Spacing of N steps over 0..T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spacing {
    /// Every (T / N)-th t, from 0; the noisiest visited step is below T - 1.
    Leading,
    /// Every (T / N)-th t, from T - 1 down.
    Trailing,
    /// Evenly from t = T - 1 to t = 0, both included.
    Linspace,
    /// Evenly in log(signal / noise), from t = T - 1 to t = 0.
    LogSnr,
    /// Evenly in (noise / signal)^(1/7), from t = T - 1 to t = 0.
    Karras,
}

/// Choice of the time steps to visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// All T.
    All,
    /// This many, with this spacing.
    Count(usize, Spacing),
    /// Every k-th t, from 0, as in Keras-DDPM.
    Stride(usize),
    /// Exactly these, the noisiest first.
    List(Vec<usize>),
}

/// The visited time steps and their schedule, whose betas lead from one visited step to the next.
///
/// Source: Nichol & Dhariwal 2021, section 4 <https://arxiv.org/abs/2102.09672>
#[derive(Debug, Clone, PartialEq)]
pub struct Respaced {
    /// The t passed to the network at each visited step, ascending, in `0..T`.
    pub times: Vec<i64>,
    /// Tables over the visited steps.
    pub schedule: Schedule,
}

impl Respaced {
    /// Visits every time step.
    pub fn all(schedule: &Schedule) -> Respaced {
        Respaced {
            times: (0..schedule.len() as i64).collect(),
            schedule: schedule.clone(),
        }
    }

    /// Visits the chosen time steps.
    ///
    /// # Errors
    /// No steps, more steps than T, or a list that is not strictly decreasing within 0..T.
    pub fn new(schedule: &Schedule, visit: &Visit) -> Result<Respaced> {
        let len = schedule.len();
        Ok(match visit {
            Visit::All => Respaced::all(schedule),
            Visit::Count(n, spacing) => {
                ensure!(
                    (1..=len).contains(n),
                    "{n} steps: this model has T = {len} time steps, want 1 to {len}"
                );
                Respaced::of(schedule, spread(schedule, *n, *spacing))
            }
            Visit::Stride(stride) => {
                ensure!(
                    (1..=len).contains(stride),
                    "a stride of {stride}: this model has T = {len} time steps, want 1 to {len}"
                );
                Respaced::of(schedule, (0..len).step_by(*stride).collect())
            }
            Visit::List(list) => {
                if let Some(t) = list.iter().find(|t| **t >= len) {
                    bail!(
                        "time step {t}: this model has T = {len}, want 0 to {}",
                        len - 1
                    );
                }
                ensure!(
                    !list.is_empty() && list.windows(2).all(|w| w[0] > w[1]),
                    "time steps {list:?}: want each smaller than the one before, the noisiest first"
                );
                Respaced::of(schedule, list.iter().rev().copied().collect())
            }
        })
    }

    /// `times` ascending and distinct.
    fn of(schedule: &Schedule, times: Vec<usize>) -> Respaced {
        if times.len() == schedule.len() {
            return Respaced::all(schedule);
        }
        let mut before = 1.0;
        let betas = times.iter().map(|&t| {
            let alpha_bar = schedule.alphas_cumprod[t];
            let beta = 1.0 - alpha_bar / before;
            before = alpha_bar;
            beta
        });
        Respaced {
            schedule: Schedule::from_betas(betas.collect()),
            times: times.iter().map(|&t| t as i64).collect(),
        }
    }

    /// The `count` least noisy visited steps, for starting part-way.
    pub fn truncated(&self, count: usize) -> Respaced {
        Respaced {
            times: self.times[..count].to_vec(),
            schedule: Schedule::from_betas(self.schedule.betas.slice(s![..count]).to_owned()),
        }
    }

    /// The steps to visit from an image that is noised by `strength`, above 0 (almost the image) to 1 (noise only), of
    /// `timesteps`; `None` if all are noisier.
    pub fn up_to(&self, strength: f64, timesteps: i64) -> Option<Respaced> {
        let limit = strength * timesteps as f64;
        let walked = self.times.iter().take_while(|t| (**t as f64) < limit);
        let walked = walked.count();
        (walked > 0).then(|| self.truncated(walked))
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True if there are no steps.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// sqrt(alpha_bar) and sqrt(1 - alpha_bar) at visited step `i`.
    pub fn signal_and_noise(&self, i: usize) -> (f64, f64) {
        signal_and_noise(self.schedule.alphas_cumprod[i])
    }

    /// The same at the next less noisy visited step; (1, 0) for `i = 0`.
    pub fn signal_and_noise_prev(&self, i: usize) -> (f64, f64) {
        signal_and_noise(self.schedule.alpha_bar_prev(i))
    }

    /// lambda = log(signal / noise) at visited step `i`: half the log of the signal-to-noise ratio, in which the
    /// higher-order solvers measure their steps. It is infinite at the clean image.
    ///
    /// Source: Lu et al. 2022, section 2 <https://arxiv.org/abs/2211.01095>
    pub fn lambda(&self, i: usize) -> f64 {
        let (signal, noise) = self.signal_and_noise(i);
        (signal / noise).ln()
    }
}

fn signal_and_noise(alpha_bar: f64) -> (f64, f64) {
    (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())
}

/// `n` distinct time steps of the schedule, ascending.
fn spread(schedule: &Schedule, n: usize, spacing: Spacing) -> Vec<usize> {
    let len = schedule.len();
    let share = |i: usize| i as f64 / (n - 1).max(1) as f64;
    match spacing {
        Spacing::Leading => (0..n).map(|i| i * (len / n)).collect(),
        Spacing::Trailing => (1..=n)
            .map(|i| (i as f64 * len as f64 / n as f64).round_ties_even() as usize - 1)
            .collect(),
        _ if n == 1 => vec![len - 1],
        Spacing::Linspace => (0..n)
            .map(|i| (share(i) * (len - 1) as f64).round_ties_even() as usize)
            .collect(),
        Spacing::LogSnr => nearest(schedule, n, |low, high, share| low + share * (high - low)),
        // Source: Karras et al. 2022, eq. 5, rho = 7 <https://arxiv.org/abs/2206.00364>
        Spacing::Karras => nearest(schedule, n, |low, high, share| {
            let (low, high) = ((low / 7.0).exp(), (high / 7.0).exp());
            7.0 * (low + share * (high - low)).ln()
        }),
    }
}

/// The `n` ≥ 2 time steps nearest to given values of log(noise / signal). `value(first, last, share)` returns such a
/// value, from those of the first and last time step and the share of the way between them. Values near the same step
/// move to the next free ones.
fn nearest(schedule: &Schedule, n: usize, value: impl Fn(f64, f64, f64) -> f64) -> Vec<usize> {
    let log_noise: Vec<f64> = (schedule.alphas_cumprod.iter())
        .map(|a| ((1.0 - a) / a).ln() / 2.0)
        .collect();
    let len = log_noise.len();
    let mut times: Vec<usize> = Vec::with_capacity(n);
    for i in 0..n {
        let wanted = value(log_noise[0], log_noise[len - 1], i as f64 / (n - 1) as f64);
        let above = log_noise.partition_point(|l| *l < wanted).min(len - 1);
        let below = above.saturating_sub(1);
        let closer = (wanted - log_noise[below]).abs() < (wanted - log_noise[above]).abs();
        let t = if closer { below } else { above };
        let free = times.last().map_or(0, |last| last + 1);
        // Leave room above for the remaining steps.
        times.push(t.max(free).min(len - (n - i)));
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn schedule() -> Schedule {
        Schedule::new(&Preset::Celebahq128.config().diffusion)
    }

    fn times(n: usize, spacing: Spacing) -> Vec<i64> {
        Respaced::new(&schedule(), &Visit::Count(n, spacing))
            .unwrap()
            .times
    }

    #[test]
    fn spacings_are_what_they_are_called() {
        assert_eq!(times(4, Spacing::Leading), [0, 250, 500, 750]);
        assert_eq!(times(4, Spacing::Trailing), [249, 499, 749, 999]);
        assert_eq!(times(4, Spacing::Linspace), [0, 333, 666, 999]);
        for n in [1, 2, 3, 7, 20, 333, 999, 1000] {
            for spacing in Spacing::value_variants() {
                let times = times(n, *spacing);
                assert_eq!(times.len(), n, "{spacing:?}");
                assert!(times.windows(2).all(|w| w[0] < w[1]), "{n} {spacing:?}");
                assert!(times[0] >= 0 && times[n - 1] < 1000);
                if *spacing != Spacing::Leading {
                    assert_eq!(times[n - 1], 999, "{n} {spacing:?}");
                }
            }
        }
    }

    #[test]
    fn middles_are_where_their_rules_put_them() {
        let schedule = schedule();
        let ratio = |t: usize| {
            let a = schedule.alphas_cumprod[t];
            ((1.0 - a) / a).sqrt()
        };
        let middle = |spacing| ratio(times(21, spacing)[10] as usize);
        let (low, high) = (ratio(0), ratio(999));
        let root = |x: f64| x.powf(1.0 / 7.0);
        // Neighbouring time steps differ by 1 to 2 % there.
        let karras = ((root(low) + root(high)) / 2.0).powi(7);
        assert!((middle(Spacing::Karras) / karras - 1.0).abs() < 0.02);
        assert!((middle(Spacing::LogSnr) / (low * high).sqrt() - 1.0).abs() < 0.02);
    }

    #[test]
    fn the_respaced_schedule_has_the_same_noise_at_the_same_time() {
        let schedule = schedule();
        let steps = Respaced::new(&schedule, &Visit::Stride(3)).unwrap();
        assert_eq!((steps.len(), steps.times[333]), (334, 999));
        for (i, &t) in steps.times.iter().enumerate() {
            let (ours, want) = (
                steps.schedule.alphas_cumprod[i],
                schedule.alphas_cumprod[t as usize],
            );
            assert!((ours / want - 1.0).abs() < 1e-12);
        }
        assert_eq!(
            Respaced::new(&schedule, &Visit::Stride(1)).unwrap(),
            Respaced::all(&schedule)
        );
    }

    #[test]
    fn impossible_choices_are_refused_with_what_is_possible() {
        let refused = |visit| Respaced::new(&schedule(), &visit).unwrap_err().to_string();
        assert!(refused(Visit::Count(1001, Spacing::Trailing)).contains("want 1 to 1000"));
        assert!(refused(Visit::Count(0, Spacing::Trailing)).contains("want 1 to 1000"));
        assert!(refused(Visit::Stride(0)).contains("want 1 to 1000"));
        assert!(refused(Visit::List(vec![1000, 5])).contains("want 0 to 999"));
        assert!(refused(Visit::List(vec![5, 5])).contains("noisiest first"));
        assert!(refused(Visit::List(vec![])).contains("noisiest first"));
    }
}

//! The samplers as scalar formulas of their papers, along one eigenvector of Gaussian data.
//!
//! Each value is a sum over independent noises, stored as their factors: x_T first, then the fresh noise of each step.

use ddpm::config::Sigma;
use ddpm::sample::{Ddim, Ddpm, DpmSolver, Respaced, Sampler, UniPc, analytic};
use ndarray::Array1;

/// A sampler with its options.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    Ddpm { sigma: Sigma, last_noise: bool },
    Ddim { eta: f64 },
    Analytic { eta: f64, last_noise: bool },
    DpmSolver { sde: bool },
    Heun,
    UniPc { order: usize },
}

/// Every sampler.
pub(crate) const METHODS: [Method; 16] = [
    Method::Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    },
    Method::Ddpm {
        sigma: Sigma::Beta,
        last_noise: false,
    },
    Method::Ddpm {
        sigma: Sigma::Posterior,
        last_noise: true,
    },
    Method::Ddpm {
        sigma: Sigma::Posterior,
        last_noise: false,
    },
    Method::Ddim { eta: 0.0 },
    Method::Ddim { eta: 0.5 },
    Method::Ddim { eta: 1.0 },
    Method::Analytic {
        eta: 0.0,
        last_noise: false,
    },
    Method::Analytic {
        eta: 1.0,
        last_noise: false,
    },
    Method::Analytic {
        eta: 1.0,
        last_noise: true,
    },
    Method::DpmSolver { sde: false },
    Method::DpmSolver { sde: true },
    Method::Heun,
    Method::UniPc { order: 1 },
    Method::UniPc { order: 2 },
    Method::UniPc { order: 3 },
];

impl Method {
    /// The sampler over `steps`; `mean_sq_eps` is E[eps_hat²] at each time step.
    pub(crate) fn sampler(self, steps: &Respaced, mean_sq_eps: &Array1<f64>) -> Sampler {
        match self {
            Method::Ddpm { sigma, last_noise } => Sampler::Ddpm(Ddpm { sigma, last_noise }),
            Method::Ddim { eta } => Sampler::Ddim(Ddim::new(eta).unwrap()),
            Method::Analytic { eta, last_noise } => {
                Sampler::Ddim(analytic(steps, mean_sq_eps, eta, last_noise).unwrap())
            }
            Method::DpmSolver { sde } => Sampler::DpmSolver(DpmSolver { sde }),
            Method::Heun => Sampler::Heun,
            Method::UniPc { order } => Sampler::UniPc(UniPc::new(order).unwrap()),
        }
    }

    /// The factors of x_t minus its mean after each step, along the eigenvector `along` of data with `spreads`.
    pub(crate) fn factors(
        self,
        steps: &Respaced,
        spreads: &[f64; 4],
        along: usize,
    ) -> Vec<Factors> {
        self.guided_factors(steps, spreads, along, None)
    }

    /// The same for a network that is guided with that of `weaker` data; the last factor is then a constant.
    pub(crate) fn guided_factors(
        self,
        steps: &Respaced,
        spreads: &[f64; 4],
        along: usize,
        weaker: Option<&Weaker>,
    ) -> Vec<Factors> {
        let chain = Chain {
            weaker,
            ..Chain::new(steps, spreads, along)
        };
        match self {
            Method::Ddpm { sigma, last_noise } => chain.ddpm(sigma, last_noise),
            Method::Ddim { eta } => chain.ddim(eta, |_| 0.0),
            Method::Analytic { eta, last_noise } => {
                let added = |n| n + 1 < chain.steps() || last_noise;
                chain.ddim(eta, |n| if added(n) { chain.unknown(n) } else { 0.0 })
            }
            Method::DpmSolver { sde } => chain.dpm_solver(sde),
            Method::Heun => chain.heun(),
            Method::UniPc { order } => chain.unipc(order),
        }
    }
}

/// Data on the same eigenvectors, whose optimal network another is guided with.
pub(crate) struct Weaker {
    /// The scale at each step, in sampling order.
    pub(crate) scales: Vec<f64>,
    /// Eigenvalues.
    pub(crate) spreads: [f64; 4],
    /// Its mean minus that of the guided network's data, along the eigenvectors.
    pub(crate) apart: [f64; 4],
}

/// Factor of each noise.
type Factors = Vec<f64>;

/// Noise levels in sampling order: step n starts at entry n, and the last entry is x_0, (1, 0).
struct Chain<'a> {
    signal: Vec<f64>,
    noise: Vec<f64>,
    spreads: &'a [f64; 4],
    along: usize,
    weaker: Option<&'a Weaker>,
}

/// `sum of factor * value`.
fn mix(terms: &[(f64, &Factors)]) -> Factors {
    let at = |j: usize| terms.iter().map(|(factor, value)| factor * value[j]).sum();
    (0..terms[0].1.len()).map(at).collect()
}

impl Chain<'_> {
    fn new<'a>(steps: &Respaced, spreads: &'a [f64; 4], along: usize) -> Chain<'a> {
        let alpha_bars: Vec<f64> = (steps.schedule.alphas_cumprod.iter().rev())
            .chain([&1.0])
            .copied()
            .collect();
        Chain {
            signal: alpha_bars.iter().map(|a| a.sqrt()).collect(),
            noise: alpha_bars.iter().map(|a| (1.0 - a).sqrt()).collect(),
            spreads,
            along,
            weaker: None,
        }
    }

    fn steps(&self) -> usize {
        self.signal.len() - 1
    }

    /// One unit of noise `j`: 0 is x_T.
    fn unit(&self, j: usize) -> Factors {
        let constant = usize::from(self.weaker.is_some());
        (0..=self.steps() + constant)
            .map(|n| f64::from(n == j))
            .collect()
    }

    /// x_0_hat at level `n`, minus the mean of x_0.
    fn x_0_hat(&self, n: usize, x: &Factors) -> Factors {
        let a = self.signal[n];
        let gain = |s: f64| a * s / (a * a * s + self.noise[n].powi(2));
        let strong = mix(&[(gain(self.spreads[self.along]), x)]);
        let Some(weaker) = self.weaker else {
            return strong;
        };
        // x minus its mean is larger by a times what the means are apart.
        let (gain, apart) = (gain(weaker.spreads[self.along]), weaker.apart[self.along]);
        let constant = self.unit(self.steps() + 1);
        let weak = mix(&[(gain, x), ((1.0 - gain * a) * apart, &constant)]);
        let scale = weaker.scales[n];
        mix(&[(scale, &strong), (1.0 - scale, &weak)])
    }

    fn eps_hat(&self, n: usize, x: &Factors) -> Factors {
        let x_0_hat = self.x_0_hat(n, x);
        mix(&[
            (1.0 / self.noise[n], x),
            (-self.signal[n] / self.noise[n], &x_0_hat),
        ])
    }

    /// log(signal / noise), infinite for x_0.
    fn lambda(&self, n: usize) -> f64 {
        (self.signal[n] / self.noise[n]).ln()
    }

    /// Folds `step(n, x)` over all steps.
    fn run(&self, mut step: impl FnMut(usize, &Factors) -> Factors) -> Vec<Factors> {
        let mut path = vec![self.unit(0)];
        for n in 0..self.steps() {
            path.push(step(n, &path[n]));
        }
        path.split_off(1)
    }

    /// Ho et al. 2020, eq. 7 and algorithm 2.
    fn ddpm(&self, sigma: Sigma, last_noise: bool) -> Vec<Factors> {
        self.run(|n, x| {
            let [bar, prev] = [n, n + 1].map(|n| self.signal[n].powi(2));
            let alpha = bar / prev;
            let beta = 1.0 - alpha;
            let sigma_squared = match sigma {
                Sigma::Beta => beta,
                _ => (1.0 - prev) / (1.0 - bar) * beta,
            };
            let noisy = n + 1 < self.steps() || last_noise;
            let sigma = if noisy { sigma_squared.sqrt() } else { 0.0 };
            mix(&[
                (prev.sqrt() * beta / (1.0 - bar), &self.x_0_hat(n, x)),
                (alpha.sqrt() * (1.0 - prev) / (1.0 - bar), x),
                (sigma, &self.unit(n + 1)),
            ])
        })
    }

    /// Song et al. 2020, eq. 12 and 16, plus the variance of x_prev due to `unknown`, the variance of x_0 given x_t.
    fn ddim(&self, eta: f64, unknown: impl Fn(usize) -> f64) -> Vec<Factors> {
        self.run(|n, x| {
            let [bar, prev] = [n, n + 1].map(|n| self.signal[n].powi(2));
            let ddpm = (1.0 - prev) / (1.0 - bar) * (1.0 - bar / prev);
            let eta_squared = eta.powi(2) * ddpm;
            let kept = (1.0 - prev - eta_squared).max(0.0).sqrt();
            let of_x_0 = prev.sqrt() - kept * (bar / (1.0 - bar)).sqrt();
            let sigma = (eta_squared + of_x_0.powi(2) * unknown(n)).sqrt();
            mix(&[
                (prev.sqrt(), &self.x_0_hat(n, x)),
                (kept, &self.eps_hat(n, x)),
                (sigma, &self.unit(n + 1)),
            ])
        })
    }

    /// Var[x_0 | x_t], mean over the four values.
    fn unknown(&self, n: usize) -> f64 {
        let [a, b] = [self.signal[n], self.noise[n]].map(|x| x.powi(2));
        self.spreads
            .iter()
            .map(|s| s * b / (a * s + b))
            .sum::<f64>()
            / 4.0
    }

    /// Lu et al. 2022, algorithm 2 and SDE-DPM-Solver++(2M).
    fn dpm_solver(&self, sde: bool) -> Vec<Factors> {
        let times = if sde { 2.0 } else { 1.0 };
        let mut before: Option<Factors> = None;
        self.run(|n, x| {
            let x_0_hat = self.x_0_hat(n, x);
            let h = self.lambda(n + 1) - self.lambda(n);
            let extrapolated = match &before {
                Some(before) if h.is_finite() => {
                    let r = (self.lambda(n) - self.lambda(n - 1)) / h;
                    mix(&[(1.0 + 0.5 / r, &x_0_hat), (-0.5 / r, before)])
                }
                _ => x_0_hat.clone(),
            };
            before = Some(x_0_hat);
            let ratio = self.noise[n + 1] / self.noise[n];
            let shrink = if sde { (-h).exp() } else { 1.0 };
            let fresh = if sde { 1.0 - (-2.0 * h).exp() } else { 0.0 };
            mix(&[
                (ratio * shrink, x),
                (
                    self.signal[n + 1] * (1.0 - (-times * h).exp()),
                    &extrapolated,
                ),
                (self.noise[n + 1] * fresh.sqrt(), &self.unit(n + 1)),
            ])
        })
    }

    /// Karras et al. 2022, algorithm 1, on x / signal.
    fn heun(&self) -> Vec<Factors> {
        self.run(|n, x| {
            let [from, to] = [n, n + 1].map(|n| self.noise[n] / self.signal[n]);
            let (slope, scaled) = (self.eps_hat(n, x), mix(&[(1.0 / self.signal[n], x)]));
            let euler = mix(&[(1.0, &scaled), (to - from, &slope)]);
            let next = if to == 0.0 {
                euler
            } else {
                let there = self.eps_hat(n + 1, &mix(&[(self.signal[n + 1], &euler)]));
                let way = (to - from) / 2.0;
                mix(&[(1.0, &scaled), (way, &slope), (way, &there)])
            };
            mix(&[(self.signal[n + 1], &next)])
        })
    }

    /// Zhao et al. 2023 with B(h) = e^h - 1, with the corrector after each prediction except the last.
    fn unipc(&self, order: usize) -> Vec<Factors> {
        let mut known: Vec<Factors> = vec![];
        let mut corrected = self.unit(0);
        let mut orders: Vec<usize> = vec![];
        self.run(|n, x| {
            known.push(self.x_0_hat(n, x));
            if n > 0 {
                let p = orders[n - 1];
                let places = (n - p..n - 1).chain([n]).collect::<Vec<_>>();
                corrected = self.uni(n - 1, &corrected, &known, &places);
            }
            let p = order.min(n + 1).min(self.steps() - n);
            orders.push(p);
            self.uni(n, &corrected, &known, &(n + 1 - p..n).collect::<Vec<_>>())
        })
    }

    /// The step n -> n + 1 from `x`, with the differences of `known` at `places`: the system R(h) a = phi(h) / B(h) of
    /// theorem 3.1, with -h in place of h because x_0 is predicted.
    fn uni(&self, n: usize, x: &Factors, known: &[Factors], places: &[usize]) -> Factors {
        let (signal, ratio) = (self.signal[n + 1], self.noise[n + 1] / self.noise[n]);
        let h = self.lambda(n) - self.lambda(n + 1);
        let b_h = h.exp_m1();
        let r: Vec<f64> = (places.iter())
            .map(|m| (self.lambda(*m) - self.lambda(n)) / -h)
            .collect();
        let a = if let [_] = r[..] {
            vec![0.5]
        } else {
            let (mut phi, mut factorial) = (b_h, 1.0);
            let system = (0..r.len()).map(|j| {
                factorial *= (j + 1) as f64;
                phi = phi / h - 1.0 / factorial;
                let mut row: Vec<f64> = r.iter().map(|r| r.powi(j as i32)).collect();
                row.push(phi * factorial / b_h);
                row
            });
            solve(system.collect())
        };
        let mut sum = mix(&[(ratio, x), (-signal * b_h, &known[n])]);
        for ((place, r), a) in places.iter().zip(&r).zip(&a) {
            let factor = -signal * b_h * a / r;
            sum = mix(&[(1.0, &sum), (factor, &known[*place]), (-factor, &known[n])]);
        }
        sum
    }
}

/// Gaussian elimination; each row ends with its right-hand side.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for i in 0..n {
        let pivot = rows[i].clone();
        for (j, row) in rows.iter_mut().enumerate() {
            let factor = if j == i { 0.0 } else { row[i] / pivot[i] };
            row.iter_mut()
                .zip(&pivot)
                .for_each(|(a, b)| *a -= factor * b);
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

//! The likelihood by the probability-flow ODE.
//!
//! With sigma = noise / signal and y = x_t / signal, the network's estimate of eps is the slope of a path from an image to
//! pure noise, dy / dsigma = eps_hat(y, sigma), along which the log-density of y falls by the divergence of eps_hat. So
//! the log-density of an image is that of its noise under the standard normal distribution, plus the integral of the
//! divergence over the path. x_0_hat is not clipped.
//!
//! - The grid is the network's own time steps: Heun's rule for y in sigma, and the trapezoid rule for the divergence in
//!   ln sigma, in which it is smooth, both of second order. The same on every second point shows what the grid costs.
//! - The divergence is estimated by probes of random signs (Hutchinson): v · J v for a v that stays the same along the
//!   path. Several probes show what that costs.
//! - The path begins at the noise of t = 0, as if the image had been drawn there. To be a density, it gets uniform noise
//!   of the width of one of its 256 levels, so that its mean log-density is at most the log-probability of the 8-bit
//!   image, but for the two errors above.
//!
//! Source: Song et al. 2021, section 4.3 and appendix D.2 <https://arxiv.org/abs/2011.13456>

use std::f64::consts::{LN_2, PI};

use anyhow::{Result, ensure};
use ndarray::{Array2, Axis};
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::{Mean, NotFiniteFor};
use crate::config::Prediction;
use crate::diffusion::Schedule;
use crate::rng::batch_noise;
use crate::sample::Denoiser;

/// How a likelihood is estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OdeSettings {
    /// The quantity that the network predicts.
    pub prediction: Prediction,
    /// Probes of the divergence, 1 or more.
    pub probes: usize,
    /// Seed of the probes, and of the noise that fills a level.
    pub seed: u64,
}

/// The probability-flow ODE of a noise schedule, on a grid of noise levels.
#[derive(Debug)]
pub struct Ode {
    settings: OdeSettings,
    points: Vec<Point>,
    device: Device,
}

/// A point of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    t: Time,
    signal: f64,
    noise: f64,
}

/// What the network is told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Time {
    /// A time step, as i64.
    Step(usize),
    /// A time between time steps, as f32.
    Between(f64),
}

/// The estimates for some images, in bits per dimension of the 8-bit image.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihoods {
    /// `[N, probes]`, on the whole grid.
    pub bits: Array2<f64>,
    /// `[N, probes]`, on every second point, with the same probes.
    pub coarse_bits: Array2<f64>,
}

/// An estimate of the negative log-likelihood of some images, in bits per dimension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OdeReport {
    /// Number of images.
    pub images: usize,
    /// Points of the grid.
    pub points: usize,
    /// Probes of the divergence for each image.
    pub probes: usize,
    /// The estimate; its standard error over images has that of the probes in it.
    pub bits: Mean,
    /// How much more the estimate is than that on every second point. As the rules are of second order, a third of it is
    /// what a finer grid would still change.
    pub grid_error: f64,
    /// Standard error of the mean that comes of the probes; none for a single probe.
    pub trace_error: Option<f64>,
    /// The estimate of each image.
    pub by_image: Vec<f64>,
}

impl Point {
    fn sigma(&self) -> f64 {
        self.noise / self.signal
    }
}

/// Draws of [`batch_noise`] that no time step has.
const LEVEL: u64 = u64::MAX;
const FIRST_PROBE: u64 = u64::MAX / 2;

impl Ode {
    /// The grid of a network's own time steps.
    ///
    /// # Errors
    /// Fewer than 3 time steps; no probes.
    pub fn new(schedule: &Schedule, settings: OdeSettings, device: Device) -> Result<Ode> {
        let timesteps = schedule.len();
        ensure!(
            timesteps >= 3,
            "T = {timesteps}: the grid of the ODE needs 3 time steps or more"
        );
        let point = |t: usize| Point {
            t: Time::Step(t),
            signal: schedule.alphas_cumprod[t].sqrt(),
            noise: (1.0 - schedule.alphas_cumprod[t]).sqrt(),
        };
        Ode::on((0..timesteps).map(point).collect(), settings, device)
    }

    /// A grid of `points` noise levels, evenly in ln sigma from that of t = 0 to that of t = T - 1, for a network that
    /// takes any t as f32. Between two time steps, t is linear in ln sigma.
    ///
    /// # Errors
    /// Fewer than 3 points or time steps; no probes.
    pub fn between(
        schedule: &Schedule,
        points: usize,
        settings: OdeSettings,
        device: Device,
    ) -> Result<Ode> {
        ensure!(
            points >= 3,
            "`evaluate.ode_points` = {points}: want 3 or more"
        );
        let steps = Ode::new(schedule, settings, device)?.points;
        let logs: Vec<f64> = steps.iter().map(|point| point.sigma().ln()).collect();
        let (first, last) = (logs[0], logs[logs.len() - 1]);
        let point = |i: usize| {
            let log = first + (last - first) * i as f64 / (points - 1) as f64;
            let after = logs.partition_point(|l| *l <= log).clamp(1, logs.len() - 1);
            let gap = logs[after] - logs[after - 1];
            let t = (after - 1) as f64 + ((log - logs[after - 1]) / gap).clamp(0.0, 1.0);
            let signal = 1.0 / (1.0 + (2.0 * log).exp()).sqrt();
            Point {
                t: Time::Between(t),
                signal,
                noise: signal * log.exp(),
            }
        };
        Ode::on((0..points).map(point).collect(), settings, device)
    }

    fn on(points: Vec<Point>, settings: OdeSettings, device: Device) -> Result<Ode> {
        ensure!(
            settings.probes >= 1,
            "`evaluate.ode_probes` = 0: want 1 or more"
        );
        Ok(Ode {
            settings,
            points,
            device,
        })
    }

    /// Probes for each image.
    pub fn probes(&self) -> usize {
        self.settings.probes
    }

    /// Every second point, and the last.
    fn coarse(&self) -> Vec<Point> {
        let mut points: Vec<Point> = self.points.iter().copied().step_by(2).collect();
        if self.points.len().is_multiple_of(2) {
            points.extend(self.points.last());
        }
        points
    }

    /// Evaluations of the network for a batch of images; about half of them have a backward pass for each probe.
    pub fn evaluations(&self) -> usize {
        2 * (self.points.len() + self.coarse().len()) - 2
    }

    /// Estimates for a batch of images, each a function of (seed, number of the image) and of the network alone, but for
    /// rounding in the network.
    ///
    /// # Shapes
    /// - `denoiser`: differentiable with respect to x_t, each image by itself; t is `[N]` i64, or f32 between time steps
    /// - `x_0`: `[N, C, H, W]` f32, 8-bit values divided by 127.5, minus 1
    /// - `images`: the number of each
    ///
    /// # Errors
    /// No images; an output of the network of another shape; [`NotFiniteFor`].
    pub fn likelihoods(
        &self,
        denoiser: &Denoiser,
        x_0: &Tensor,
        images: &[u64],
        on_evaluation: &mut dyn FnMut(),
    ) -> Result<Likelihoods> {
        ensure!(!images.is_empty(), "0 images: expected 1 or more");
        let size = x_0.size();
        let draw = |step: u64| {
            let chw = [size[1], size[2], size[3]];
            batch_noise(
                self.settings.seed,
                step,
                images.iter().copied(),
                chw,
                self.device,
            )
        };
        // The normal distribution's own CDF makes its values uniform in ±1.
        let uniform = (draw(LEVEL).to_kind(Kind::Double) / 2f64.sqrt()).erf();
        let y = x_0.to_kind(Kind::Double) + uniform / 255.0;
        let signs = |k| draw(FIRST_PROBE + k).ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0;
        let probes: Vec<Tensor> = (0..self.settings.probes as u64).map(signs).collect();
        let mut path = Path {
            ode: self,
            denoiser,
            images,
            probes: &probes,
            finite: vec![],
            on_evaluation,
        };
        let mut bits = |points: &[Point]| path.bits(&y, points);
        Ok(Likelihoods {
            bits: bits(&self.points)?,
            coarse_bits: bits(&self.coarse())?,
        })
    }
}

/// The way of some images to noise.
struct Path<'a> {
    ode: &'a Ode,
    denoiser: &'a Denoiser<'a>,
    images: &'a [u64],
    probes: &'a [Tensor],
    /// For each evaluation, its t and whether the output was finite, `[N]` bool.
    finite: Vec<(usize, Tensor)>,
    on_evaluation: &'a mut dyn FnMut(),
}

impl Path<'_> {
    /// `[N, probes]`, of `y` at the first of `points`.
    fn bits(&mut self, y: &Tensor, points: &[Point]) -> Result<Array2<f64>> {
        let mut y = y.shallow_clone();
        let mut integral = Tensor::zeros([], (Kind::Double, self.ode.device));
        let mut before: Option<(f64, Tensor)> = None;
        for (i, point) in points.iter().enumerate() {
            let (slope, divergence) = self.slope_and_divergence(&y, point)?;
            // d ln sigma = d sigma / sigma
            let log = point.sigma().ln();
            let height = divergence * point.sigma();
            if let Some((log_before, height_before)) = before {
                integral = &integral + (height_before + &height) * ((log - log_before) / 2.0);
            }
            before = Some((log, height));
            if let Some(next) = points.get(i + 1) {
                let step = next.sigma() - point.sigma();
                let slope_there = self.slope(&(&y + &slope * step), next)?;
                y = &y + (slope + slope_there) * (step / 2.0);
            }
        }
        let finite: Vec<&Tensor> = self.finite.iter().map(|(_, finite)| finite).collect();
        let t = |_, evaluation: usize| self.finite[evaluation].0;
        let finite = Tensor::stack(&finite, 0);
        NotFiniteFor::refuse("the network's output", self.images, &finite, t)?;
        self.finite.clear();
        let last = points[points.len() - 1];
        let dims = y.get(0).numel() as f64;
        let power = (y * last.signal).square().flatten(1, -1);
        let power = power.sum_dim_intlist(1, true, Kind::Double);
        let normal = power * -0.5 - dims * (0.5 * (2.0 * PI).ln() - last.signal.ln());
        let bits = (normal + integral) / (-dims * LN_2) + 127.5f64.log2();
        let bits: ndarray::ArrayD<f64> = (&bits.to_device(Device::Cpu)).try_into()?;
        Ok(bits.into_dimensionality()?)
    }

    /// The slope, `[N, C, H, W]` f64.
    fn slope(&mut self, y: &Tensor, point: &Point) -> Result<Tensor> {
        let x = (y * point.signal).to_kind(Kind::Float);
        let out = no_grad(|| self.evaluate(&x, point))?;
        Ok(self.eps_hat(&x, &out, point))
    }

    /// The slope, and its divergence by each probe, `[N, probes]` f64.
    fn slope_and_divergence(&mut self, y: &Tensor, point: &Point) -> Result<(Tensor, Tensor)> {
        let x = (y * point.signal).to_kind(Kind::Float);
        let x = x.set_requires_grad(true);
        let out = self.evaluate(&x, point)?;
        let mut traces = vec![];
        for (k, v) in self.probes.iter().enumerate() {
            let product = (&out * v).sum(Kind::Float);
            let keep = k + 1 < self.probes.len();
            let rows = Tensor::run_backward(&[product], &[&x], keep, false);
            let trace = (&rows[0] * v).to_kind(Kind::Double).flatten(1, -1);
            traces.push(trace.sum_dim_intlist(1, false, Kind::Double));
        }
        let (x, out) = (x.detach(), out.detach());
        let (of_x, of_out) = self.shares(point);
        let dims = x.get(0).numel() as f64;
        let divergence = (Tensor::stack(&traces, 1) * of_out + of_x * dims) * point.signal;
        Ok((self.eps_hat(&x, &out, point), divergence))
    }

    /// What the network predicts at a point.
    fn evaluate(&mut self, x: &Tensor, point: &Point) -> Result<Tensor> {
        let size = x.size();
        let full = |t: f64, kind| Tensor::full([size[0]], t, (kind, x.device()));
        let (t, step) = match point.t {
            Time::Step(t) => (full(t as f64, Kind::Int64), t),
            Time::Between(t) => (full(t, Kind::Float), t as usize),
        };
        let out = (self.denoiser)(x, &t);
        let shape = out.size();
        ensure!(
            shape.len() == 4
                && (shape[1] == size[1] || shape[1] == 2 * size[1])
                && [shape[0], shape[2], shape[3]] == [size[0], size[2], size[3]],
            "the network makes {shape:?} of images {size:?}; want as many values of each, or twice as many"
        );
        let finite = out.detach().isfinite().flatten(1, -1).all_dim(1, false);
        self.finite.push((step, finite));
        (self.on_evaluation)();
        Ok(out.narrow(1, 0, size[1]))
    }

    /// eps_hat as shares of x_t and of what the network predicts.
    fn shares(&self, point: &Point) -> (f64, f64) {
        let (s, n) = (point.signal, point.noise);
        match self.ode.settings.prediction {
            Prediction::Eps => (0.0, 1.0),
            Prediction::X0 => (1.0 / n, -s / n),
            Prediction::V => (n, s),
        }
    }

    fn eps_hat(&self, x: &Tensor, out: &Tensor, point: &Point) -> Tensor {
        let (of_x, of_out) = self.shares(point);
        x.to_kind(Kind::Double) * of_x + out.to_kind(Kind::Double) * of_out
    }
}

impl Likelihoods {
    /// The numbers of each image one after the other: those of the whole grid, then those of every second point.
    pub fn into_values(self) -> Vec<f64> {
        let rows = self.bits.rows().into_iter().zip(self.coarse_bits.rows());
        rows.flat_map(|(bits, coarse)| bits.into_iter().chain(coarse).copied().collect::<Vec<_>>())
            .collect()
    }

    /// The estimates with these values, `2 * probes` for each image, 1 image or more.
    ///
    /// # Errors
    /// Another number of them.
    pub fn of_values(values: Vec<f64>, probes: usize) -> Result<Likelihoods> {
        let all = Array2::from_shape_vec((values.len() / (2 * probes), 2 * probes), values)?;
        let (bits, coarse_bits) = all.view().split_at(Axis(1), probes);
        Ok(Likelihoods {
            bits: bits.to_owned(),
            coarse_bits: coarse_bits.to_owned(),
        })
    }

    /// Means and errors of 1 image or more.
    pub fn report(&self, ode: &Ode) -> OdeReport {
        let (images, probes) = self.bits.dim();
        let over_probes = |bits: &Array2<f64>| bits.sum_axis(Axis(1)) / probes as f64;
        let by_image = over_probes(&self.bits).to_vec();
        let coarse = over_probes(&self.coarse_bits);
        let bits = Mean::of(&by_image);
        let trace_error = (probes > 1).then(|| {
            let variances = self.bits.var_axis(Axis(1), 1.0);
            (variances.sum() / probes as f64).sqrt() / images as f64
        });
        OdeReport {
            images,
            points: ode.points.len(),
            probes,
            bits,
            grid_error: bits.mean - coarse.sum() / images as f64,
            trace_error,
            by_image,
        }
    }
}

#[cfg(test)]
mod tests;

//! `ddpm evaluate bpd`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tch::Tensor;

use super::images::{ImagesArgs, Measured};
use super::ranks::Ranks;
use super::table::{aligned, curve_line, number, shown};
use crate::cli::args::foreign::SamplerHints;
use crate::cli::args::group::GroupArgs;
use crate::cli::args::load::{LoadArgs, weights_line};
use crate::cli::out;
use crate::cli::outputs::{ForceArg, Outputs};
use crate::config::{Prediction, Sigma};
use crate::device::Chosen;
use crate::evaluate::Mean;
use crate::evaluate::bound::{Bound, BoundReport, BoundSettings, BoundSums, Terms};
use crate::evaluate::ode::{Likelihoods, Ode, OdeReport, OdeSettings};
use crate::fs::write_bytes;
use crate::interop::Uses;
use crate::pretrained::Pretrained;
use crate::report::{Plot, PlotAxis};
use crate::text::plural;

/// How many bits a network needs for each value of an image: the variational bound.
///
/// The bound is on the negative log-likelihood of 8-bit images, in bits per dimension (a value of a channel of a pixel):
/// the less, the better the network knows such images. It needs no other network, and images of one's own make it
/// comparable between checkpoints. It is printed with x_0_hat clipped to [-1, 1] and not clipped. Products are computed in
/// full f32 unless --precision is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate bpd runs/NAME --data held-out
  ddpm evaluate bpd runs/NAME --data held-out --every 10 -n 200   a quick estimate")]
pub(in crate::cli) struct BpdCommand {
    #[command(flatten)]
    images: ImagesArgs,
    /// Evaluate one out of each K successive time steps (of fewer where t is small), drawn anew for each image
    ///
    /// An unbiased estimate, whose standard error says what the others may change. It is one out of t / 4 where that is
    /// less than K, and every one below t = 8.
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Standard deviation of the reverse steps [default: the model's setting]
    #[arg(long, value_enum)]
    sigma: Option<Sigma>,
    /// Print JSON, with the terms of each t and the total of each image
    #[arg(long)]
    json: bool,
    /// Estimate the likelihood by the probability-flow ODE as well, on the grid of the network's own time steps
    ///
    /// For images with uniform noise of the width of one of their 256 levels, x_0_hat not clipped. It takes about nine
    /// times as long as the bound, and memory for gradients with respect to the images of a batch.
    #[arg(long)]
    ode: bool,
    /// Random probes of the ODE's divergence for each image; with 2 or more, their error is known
    #[arg(long, default_value_t = 2, value_name = "N", requires = "ode", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    ode_probes: u16,
    /// Points of the ODE's grid, evenly in ln(noise / signal), in place of the time steps; for networks that take any t
    #[arg(long, value_name = "N", requires = "ode", hide_short_help = true)]
    ode_points: Option<usize>,
    /// Draw the terms over t
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    group: GroupArgs,
}

/// The settings that play a part.
const USES: Uses = Uses {
    clip_x0: false,
    dropout: false,
    ..Uses::ALL
};

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    weights: String,
    data: &'a str,
    prediction: Prediction,
    sigma: Sigma,
    seed: u64,
    #[serde(flatten)]
    report: &'a BoundReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    ode: Option<&'a OdeReport>,
}

impl BpdCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let check = || self.check_outputs();
        Ranks::run(
            &self.load.compute.exact(),
            self.group,
            check,
            |chosen, ranks| self.measure(chosen, ranks),
        )
    }

    fn check_outputs(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain(&self.images.data));
        if let Some(plot) = &self.plot {
            outputs.writes("--plot", plot, &["svg"], None);
        }
        outputs.check()
    }

    fn measure(&self, chosen: &Chosen, ranks: &Ranks) -> Result<()> {
        let hints = SamplerHints::new(self.sigma, None);
        let network = (self.load).load_as(chosen, hints, USES, ranks.leads())?;
        let settings = self.settings(&network);
        let bound = Bound::new(&network.schedule(), settings, network.device())?;
        let ode = self.ode(&network)?;
        let images = self.images.load(&network, ranks.leads())?;
        ranks.compare(&network, &images)?;
        let report = measure(&network, &bound, &images, ranks)?;
        let follow = |ode| follow(&network, &ode, &images, ranks);
        let ode = ode.map(follow).transpose()?;
        let Some(report) = report else {
            return Ok(());
        };
        if let Some(path) = &self.plot {
            write_bytes(path, plot(&report).to_svg().as_bytes())?;
        }
        let ode = ode.flatten();
        let printed = Printed {
            weights: weights_line(&network, self.load.which(), &self.load.checkpoint),
            data: images.origin(),
            prediction: settings.prediction,
            sigma: settings.sigma,
            seed: settings.seed,
            report: &report,
            ode: ode.as_ref(),
        };
        match self.json {
            true => out::json(&serde_json::to_string(&printed)?),
            false => {
                out::lines(&table(&report));
                ode.iter().for_each(|ode| out::lines(&estimate(ode)));
            }
        }
        Ok(())
    }

    fn settings(&self, network: &Pretrained) -> BoundSettings {
        let config = network.config();
        BoundSettings {
            prediction: config.diffusion.prediction,
            // The flag has taken its place already.
            sigma: config.sample.sigma,
            every: self.every as usize,
            seed: self.images.seed,
        }
    }

    /// The ODE, if it is asked for.
    fn ode(&self, network: &Pretrained) -> Result<Option<Ode>> {
        if !self.ode {
            return Ok(None);
        }
        let (schedule, device) = (network.schedule(), network.device());
        let settings = OdeSettings {
            prediction: network.config().diffusion.prediction,
            probes: self.ode_probes.into(),
            seed: self.images.seed,
        };
        let Some(points) = self.ode_points else {
            return Ode::new(&schedule, settings, device).map(Some);
        };
        ensure!(
            network.config().model.takes_any_t(),
            "--ode-points {points}: this network has a row of a table for each of its {} time steps, and knows no t \
             between them; leave the flag out for the grid of its own time steps",
            schedule.len()
        );
        Ode::between(&schedule, points, settings, device).map(Some)
    }
}

/// The bound, in the leading process.
fn measure(
    network: &Pretrained,
    bound: &Bound,
    images: &Measured,
    ranks: &Ranks,
) -> Result<Option<BoundReport>> {
    let mut sums = BoundSums::new(bound);
    ranks.measure(
        "measuring",
        (images, network.device()),
        (bound.columns(), bound.evaluations()),
        |batch, step| {
            let classes = batch.classes.as_ref();
            let denoiser = |x: &Tensor, t: &Tensor| network.predict(&batch.input(x), t, classes);
            let terms = bound.terms(&denoiser, &batch.x_0, &batch.numbers, step)?;
            Ok(terms.values.into_iter().collect())
        },
        |numbers, values| {
            sums.add(&Terms::of_values(numbers, values)?);
            Ok(())
        },
    )?;
    Ok(ranks.leads().then(|| sums.report()))
}

/// The estimate of the ODE, in the leading process.
fn follow(
    network: &Pretrained,
    ode: &Ode,
    images: &Measured,
    ranks: &Ranks,
) -> Result<Option<OdeReport>> {
    let mut all = vec![];
    ranks.measure(
        "following the ODE",
        (images, network.device()),
        (2 * ode.probes(), ode.evaluations()),
        |batch, step| {
            let classes = batch.classes.as_ref();
            let denoiser =
                |x: &Tensor, t: &Tensor| network.differentiable(&batch.input(x), t, classes);
            let found = ode.likelihoods(&denoiser, &batch.x_0, &batch.numbers, step)?;
            Ok(found.into_values())
        },
        |_, mut values| {
            all.append(&mut values);
            Ok(())
        },
    )?;
    if !ranks.leads() {
        return Ok(None);
    }
    let found = Likelihoods::of_values(all, ode.probes())?;
    Ok(Some(found.report(ode)))
}

/// The estimate of the ODE for people.
fn estimate(ode: &OdeReport) -> String {
    let trace = ode.trace_error.map(|error| format!("{error:.4}"));
    format!(
        "probability-flow ODE, an estimate: {} of {}\n  grid of {}: {:+.4} from every second one\n  trace from {}: \
         standard error {}\n",
        shown(&ode.bits),
        plural(ode.images as u64, "image"),
        plural(ode.points as u64, "noise level"),
        ode.grid_error,
        plural(ode.probes as u64, "probe"),
        trace.unwrap_or("unknown, want 2 probes or more".into())
    )
}

/// The report for people.
fn table(report: &BoundReport) -> String {
    let head = format!(
        "bits per dimension of {} ± standard error",
        plural(report.images as u64, "image")
    );
    let mut rows = vec![vec![head, "x_0_hat clipped".into(), "not clipped".into()]];
    let (clipped, plain) = (&report.clipped, &report.unclipped);
    let mut row = |name: &str, a: &Mean, b: &Mean| rows.push(vec![name.into(), shown(a), shown(b)]);
    row("total, at most", &clipped.total, &plain.total);
    row("  rate", &clipped.rate, &plain.rate);
    row("    prior", &report.prior, &report.prior);
    for decade in report.by_decade.iter().rev() {
        let name = match decade.from == decade.to {
            true => format!("    t = {}", decade.from),
            false => format!("    t = {} to {}", decade.from, decade.to),
        };
        let [a, b] = [decade.clipped, decade.unclipped].map(number);
        rows.push(vec![name, a, b]);
    }
    rows.push(vec![
        "  distortion, t = 0".into(),
        shown(&clipped.distortion),
        shown(&plain.distortion),
    ]);
    aligned(&rows)
}

/// The terms over t + 1, as a logarithm has no 0.
fn plot(report: &BoundReport) -> Plot {
    Plot {
        title: format!(
            "variational bound of {}",
            plural(report.images as u64, "image")
        ),
        x: PlotAxis {
            label: "t + 1".into(),
            log: true,
        },
        y: PlotAxis {
            label: "term, bits per dimension".into(),
            log: true,
        },
        lines: vec![
            curve_line("x_0_hat clipped", &report.by_t.clipped.mean, 1.0),
            curve_line("not clipped", &report.by_t.unclipped.mean, 1.0),
        ],
    }
}

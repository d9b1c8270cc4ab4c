//! `ddpm evaluate loss`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tch::Tensor;

use super::images::{ImagesArgs, Measured};
use super::ranks::Ranks;
use super::table::{aligned, curve_line, shown};
use crate::checkpoint::{Contents, Weights};
use crate::cli::args::foreign::SamplerHints;
use crate::cli::args::group::GroupArgs;
use crate::cli::args::load::{LoadArgs, weights_line};
use crate::cli::out;
use crate::cli::outputs::{ForceArg, Outputs};
use crate::config::{LossKind, Prediction};
use crate::device::Chosen;
use crate::evaluate::Mean;
use crate::evaluate::loss_by_t::{LossByT, LossReport, LossSums, Losses};
use crate::fs::write_bytes;
use crate::interop::Uses;
use crate::pretrained::Pretrained;
use crate::report::{Plot, PlotAxis};
use crate::text::plural;

/// The loss over t on images, of raw and EMA weights.
///
/// The squared error of what the network predicts, as in training, on images noised to every time step: its mean over
/// the values of an image, and its sum over them. Where a checkpoint holds both raw and EMA weights, both are measured,
/// on the same noise. Products are computed in full f32 unless --precision is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate loss runs/NAME --data held-out
  ddpm evaluate loss runs/NAME --data held-out --every 10 --plot loss.svg")]
pub(in crate::cli) struct LossCommand {
    #[command(flatten)]
    images: ImagesArgs,
    /// Evaluate one out of each K successive time steps (of fewer where t is small), drawn anew for each image
    ///
    /// An unbiased estimate, whose standard error says what the others may change. It is one out of t / 4 where that is
    /// less than K, and every one below t = 8.
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Print JSON, with the loss at each t and of each image
    #[arg(long)]
    json: bool,
    /// Draw the loss over t
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
    sigma: false,
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
    trained_on: LossKind,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ema: Option<&'a LossReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a LossReport>,
    /// By how much the loss per value of the raw weights is more than that of their EMA.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_minus_ema: Option<Mean>,
}

impl LossCommand {
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
        let networks = self.networks(chosen, ranks.leads())?;
        let network = &networks[0];
        let diffusion = &network.config().diffusion;
        let loss = LossByT::new(
            diffusion,
            self.every as usize,
            self.images.seed,
            chosen.device,
        )?;
        let images = self.images.load(network, ranks.leads())?;
        ranks.compare(network, &images)?;
        let reports = measure(&networks, &loss, &images, ranks)?;
        if !ranks.leads() {
            return Ok(());
        }
        let measured: Vec<(Weights, &LossReport)> = (networks.iter().zip(&reports))
            .map(|(network, report)| (network.which, report))
            .collect();
        if let Some(path) = &self.plot {
            write_bytes(path, plot(&measured).to_svg().as_bytes())?;
        }
        let of = |which| (measured.iter()).find_map(|(w, report)| (*w == which).then_some(*report));
        let (ema, raw) = (of(Weights::Ema), of(Weights::Raw));
        let printed = Printed {
            weights: weights_line(network, self.load.which(), &self.load.checkpoint),
            data: images.origin(),
            prediction: diffusion.prediction,
            trained_on: diffusion.loss,
            seed: self.images.seed,
            ema,
            raw,
            raw_minus_ema: ema.zip(raw).map(|(ema, raw)| raw.more_than(ema)),
        };
        match self.json {
            true => out::json(&serde_json::to_string(&printed)?),
            false => out::lines(&table(&measured, printed.raw_minus_ema)),
        }
        Ok(())
    }

    /// The network with the weights that are asked for, and if the file has both, with its raw ones too.
    fn networks(&self, chosen: &Chosen, tells: bool) -> Result<Vec<Pretrained>> {
        let hints = SamplerHints::default();
        let network = self.load.load_as(chosen, hints, USES, tells)?;
        if network.meta.contents != Contents::Training || self.load.raw {
            return Ok(vec![network]);
        }
        let request = self.load.foreign.request(true, hints, USES)?;
        let mut raw = Pretrained::load_with(&network.path, &request, chosen.device)?;
        raw.set_precision(chosen.precision);
        Ok(vec![network, raw])
    }
}

/// The loss of each network on the same images with the same noise; of none but in the leading process.
fn measure(
    networks: &[Pretrained],
    loss: &LossByT,
    images: &Measured,
    ranks: &Ranks,
) -> Result<Vec<LossReport>> {
    let evaluations = loss.evaluations() * networks.len();
    let mut sums: Vec<LossSums> = networks.iter().map(|_| LossSums::new(loss)).collect();
    ranks.measure(
        "measuring",
        (images, networks[0].device()),
        // That of all networks.
        (evaluations, evaluations),
        |batch, step| {
            let mut all = vec![];
            for network in networks {
                let classes = batch.classes.as_ref();
                let denoiser =
                    |x: &Tensor, t: &Tensor| network.predict(&batch.input(x), t, classes);
                let losses = loss.losses(&denoiser, &batch.x_0, &batch.numbers, step)?;
                all.extend(losses.values);
            }
            Ok(all)
        },
        |numbers, values| {
            let of_network = values.chunks(numbers.len() * loss.evaluations());
            for (sums, values) in sums.iter_mut().zip(of_network) {
                sums.add(&Losses::of_values(numbers, values.to_vec())?);
            }
            Ok(())
        },
    )?;
    let values = images.values();
    let leads = ranks.leads();
    let reports = sums
        .iter()
        .filter(|_| leads)
        .map(|sums| sums.report(values));
    Ok(reports.collect())
}

/// The reports for people.
fn table(measured: &[(Weights, &LossReport)], raw_minus_ema: Option<Mean>) -> String {
    let [(_, report), ..] = measured else {
        return String::new();
    };
    let images = plural(report.images as u64, "image");
    let mut rows = vec![vec![format!("loss of {images} ± standard error")]];
    rows.push(vec!["mean over t".into()]);
    for q in 0..4 {
        let mut times = (0..report.timesteps).filter(|t| 4 * t / report.timesteps == q);
        let first = times.next().unwrap_or_default();
        let last = times.next_back().unwrap_or(first);
        rows.push(vec![match first == last {
            true => format!("  t = {first}"),
            false => format!("  t = {first} to {last}"),
        }]);
    }
    for (which, report) in measured {
        rows[0].push(format!("{which}: mse"));
        rows[0].push(format!("sum of {} values", report.values));
        let losses = std::iter::once(&report.mean).chain(&report.quartiles);
        for (row, loss) in rows[1..].iter_mut().zip(losses) {
            row.extend([shown(&loss.mse), shown(&loss.sum)]);
        }
    }
    let mut text = aligned(&rows);
    if let Some(gap) = raw_minus_ema {
        let error = gap.standard_error.map(|error| format!(" ± {error:.2e}"));
        let error = error.unwrap_or_default();
        text += &format!("raw minus EMA, mse: {:.2e}{error}\n", gap.mean);
    }
    text
}

fn plot(measured: &[(Weights, &LossReport)]) -> Plot {
    let lines = measured
        .iter()
        .map(|(which, report)| curve_line(&format!("{which} weights"), &report.by_t.mean, 0.0));
    Plot {
        title: "loss over t".into(),
        x: PlotAxis {
            label: "t".into(),
            log: false,
        },
        y: PlotAxis {
            label: "mean squared error".into(),
            log: true,
        },
        lines: lines.collect(),
    }
}

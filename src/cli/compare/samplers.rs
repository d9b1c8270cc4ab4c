//! `ddpm compare samplers`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tch::Tensor;

use super::combinations::{Asked, AskedSampler, AskedSpacing, Combination, asked_sampler};
use super::figure::draw;
use super::markdown::number;
use super::measure::{Measure, Real, Sampler, Values, rms};
use super::rows::{COLUMNS, Row, shown};
use crate::cli::args::class::ClassArg;
use crate::cli::args::foreign::SamplerHints;
use crate::cli::args::load::{LoadArgs, weights_line};
use crate::cli::evaluate::features::FeatureArgs;
use crate::cli::out::{self, say};
use crate::cli::outputs::{ForceArg, Outputs};
use crate::cli::progress::SampleProgress;
use crate::config::RunConfig;
use crate::interop::Uses;
use crate::pretrained::{Pretrained, Sampling};
use crate::report::PlotLine;
use crate::sample::{NotFiniteAt, SamplerKind, SamplerOptions, Step};
use crate::text::plural;

/// Compare the samplers of one network: quality over evaluations of the network.
///
/// Every sampler is run at every number of steps, from the same noise, and what it makes is measured. A sampler without
/// noise has a right answer, the images of DDIM with all T steps, and `answer` is the root mean square distance of the
/// pixels from them, in [-1, 1]: 0.0078 is one grey level. The other metrics compare all samples with real images, as
/// `ddpm evaluate` does, and are comparable within the table only: with so few images they are too large. Of the images
/// a byte a value is held in memory. Products are computed in full f32 unless --precision is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm compare samplers runs/NAME
  ddpm compare samplers runs/NAME --samplers ddim,unipc,unipc:order=3 --steps 5,10,20 --spacings all --metrics answer
  ddpm compare samplers runs/NAME --samplers all --metrics fid,swd --features random --data held-out -n 1000 --plot fid.svg")]
pub(super) struct SamplersCommand {
    /// Samplers, or all; with settings of their own: ddim:eta=0.5, unipc:order=3, ddpm:sigma=posterior
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = asked_sampler, default_value = USUAL)]
    samplers: Vec<AskedSampler>,
    /// Numbers of steps
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "5,10,20,50"
    )]
    steps: Vec<usize>,
    /// Spacings of the steps
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "default"
    )]
    spacings: Vec<AskedSpacing>,
    /// What is measured; the first is what --plot draws [default: answer,swd]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    metrics: Vec<Measure>,
    /// Folder of real images [default: what the run held out, else its training data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Images sampled by each sampler, where they are compared with real ones
    #[arg(short = 'n', long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    number: u64,
    /// Images compared with the answer: the first of the seed
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    answer_images: u64,
    /// Also compare the answer with that of heun with all T steps, which takes 2 T evaluations an image
    ///
    /// Heun is of second order: differences smaller than that do not show which sampler is better.
    #[arg(long)]
    check_answer: bool,
    /// Seed of all that is drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images per batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    #[command(flatten)]
    class: ClassArg,
    /// Clip the predicted x_0 to [-1, 1] at each step [default: the model's setting]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    clip_x0: Option<bool>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the first metric over evaluations of the network, a line a sampler and spacing
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    features: FeatureArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    weights: String,
    seed: u64,
    images: u64,
    timesteps: i64,
    answer_images: Option<u64>,
    /// Distance of the answer from that of heun.
    answer_check: Option<f64>,
    real: Option<String>,
    real_images: Option<u64>,
    swd_of_halves: Option<f64>,
    features: Option<String>,
    rows: Vec<Row>,
    remarks: Vec<String>,
}

/// The images with all T steps.
struct Answer {
    images: Tensor,
    /// Their distance from those of heun.
    check: Option<f64>,
}

/// One run of the command.
struct Work<'a> {
    command: &'a SamplersCommand,
    network: &'a Pretrained,
    measures: &'a [Measure],
    combinations: &'a [Combination],
    sampler: Sampler,
}

impl SamplersCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads(
            self.load
                .files()
                .chain(self.features.file())
                .chain(&self.data),
        );
        if let Some(plot) = &self.plot {
            outputs.writes("--plot", plot, &["svg"], None);
        }
        outputs.check()?;
        let takes_sigma = |asked: &AskedSampler| match asked {
            AskedSampler::All => true,
            AskedSampler::One(options) => options.kind.takes_sigma(),
        };
        let uses = Uses {
            sigma: self.samplers.iter().any(takes_sigma),
            ..Uses::PROCESS
        };
        let hints = SamplerHints::new(None, self.clip_x0);
        let (network, _) = self.load.load_exact(hints, uses)?;
        network.refuse_upscaling()?;
        let mut remarks = Vec::new();
        let measures = self.measures(&network, &mut remarks);
        let combinations = self.combinations(&network, &measures, &mut remarks)?;
        remarks.iter().for_each(|remark| say(remark));
        let work = Work {
            command: self,
            network: &network,
            measures: &measures,
            combinations: &combinations,
            sampler: self.sampler(&measures, network.config())?,
        };
        let report = work.report(remarks)?;
        if let Some(path) = &self.plot {
            let [first, ..] = measures[..] else {
                return Ok(());
            };
            plot(path, first, &report)?;
        }
        match self.json {
            true => out::json(&serde_json::to_string(&report)?),
            false => report.print(),
        }
        Ok(())
    }

    /// What is measured: by default what needs no more than the network and its images.
    fn measures(&self, network: &Pretrained, remarks: &mut Vec<String>) -> Vec<Measure> {
        if !self.metrics.is_empty() {
            return self.metrics.clone();
        }
        let [channels, height, width] = network.config().model.chw();
        if height.min(width) < 16 || !matches!(channels, 1 | 3) {
            remarks.push(
                "note: swd is left out, which needs grey or RGB images of 16 pixels".to_owned(),
            );
            return vec![Measure::Answer];
        }
        vec![Measure::Answer, Measure::Swd]
    }

    /// What is compared, all of it possible.
    fn combinations(
        &self,
        network: &Pretrained,
        measures: &[Measure],
        remarks: &mut Vec<String>,
    ) -> Result<Vec<Combination>> {
        let asked = Asked {
            samplers: &self.samplers,
            steps: &self.steps,
            spacings: &self.spacings,
            clip_x0: self.clip_x0,
        };
        let (mut combinations, left_out) = asked.combinations(network)?;
        remarks.extend(left_out.into_iter().map(|reason| format!("note: {reason}")));
        if measures.contains(&Measure::Answer) {
            let noisy = |combination: &&Combination| !combination.is_deterministic;
            let mut names: Vec<String> = (combinations.iter().filter(noisy))
                .map(|combination| combination.sampler.clone())
                .collect();
            names.dedup();
            let names = names.join(", ");
            let no_answer =
                "noise on the way leads to other images, so there is no answer to be near to";
            if !names.is_empty() && measures.iter().all(|measure| !measure.needs_real()) {
                let is_of_all =
                    self.samplers.contains(&AskedSampler::All) || !self.names_samplers();
                ensure!(
                    is_of_all,
                    "--metrics answer of {names}: {no_answer}; leave it out, or compare with real images: --metrics swd"
                );
                combinations.retain(|combination| combination.is_deterministic);
                remarks.push(format!("note: left out: {names}: {no_answer}"));
            } else if !names.is_empty() {
                remarks.push(format!("note: no answer for {names}: {no_answer}"));
            }
            ensure!(
                !combinations.is_empty(),
                "no sampler without noise is left to compare"
            );
        }
        Ok(combinations)
    }

    /// False for the samplers that are taken where none are named.
    fn names_samplers(&self) -> bool {
        let usual = USUAL.split(',').map(asked_sampler);
        let usual: Vec<AskedSampler> = usual.filter_map(Result::ok).collect();
        self.samplers != usual
    }

    fn sampler(&self, measures: &[Measure], config: &RunConfig) -> Result<Sampler> {
        let needs_real = measures.iter().any(|measure| measure.needs_real());
        let all = needs_real.then_some(self.number);
        let classes = self.class.classes_beside_data(config)?;
        let first = self.answer_images.min(all.unwrap_or(u64::MAX));
        self.class.tell(config, &classes, all.unwrap_or(first));
        Ok(Sampler {
            seed: self.seed,
            batch: self.batch,
            classes,
            first,
            all,
        })
    }
}

/// Samplers that are compared where none are named.
const USUAL: &str = "ddim,dpmpp-2m,heun,unipc,dpmpp-2m-sde";

impl Work<'_> {
    fn report(&self, mut remarks: Vec<String>) -> Result<Report> {
        let (command, network) = (self.command, self.network);
        let needs_real = self.sampler.all.is_some();
        let real = match needs_real {
            true => Some(Real::new(
                network,
                command.data.as_deref(),
                &command.features,
                self.measures,
                command.seed,
            )?),
            false => None,
        };
        self.warm_up()?;
        let bar = SampleProgress::new("comparing samplers", self.evaluations());
        let answer = match self.measures.contains(&Measure::Answer) {
            true => Some(self.answer(&bar)?),
            false => None,
        };
        let (mut rows, told) = (Vec::new(), remarks.len());
        for combination in self.combinations {
            match self.row(
                combination,
                answer.as_ref(),
                real.as_ref(),
                &bar,
                &mut remarks,
            ) {
                Ok(row) => {
                    say(&format!("{}: {}", combination.name(), row.said()));
                    rows.push(row);
                }
                Err(error) if error.downcast_ref::<NotFiniteAt>().is_some() => {
                    let named = combination.name();
                    remarks.push(format!("note: left out: {named}: {error:#}"));
                }
                Err(error) => return Err(error.context(combination.name())),
            }
        }
        bar.finish();
        remarks[told..].iter().for_each(|remark| say(remark));
        Ok(Report {
            weights: weights_line(network, command.load.which(), &command.load.checkpoint),
            seed: command.seed,
            images: self.sampler.images(),
            timesteps: network.config().diffusion.timesteps,
            answer_images: answer.as_ref().map(|_| self.sampler.first),
            answer_check: answer.as_ref().and_then(|answer| answer.check),
            swd_of_halves: real.as_ref().and_then(Real::swd_of_halves),
            features: real.as_ref().and_then(Real::features),
            real_images: real.as_ref().map(|real| real.images),
            real: real.map(|real| real.origin),
            rows,
            remarks,
        })
    }

    /// Evaluations of the network by batches, of all that is sampled.
    fn evaluations(&self) -> u64 {
        let batches = |images: u64| images.div_ceil(self.sampler.batch);
        let each = self
            .combinations
            .iter()
            .map(|combination| combination.evaluations as u64);
        let samples = each.sum::<u64>() * batches(self.sampler.images());
        let timesteps = self.network.config().diffusion.timesteps as u64;
        let of_answer = match (
            self.measures.contains(&Measure::Answer),
            self.command.check_answer,
        ) {
            (true, true) => 3 * timesteps - 1,
            (true, false) => timesteps,
            (false, _) => 0,
        };
        samples + of_answer * batches(self.sampler.images_of_answer())
    }

    /// A batch that is not measured: the first one of a process takes longer.
    fn warm_up(&self) -> Result<()> {
        let sampling = self.network.sampler(SamplerKind::Ddim).steps(1);
        let number = self.sampler.batch.min(self.sampler.images());
        let sampling = sampling.classes(self.sampler.classes.clone());
        let sampling = sampling.batch(self.sampler.batch);
        sampling.sample_each(number, self.command.seed, &mut |_| (), &mut |_| Ok(()))
    }

    fn answer(&self, bar: &SampleProgress) -> Result<Answer> {
        let all_steps = |kind| {
            let options = SamplerOptions {
                stride: Some(1),
                clip_x0: self.command.clip_x0,
                ..SamplerOptions::new(kind)
            };
            let sampling = self.network.sampler(kind).options(options);
            let mut on_step = counting(&sampling, bar)?;
            self.sampler.answer(sampling, &mut on_step)
        };
        let images = all_steps(SamplerKind::Ddim)?;
        let check = match self.command.check_answer {
            true => Some(rms(&all_steps(SamplerKind::Heun)?, &images)?),
            false => None,
        };
        Ok(Answer { images, check })
    }

    fn row(
        &self,
        combination: &Combination,
        answer: Option<&Answer>,
        real: Option<&Real>,
        bar: &SampleProgress,
        remarks: &mut Vec<String>,
    ) -> Result<Row> {
        let sampling = combination.sampling(self.network);
        let mut on_step = counting(&sampling, bar)?;
        let sampled = self.sampler.sample(sampling, &mut on_step)?;
        let mut values = match real {
            Some(real) => real.measure(&sampled, self.measures, self.command.seed, remarks)?,
            None => Values::default(),
        };
        if let Some(answer) = answer.filter(|_| combination.is_deterministic) {
            values.answer = Some(rms(&sampled.first, &answer.images)?);
        }
        Ok(Row::new(combination, sampled.secs_per_image, values))
    }
}

/// Counts evaluations of the network, some each step.
fn counting<'a>(sampling: &Sampling, bar: &'a SampleProgress) -> Result<impl FnMut(Step) + 'a> {
    let sampler = sampling.chosen()?.sampler;
    Ok(move |step: Step| {
        let new = sampler.evaluations(step.done) - sampler.evaluations(step.done - 1);
        (0..new).for_each(|_| bar.step());
    })
}

fn plot(path: &std::path::Path, measure: Measure, report: &Report) -> Result<()> {
    let name = match measure {
        Measure::Answer => "answer",
        Measure::Swd => "swd",
        Measure::Fid => "fid",
        Measure::Kid => "kid",
        Measure::Pr => "precision",
    };
    let value = |row: &Row| {
        let column = COLUMNS.iter().find(|column| column.name == name)?;
        (column.of)(&row.values)
    };
    let mut lines: Vec<PlotLine> = Vec::new();
    for row in &report.rows {
        let Some(value) = value(row) else { continue };
        let point = (row.evaluations as f64, value);
        let name = format!("{}, {}", row.sampler, row.spacing);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(PlotLine {
                name,
                points: vec![point],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let x = "evaluations of the network an image";
    draw(path, &format!("{name} of samplers"), (x, true), name, lines)
}

impl Report {
    fn print(&self) {
        out::lines(&shown(&self.rows));
        let mut notes = Vec::new();
        if let Some(images) = self.answer_images {
            notes.push(format!(
                "answer: root mean square distance of {} from ddim with all T = {} steps, in [-1, 1]: 0.0078 is a grey level",
                plural(images, "image"),
                self.timesteps
            ));
        }
        if let Some(check) = self.answer_check {
            notes.push(format!(
                "ddim and heun with all T steps are {} apart: smaller differences mean nothing",
                number(check)
            ));
        }
        if let Some(real) = &self.real {
            notes.push(format!(
                "others: {} of each sampler beside {real}",
                plural(self.images, "image")
            ));
        }
        notes.extend(
            self.features
                .iter()
                .map(|features| format!("features: {features}")),
        );
        if let Some(apart) = self.swd_of_halves {
            notes.push(format!(
                "swd: times 1000; two halves of the real images are {} apart",
                number(apart)
            ));
        }
        notes.push("bold: no other has a better value in as few evaluations".to_owned());
        out::lines(&format!("\n{}\n", notes.join("\n")));
    }
}

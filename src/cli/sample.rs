//! `ddpm sample`.

mod cascade;
mod noise;
mod of_classes;
pub(super) mod record;
mod settings;
mod share;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::args::batch::BatchSize;
use super::args::class::ClassArgs;
use super::args::group::{GroupArgs, as_rank, asked, before_meeting};
use super::args::image_out::{ImageOutput, OutputArgs};
use super::args::load::LoadArgs;
use super::args::sampler::SamplerArgs;
use super::args::start::StartArgs;
use super::args::trajectory::TrajectoryArgs;
use super::made_with::MetadataArg;
use super::out::{detail, say};
use super::outputs::{Outputs, image_name, images_in};
use super::progress::SampleProgress;
use super::show::ShowArg;
use crate::device::Chosen;
use crate::distributed::Place;
use crate::pretrained::{Guided, sampler_settings};
use crate::report::read_png;
use crate::sample::{Images, SamplerKind, Step, batch_labels, sample_batch};
use crate::text::{self, plural};

use cascade::{Cascade, CascadeArgs};
use of_classes::{LABELS, OfClasses};
use record::{Record, Sampled, UnderWay};
use share::{Own, Round, Share};

/// Sample images from a trained model, of this program or another.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm sample runs/NAME -n 64 --out grid.png
  ddpm sample runs/NAME --sampler dpmpp-2m --steps 20
  ddpm sample runs/NAME --init-image photo.png --strength 0.6
  ddpm sample runs/NAME --class cat,dog --guidance 3
  ddpm sample runs/NAME --then runs/UPSCALER
  ddpm sample cifar10_uncond_50M_500K.pt --known improved-cifar10")]
pub(super) struct SampleCommand {
    /// Number of images
    #[arg(short = 'n', long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    number: u64,
    /// Seed; image i depends on (seed, i), and on --batch by rounding alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images per batch; auto for the fastest number that fits
    #[arg(long, default_value = "16", value_name = "N|auto")]
    batch: BatchSize,
    /// With --sampler ddcm: codebook entries per step, a power of two [default: 64]
    #[arg(long, value_name = "K", hide_short_help = true)]
    codebook: Option<u32>,
    /// With --sampler ddcm: seed of the codebooks; --seed chooses their entries [default: 0]
    #[arg(long, value_name = "SEED", hide_short_help = true)]
    codebook_seed: Option<u64>,
    /// Noise from a file instead of --seed: `noise` [steps+1, N, C, H, W] f32, x_T first, then that of each step in
    /// order; for comparison with other programs
    #[arg(long, value_name = "FILE.safetensors", hide_short_help = true)]
    noise: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    metadata: MetadataArg,
    /// Print JSON of what was made: files, settings, seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    show: ShowArg,
    #[command(flatten)]
    trajectory: TrajectoryArgs,
    #[command(flatten)]
    class: ClassArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    cascade: CascadeArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    group: GroupArgs,
}

impl SampleCommand {
    pub(super) fn run(&self) -> Result<()> {
        let place = Place::of_environment()?;
        let chosen = before_meeting(place.as_ref(), || {
            match &place {
                None => self.check_outputs(false)?,
                Some(_) => ensure!(
                    !self.trajectory.given(),
                    "--trajectory and --strip are made by one process; leave them out, or sample without other ranks"
                ),
            }
            self.load.compute.choose_for(place.as_ref())
        })?;
        let group = self.group.join(place, &chosen)?;
        as_rank(group.as_ref(), || {
            if let Some(group) = &group {
                group.compare("command line", &asked(None)?)?;
                group.follow(|| self.check_outputs(false))?;
            }
            self.sample(&chosen, &Share::new(group.as_deref()))
        })
    }

    fn sample(&self, device: &Chosen, share: &Share) -> Result<()> {
        let started = Instant::now();
        let earlier = match (&self.output.separate, share.leads()) {
            (Some(dir), true) => Record::read(dir)?,
            _ => None,
        };
        let uses = self.sampler.uses(SamplerKind::Ddpm);
        let hints = self.sampler.hints();
        let network = self.load.load_as(device, hints, uses, share.leads())?;
        let config = &network.meta.config;
        let measured = || network.measured();
        let mut chosen = self.sampler.choose(config, SamplerKind::Ddpm, measured)?;
        let sampler = sampler_settings(&self.sampler.options(SamplerKind::Ddpm), &chosen);
        let start = (self.start).start(config, &mut chosen.steps, device.device)?;
        let guide = self.class.guidance.load(device)?;
        let guided = self
            .class
            .guidance
            .guided(&network, guide.as_ref(), share.leads())?;
        let classes = self.class.class.classes(config)?;
        let labels = guided.labels(&classes, self.number)?;
        let of_classes = OfClasses::new(config, &classes, labels.as_ref())?;
        if share.leads() {
            self.class.class.tell(config, &classes, self.number);
            self.class.guidance.tell_visited(&chosen.steps.times);
        }
        let wanted = Images {
            noise: self.noise(&chosen, config.model.chw())?,
            numbers: 0..self.number,
            batch: self.batch(&guided, device.device, share, earlier.as_ref())?,
            chw: config.model.chw(),
            device: device.device,
        };
        let sampled = Sampled {
            network: &network,
            chosen: device,
            sampler: &chosen,
            start: &start,
            wanted: &wanted,
            classes: &classes,
            guided: &guided,
        };
        let larger = self.cascade.load(device, share.leads())?;
        let made_first = cascade::Sampled {
            config,
            labels: labels.as_ref(),
            number: self.number,
            seed: self.seed,
            batch: wanted.batch,
        };
        let cascade = (self.cascade).cascade(&larger, &self.sampler, made_first, share.leads())?;
        let chw = cascade.chw();
        let stages = cascade.settings(&self.cascade, &self.sampler)?;
        let made_with = sampled
            .made_with(self, sampler, labels.as_ref())?
            .with_stages(stages, &larger);
        let in_files = self.metadata.wanted(&made_with);
        let under_way = self.begin(&sampled, &cascade, of_classes.as_ref(), share)?;

        let rounds = self.rounds(&wanted, share);
        let own_steps = start.evaluations(chosen.steps.len());
        let steps = own_steps + cascade.steps();
        let to_do = rounds.iter().filter(|round| round.is_to_do()).count();
        let bar = (share.leads())
            .then(|| SampleProgress::new(&share.named("sampling"), (steps * to_do) as u64));
        let sampling = Instant::now();
        let mut output = self.output.open(in_files);
        let mut trajectory = self.trajectory.open(own_steps);
        for round in &rounds {
            let made = match &round.own {
                Own::ToDo(numbers) => {
                    let labels = batch_labels(labels.as_ref(), numbers, device.device);
                    let denoiser = guided.denoiser(labels);
                    let process = chosen.process(&denoiser, &config.diffusion);
                    let mut on_step = |step: Step| {
                        bar.iter().for_each(SampleProgress::step);
                        trajectory.see(&step);
                    };
                    let sampler = &chosen.sampler;
                    let x_0 =
                        sample_batch(&process, sampler, &start, &wanted, numbers, &mut on_step)?;
                    let mut on_step = |_: Step| bar.iter().for_each(SampleProgress::step);
                    let x_0 = cascade.upscale(x_0, numbers, &mut on_step)?;
                    output.write_separate(numbers.start, &x_0)?;
                    Some(x_0)
                }
                Own::Done(numbers) => self.read_again(numbers, chw)?,
                Own::Nothing => None,
            };
            let form = (wanted.batch, chw);
            share.collect(round, made, form, &mut output, self.output.kept_kind())?;
            trajectory.end_batch();
        }
        bar.iter().for_each(SampleProgress::finish);
        let sampled_in = sampling.elapsed().as_secs_f64();
        detail(&format!("sampling took {sampled_in:.2} s"));
        trajectory.finish(in_files)?;
        share.await_all()?;
        if share.leads() {
            self.show_classes(&mut output, of_classes.as_ref());
            let grid = output.finish(self.number, format!("step {}", network.meta.step))?;
            grid.map_or(Ok(()), |grid| self.show.show(grid.view()))?;
        }
        under_way.map_or(Ok(()), UnderWay::end)?;
        match self.json && share.leads() {
            true => self.print_json(&made_with, started.elapsed()),
            false => Ok(()),
        }
    }

    /// Images in a batch: those of the interrupted sampling for `auto`, which may find others each time. The leading
    /// process tries, while the others wait.
    fn batch(
        &self,
        network: &Guided,
        device: Device,
        share: &Share,
        earlier: Option<&Record>,
    ) -> Result<u64> {
        let room = share.room(device)?;
        share.number(|| match (self.batch, earlier.and_then(Record::batch)) {
            (BatchSize::Auto, Some(batch)) if !self.output.force.force => Ok(batch),
            _ => self.batch.resolve(network, device, self.number, room),
        })
    }

    /// Checks that all ranks sample the same, and has the folder of separate images made or found as it was left. Only
    /// the process that does it holds it.
    fn begin(
        &self,
        sampled: &Sampled,
        cascade: &Cascade,
        of_classes: Option<&OfClasses>,
        share: &Share,
    ) -> Result<Option<UnderWay>> {
        let dir = self.output.separate.as_deref();
        if dir.is_none() && share.is_whole() {
            return Ok(None);
        }
        let record = sampled.record(cascade.record()?)?;
        share.compare(&record)?;
        let mut under_way = None;
        share.follow(|| {
            if let Some(dir) = dir {
                let has_labels = of_classes.is_some();
                under_way = Some(self.begin_in(dir, &record, has_labels, share.is_again())?);
                // Known from the start, and so there for the images of one that is interrupted, too.
                of_classes.map_or(Ok(()), |classes| classes.write(dir))?;
            }
            Ok(())
        })?;
        Ok(under_way)
    }

    /// `again`: torchrun has started this command before, which --force does not undo. With `has_labels` a list of them
    /// is written too.
    fn begin_in(
        &self,
        dir: &Path,
        record: &Record,
        has_labels: bool,
        again: bool,
    ) -> Result<UnderWay> {
        let earlier = Record::read(dir)?;
        // Loading takes its time: others may have been here meanwhile. A list beside a record is ours.
        self.check_outputs(has_labels && earlier.is_none())?;
        let mut there = images_in(dir, self.number)?;
        match earlier {
            Some(earlier) if !self.output.force.force || (again && earlier == *record) => {
                let under_way = UnderWay::go_on(dir, &earlier, record)?;
                let (images, dir) = (plural(self.number, "image"), text::path(dir));
                say(&format!(
                    "going on: {} of {images} are in {dir}",
                    there.len()
                ));
                if !self.may_skip() {
                    say(
                        "note: all are sampled again, as --out-tensor, --trajectory and --strip need more \
                         than their files",
                    );
                }
                Ok(under_way)
            }
            _ => {
                // One of other images would be taken for that of these.
                let list = dir.join(LABELS);
                if has_labels {
                    there.push(list);
                } else if list.exists() {
                    say(&format!(
                        "warning: {} is not of these images, which have no classes",
                        text::path(&list)
                    ));
                }
                UnderWay::begin(dir, record, &there)
            }
        }
    }

    /// Gives the grid a row for each of several classes asked for, or says which images are of which.
    fn show_classes(&self, output: &mut ImageOutput, of_classes: Option<&OfClasses>) {
        let Some(classes) = of_classes else { return };
        match classes.rows().filter(|_| self.class.class.given()) {
            Some(rows) => output.by_rows(rows),
            None => classes.line().iter().for_each(|line| say(line)),
        }
    }

    /// What this process has to do: of each round of batches, one a rank.
    fn rounds(&self, wanted: &Images, share: &Share) -> Vec<Round> {
        let dir = self.output.separate.as_deref().filter(|_| self.may_skip());
        let is_there = |numbers: &Range<u64>| match dir {
            Some(dir) => (numbers.clone()).all(|number| dir.join(image_name(number)).is_file()),
            None => false,
        };
        share.rounds(wanted.batches(), is_there)
    }

    /// True if images whose files are there need not be sampled again.
    fn may_skip(&self) -> bool {
        self.output.kept_kind() != Some(Kind::Float) && !self.trajectory.given()
    }

    /// The pixels of images whose files are there, if they are wanted, `[N, C, H, W]` u8.
    fn read_again(&self, numbers: &Range<u64>, chw: [i64; 3]) -> Result<Option<Tensor>> {
        let (Some(dir), Some(_)) = (&self.output.separate, self.output.kept_kind()) else {
            return Ok(None);
        };
        let read = |number: u64| {
            let path = dir.join(image_name(number));
            let image = Tensor::try_from(read_png(&path, chw[0])?)?.permute([2, 0, 1]);
            ensure!(
                image.size() == chw,
                "{} is another image than the network makes; remove it and go on",
                path.display()
            );
            Ok(image)
        };
        let images: Vec<Tensor> = numbers.clone().map(read).collect::<Result<_>>()?;
        Ok(Some(Tensor::stack(&images, 0)))
    }

    fn check_outputs(&self, has_labels: bool) -> Result<()> {
        ensure!(
            !(self.cascade.given() && self.trajectory.given()),
            "--trajectory and --strip show the work of one network; leave out --then"
        );
        let mut outputs = Outputs::new(self.output.force);
        outputs.reads(self.load.files());
        outputs.reads(self.start.files().chain(&self.noise));
        outputs.reads(self.class.guidance.files());
        outputs.reads(self.cascade.files());
        self.output.declare(self.number, &mut outputs);
        if let (Some(dir), true) = (&self.output.separate, has_labels) {
            outputs.writes("--separate", &dir.join(LABELS), &["csv"], None);
        }
        self.trajectory.declare(&mut outputs)?;
        outputs.may_go_on();
        outputs.prints(self.json, "--json")?;
        outputs.prints(self.show.given(), "--show")?;
        (self.show).check(self.output.has_grid(), self.json)?;
        outputs.check()
    }
}

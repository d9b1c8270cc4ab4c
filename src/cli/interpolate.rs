//! `ddpm interpolate`.

use std::f64::consts::FRAC_PI_2;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use ndarray::s;
use tch::{Device, Kind, Tensor};

use super::args::class::{ClassArgs, in_turn};
use super::args::image_in::read_images;
use super::args::load::LoadArgs;
use super::args::sampler::SamplerArgs;
use super::made_with::{MadeWith, MetadataArg, as_given};
use super::out::say;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use crate::cli::progress::SampleProgress;
use crate::config::RunConfig;
use crate::images::to_array;
use crate::pretrained::{Guided, sampler_settings};
use crate::report::{InterpolationSettings, beside, grid_of_columns, write_png_with};
use crate::rng::image_noise;
use crate::sample::{Classes, SamplerKind};
use crate::sample::{OnStep, Process, Respaced, Step, ddim_invert, mixing};
use crate::text::plural;

/// White columns between a row's ends and its interpolations, in pixels, as in the original.
const GAP: usize = 10;
/// The figure's name without --out.
const DEFAULT_FIGURE: &str = "interpolation.png";

/// Interpolate between two images, or between two latents.
///
/// Pairs of images are mixed linearly, noised to --t0 and denoised. With --latent their DDIM inversions are mixed
/// by spherical interpolation instead; without images, pairs of random latents are. One row per pair. With two classes,
/// what the network says is mixed, too, from the first to the second.
#[derive(Debug, Args)]
pub(super) struct InterpolateCommand {
    /// Images, two for each row
    #[arg(value_name = "A.png B.png", index = 2)]
    images: Vec<PathBuf>,
    /// Images per row, both ends included
    #[arg(short = 'k', long = "count", default_value_t = 8, value_name = "K", value_parser = clap::value_parser!(u16).range(2..=1000))]
    count: u16,
    /// Time step that mixed images are noised to; higher values vary more from the inputs [default: T / 2]
    #[arg(long, value_name = "T", conflicts_with = "latent")]
    t0: Option<i64>,
    /// Interpolate latents spherically, and sample with ddim unless --sampler is given
    #[arg(long)]
    latent: bool,
    /// Number of rows, with --latent and without images
    #[arg(short = 'n', long, default_value_t = 4, requires = "latent", conflicts_with = "images", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rows: u16,
    /// Seed of the noise and of random latents
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    class: ClassArgs,
    /// Figure to write
    #[arg(
        short,
        long,
        value_name = "FILE.png",
        default_value = DEFAULT_FIGURE,
        value_parser = path_or_stdout()
    )]
    out: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    metadata: MetadataArg,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// The ends that rows are interpolated between.
enum Ends {
    /// Images `[2 * rows, C, H, W]`.
    Images(Tensor),
    /// The latents of such images `[2 * rows, C, H, W]`.
    Inverted(Tensor),
    /// Random latents, for this number of rows.
    Random(u16),
}

impl InterpolateCommand {
    pub(super) fn run(&self) -> Result<()> {
        self.check()?;
        let kind = if self.latent {
            SamplerKind::Ddim
        } else {
            SamplerKind::Ddpm
        };
        let uses = self.sampler.uses(kind);
        let (network, device) = self.load.load(self.sampler.hints(), uses)?;
        let config = &network.meta.config;
        let measured = || network.measured();
        let mut chosen = self.sampler.choose(config, kind, measured)?;
        let sampler = sampler_settings(&self.sampler.options(kind), &chosen);
        let ends = self.ends(config, device.device)?;
        if let Ends::Images(_) = ends {
            chosen.steps = self.below_t0(&chosen.steps, config.diffusion.timesteps)?;
        }
        let guide = self.class.guidance.load(&device)?;
        let guided = self.class.guidance.guided(&network, guide.as_ref(), true)?;
        let classes = self.class.class.chosen(&guided)?;
        self.class.guidance.tell_visited(&chosen.steps.times);
        ensure!(
            classes.len() <= 2,
            "--class: want one class, or two to go from the first to the second"
        );
        let made_with = MadeWith::new(&guided, sampler, &device)?;
        let made_with = self.made_with(made_with, &guided, &classes)?;
        let denoiser = |x: &Tensor, t: &Tensor| between(&guided, &classes, x, t);
        let process = chosen.process(&denoiser, &network.meta.config.diffusion);

        let draw =
            |numbers, k| image_noise(self.seed, numbers, k, config.model.chw(), device.device);
        let evaluations = process.steps.len() as u64 * ends.rows() * ends.passes();
        let bar = SampleProgress::new("interpolating", evaluations);
        let mut on_step = |_: Step| bar.step();
        let mut between = Vec::new();
        for row in 0..ends.rows() {
            let count = u64::from(self.count);
            let mut noise = |k| draw(row * count..(row + 1) * count, k);
            let latents = || draw(2 * row..2 * row + 2, 0);
            let x_start = self.start(&process, ends.pair(row, latents), noise(0), &mut on_step);
            let sampler = &chosen.sampler;
            between.push(sampler.run(&process, x_start, &mut noise, &mut on_step));
            process.check_finite()?;
        }
        bar.finish();
        self.write(
            &Tensor::cat(&between, 0),
            &ends,
            self.metadata.wanted(&made_with),
        )
    }

    /// What the figure is made with, from what all commands say.
    fn made_with(&self, all: MadeWith, guided: &Guided, classes: &[i64]) -> Result<MadeWith> {
        let config = guided.network().config();
        let labels = in_turn(classes, classes.len());
        let of_ends = InterpolationSettings {
            to_seed: None,
            rows: match self.images.len() as u64 {
                0 => self.rows.into(),
                images => images / 2,
            },
            count: self.count.into(),
            latent: self.latent,
            t0: (!self.latent).then(|| self.t0.unwrap_or(config.diffusion.timesteps / 2)),
            images: self.images.iter().map(|image| as_given(image)).collect(),
        };
        let all = all.with(|all| {
            all.seed = Some(self.seed);
            all.interpolation = Some(of_ends);
        });
        all.with_classes(config, &Classes::These(classes.to_vec()), labels.as_ref())
    }

    /// Refuses unusable flags before the long work.
    fn check(&self) -> Result<()> {
        ensure!(
            self.latent || !self.images.is_empty(),
            "want two images for each row, or --latent for rows of random latents"
        );
        ensure!(
            self.images.len().is_multiple_of(2),
            "{}, want two for each row",
            plural(self.images.len() as u64, "image")
        );
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain(&self.images));
        outputs.reads(self.class.guidance.files());
        outputs.writes("--out", &self.out, &["png"], Some(DEFAULT_FIGURE));
        outputs.check()
    }

    fn ends(&self, config: &RunConfig, device: Device) -> Result<Ends> {
        if self.images.is_empty() {
            return Ok(Ends::Random(self.rows));
        }
        let x_0 = read_images(&self.images, &config.model, &config.data)?.to_device(device);
        Ok(if self.latent {
            Ends::Inverted(x_0)
        } else {
            Ends::Images(x_0)
        })
    }

    /// The visited steps up to --t0.
    fn below_t0(&self, steps: &Respaced, timesteps: i64) -> Result<Respaced> {
        let t0 = self.t0.unwrap_or(timesteps / 2);
        ensure!(
            (0..timesteps).contains(&t0),
            "--t0 {t0}: want 0 to {}, the time steps of this model",
            timesteps - 1
        );
        let walked = steps.times.iter().filter(|t| **t <= t0).count();
        if walked == 0 {
            bail!(
                "--t0 {t0} is below all visited time steps, of which t = {} is the least noisy; raise --t0, or visit more \
                 (--steps)",
                steps.times[0]
            );
        }
        Ok(steps.truncated(walked))
    }

    /// Start of the reverse process of a row, `[count, C, H, W]`.
    fn start(&self, process: &Process, pair: Pair, noise: Tensor, on_step: &mut OnStep) -> Tensor {
        let count = usize::from(self.count);
        let arc = |z: &Tensor, angle| mixing::spherical(&z.get(0), &z.get(1), count, angle);
        match pair {
            Pair::Images(x_0) => {
                let (signal, share) = process.steps.signal_and_noise(process.steps.len() - 1);
                mixing::linear(&x_0.get(0), &x_0.get(1), count) * signal + noise * share
            }
            Pair::Inverted(x_0) => {
                let z = ddim_invert(process, x_0, on_step);
                arc(&z, mixing::angle(&z.get(0), &z.get(1)))
            }
            Pair::Random(z) => arc(&z, FRAC_PI_2),
        }
    }

    /// The figure: rows of images from one end to the other, between the ends where those are images.
    fn write(&self, between: &Tensor, ends: &Ends, made_with: Option<&MadeWith>) -> Result<()> {
        let rows = grid_of_columns(to_array(between).view(), self.count.into());
        let figure = match ends {
            Ends::Random(_) => rows,
            Ends::Images(x_0) | Ends::Inverted(x_0) => {
                let images = to_array(x_0);
                let column = |first: usize| {
                    let every_second = images.slice(s![first..;2, .., .., ..]);
                    grid_of_columns(every_second, 1)
                };
                beside(&[column(0), rows, column(1)], GAP)
            }
        };
        let settings = made_with.map(MadeWith::of_figure).transpose()?;
        write_png_with(&self.out, figure.view(), settings.as_deref())?;
        say(&format!(
            "{} of {} in {}",
            plural(ends.rows(), "row"),
            self.count,
            self.out.display()
        ));
        Ok(())
    }
}

/// What the network says of the images of a row, from one end to the other: under one class, or from the first of two to
/// the second, as the images are mixed.
fn between(guided: &Guided, classes: &[i64], x: &Tensor, t: &Tensor) -> Tensor {
    let images = x.size()[0];
    let of = |classes: &[i64]| {
        let labels = in_turn(classes, images as usize);
        let labels = labels.map(|labels| labels.to_device(x.device()));
        guided.predict(x, t, labels.as_ref())
    };
    match classes {
        [first, second] => {
            let share = Tensor::linspace(0.0, 1.0, images, (Kind::Float, x.device()));
            of(&[*first]).lerp_tensor(&of(&[*second]), &share.view([-1, 1, 1, 1]))
        }
        one => of(one),
    }
}

/// The two ends of one row, `[2, C, H, W]`.
enum Pair {
    Images(Tensor),
    Inverted(Tensor),
    Random(Tensor),
}

impl Ends {
    fn rows(&self) -> u64 {
        match self {
            Ends::Images(x_0) | Ends::Inverted(x_0) => x_0.size()[0] as u64 / 2,
            Ends::Random(rows) => u64::from(*rows),
        }
    }

    /// Passes over the steps: inversions run forwards and back.
    fn passes(&self) -> u64 {
        match self {
            Ends::Inverted(_) => 2,
            Ends::Images(_) | Ends::Random(_) => 1,
        }
    }

    fn pair(&self, row: u64, latents: impl FnOnce() -> Tensor) -> Pair {
        let of_row = |x_0: &Tensor| x_0.narrow(0, 2 * row as i64, 2);
        match self {
            Ends::Images(x_0) => Pair::Images(of_row(x_0)),
            Ends::Inverted(x_0) => Pair::Inverted(of_row(x_0)),
            Ends::Random(_) => Pair::Random(latents()),
        }
    }
}

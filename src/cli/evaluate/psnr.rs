//! `ddpm evaluate psnr`.

use anyhow::{Result, ensure};
use clap::Args;
use ndarray::{ArrayView3, Axis};
use serde::Serialize;

use super::images::{ImageBatch, ImagesArgs, Measured};
use super::ranks::Ranks;
use super::table::{aligned, shown};
use crate::cli::args::class::GuidanceArgs;
use crate::cli::args::group::GroupArgs;
use crate::cli::args::load::{LoadArgs, weights_line};
use crate::cli::args::sampler::SamplerArgs;
use crate::cli::args::upscaling::{UPSCALING_SAMPLER, UpscalingArgs};
use crate::cli::out;
use crate::cli::outputs::{ForceArg, Outputs};
use crate::config::UpscaleConfig;
use crate::device::Chosen;
use crate::diffusion::LowResolution;
use crate::evaluate::Mean;
use crate::images::to_array;
use crate::pretrained::Upscaler;
use crate::report::psnr_db;
use crate::sample::Step;
use crate::text::plural;

/// How near images that are made larger come to what they were, beside bicubic interpolation.
///
/// Each image is made as small as in training, without noise, and large again. The peak signal-to-noise ratio is that of its
/// 8-bit values, in dB; more is nearer. A sampler that draws details that may have been there is farther from what was there
/// than one that leaves them out: PSNR does not tell which looks better.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate psnr runs/UPSCALER
  ddpm evaluate psnr runs/UPSCALER --data held-out -n 200 --steps 50")]
pub(in crate::cli) struct PsnrCommand {
    #[command(flatten)]
    images: ImagesArgs,
    /// Print JSON, with the numbers of each image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    upscaling: UpscalingArgs,
    #[command(flatten)]
    guidance: GuidanceArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    group: GroupArgs,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    weights: String,
    data: &'a str,
    sampler: String,
    steps: usize,
    seed: u64,
    images: usize,
    /// Of them, those that one of the two brings back to the last bit: they have no PSNR, and count in no mean.
    exact: usize,
    psnr_db: Mean,
    bicubic_psnr_db: Mean,
    /// By how much the network's is more.
    more_db: Mean,
    each: Vec<OfImage>,
}

/// The values of an image; none where it comes back to the last bit.
#[derive(Clone, Copy, Serialize)]
struct OfImage {
    /// Its number in the data set.
    image: u64,
    psnr_db: f64,
    bicubic_psnr_db: f64,
}

impl OfImage {
    fn is_finite(&self) -> bool {
        self.psnr_db.is_finite() && self.bicubic_psnr_db.is_finite()
    }
}

impl PsnrCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let check = || {
            let mut outputs = Outputs::new(ForceArg::default());
            outputs.reads(self.load.files().chain(&self.images.data));
            outputs.reads(self.guidance.files());
            outputs.check()
        };
        Ranks::run(&self.load.compute, self.group, check, |chosen, ranks| {
            self.measure(chosen, ranks)
        })
    }

    fn measure(&self, chosen: &Chosen, ranks: &Ranks) -> Result<()> {
        let uses = self.sampler.uses(UPSCALING_SAMPLER);
        let network = (self.load).load_as(chosen, self.sampler.hints(), uses, ranks.leads())?;
        let guide = self.guidance.load(chosen)?;
        let guided = self.guidance.guided_upscaling(&network, guide.as_ref())?;
        let upscaler = self
            .upscaling
            .upscaler(guided, &self.sampler, ranks.leads())?;
        let upscaler = upscaler.with_batch(self.images.batch);
        self.guidance.tell_visited(&upscaler.sampler().steps.times);
        let images = self.images.load(&network, ranks.leads())?;
        ranks.compare(&network, &images)?;
        let each = self.of_each(&upscaler, &images, ranks)?;
        if !ranks.leads() {
            return Ok(());
        }
        let counted: Vec<OfImage> = each.iter().copied().filter(OfImage::is_finite).collect();
        ensure!(
            !counted.is_empty(),
            "all {} come back to the last bit, and have no PSNR; measure other images",
            plural(each.len() as u64, "image")
        );
        let of = |value: &dyn Fn(&OfImage) -> f64| {
            Mean::of(&counted.iter().map(value).collect::<Vec<f64>>())
        };
        let printed = Printed {
            weights: weights_line(&network, self.load.which(), &self.load.checkpoint),
            data: images.origin(),
            sampler: upscaler.sampler().kind.name(),
            steps: upscaler.sampler().steps.len(),
            seed: self.images.seed,
            images: each.len(),
            exact: each.len() - counted.len(),
            psnr_db: of(&|of| of.psnr_db),
            bicubic_psnr_db: of(&|of| of.bicubic_psnr_db),
            more_db: of(&|of| of.psnr_db - of.bicubic_psnr_db),
            each,
        };
        match self.json {
            true => out::json(&serde_json::to_string(&printed)?),
            false => out::lines(&table(&printed)),
        }
        Ok(())
    }

    /// The number of each image, its PSNR, and that of bicubic interpolation; of none but in the leading process.
    fn of_each(
        &self,
        upscaler: &Upscaler,
        images: &Measured,
        ranks: &Ranks,
    ) -> Result<Vec<OfImage>> {
        let device = upscaler.guided().network().device();
        let steps = upscaler.sampler().steps.len();
        let mut each = vec![];
        ranks.measure(
            "upscaling",
            (images, device),
            (2, steps),
            |batch, step| self.of_batch(upscaler, batch, step),
            |numbers, values| {
                let of = |(number, pair): (&u64, &[f64])| OfImage {
                    image: *number,
                    psnr_db: pair[0],
                    bicubic_psnr_db: pair[1],
                };
                each.extend(numbers.iter().zip(values.chunks(2)).map(of));
                Ok(())
            },
        )?;
        Ok(each)
    }

    /// Both values of each image of a batch.
    fn of_batch(
        &self,
        upscaler: &Upscaler,
        batch: &ImageBatch,
        step: &mut dyn FnMut(),
    ) -> Result<Vec<f64>> {
        let low = upscaler.shrink(&batch.x_0);
        let classes = batch.classes.as_ref();
        let mut on_step = |_: Step| step();
        let seed = self.images.seed;
        let large = upscaler.upscale(&low, classes, seed, &batch.numbers, &mut on_step)?;
        let cubic = UpscaleConfig::by(upscaler.factor());
        let bicubic = LowResolution::new(&cubic).enlarge(&low);
        let [was, large, bicubic] = [&batch.x_0, &large, &bicubic].map(to_array);
        let images = was.axis_iter(Axis(0)).zip(large.axis_iter(Axis(0)));
        let pairs = images.zip(bicubic.axis_iter(Axis(0)));
        let of = |((was, large), bicubic): ((ArrayView3<u8>, _), _)| {
            [psnr_db(was, large), psnr_db(was, bicubic)]
        };
        Ok(pairs.flat_map(of).collect())
    }
}

fn table(printed: &Printed) -> String {
    let row = |name: &str, mean: &Mean| vec![name.to_owned(), shown(mean)];
    let mut text = aligned(&[
        vec![
            format!(
                "PSNR of {}, dB ± standard error",
                plural(printed.images as u64, "image")
            ),
            String::new(),
        ],
        row("  network", &printed.psnr_db),
        row("  bicubic", &printed.bicubic_psnr_db),
        row("  network more than bicubic", &printed.more_db),
    ]);
    if printed.exact > 0 {
        let exact = plural(printed.exact as u64, "image");
        text += &format!("without {exact} that come back to the last bit\n");
    }
    text += &format!(
        "by {} at {}\n",
        printed.sampler,
        plural(printed.steps as u64, "step")
    );
    text
}

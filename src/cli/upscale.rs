//! `ddpm upscale`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ndarray::Axis;
use tch::Tensor;

use super::args::batch::{BatchSize, Room};
use super::args::class::{ClassArgs, in_turn};
use super::args::image_in::read_whole;
use super::args::load::LoadArgs;
use super::args::sampler::SamplerArgs;
use super::args::upscaling::{UPSCALING_SAMPLER, UpscalingArgs};
use super::made_with::{MadeWith, MetadataArg};
use super::out::say;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use super::progress::SampleProgress;
use crate::images::to_array;
use crate::pretrained::Upscaler;
use crate::report::write_png_with;
use crate::sample::{Classes, Step};
use crate::text::{self, plural};

/// Make images larger, with a network trained by `ddpm train --upscale`.
///
/// Images may have any size. What is larger than the images of the training is made in overlapping tiles.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm upscale runs/NAME photo.png
  ddpm upscale runs/NAME *.jpg --out large --steps 50
  ddpm upscale runs/NAME photo.png --out large.png --sampler ddpm --condition-noise 0.1")]
pub(super) struct UpscaleCommand {
    /// Images, each made as many times larger as the network was trained for
    #[arg(index = 2, required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A PNG file for one image, or a folder for one or more [default: NAME-4x.png beside each, for a factor of 4]
    ///
    /// A name without an ending is that of a folder, which is made.
    #[arg(short, long, value_name = "FILE.png|DIR", value_parser = path_or_stdout())]
    out: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    metadata: MetadataArg,
    /// Seed; image i depends on (seed, i), and on --batch by rounding alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tiles of an image, or images of one tile, per batch; auto for the fastest number that fits
    #[arg(long, default_value = "16", value_name = "N|auto")]
    batch: BatchSize,
    #[command(flatten)]
    upscaling: UpscalingArgs,
    #[command(flatten)]
    class: ClassArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// An image to be made larger.
struct Small {
    path: PathBuf,
    /// `[C, h, w]` f32 in [-1, 1].
    image: Tensor,
    out: PathBuf,
}

impl UpscaleCommand {
    pub(super) fn run(&self) -> Result<()> {
        let uses = self.sampler.uses(UPSCALING_SAMPLER);
        let (network, chosen) = self.load.load(self.sampler.hints(), uses)?;
        let config = network.config();
        let guide = self.class.guidance.load(&chosen)?;
        let guided = (self.class.guidance).guided_upscaling(&network, guide.as_ref())?;
        let classes = self.class.class.chosen(&guided)?;
        let labels = in_turn(&classes, self.images.len());
        let upscaler = self.upscaling.upscaler(guided, &self.sampler, true)?;
        let times = &upscaler.sampler().steps.times;
        self.class.guidance.tell_visited(times);
        let outs = self.outs(upscaler.factor())?;
        let read = |(path, out): (&PathBuf, PathBuf)| -> Result<Small> {
            Ok(Small {
                path: path.clone(),
                image: read_whole(path, &config.model, &config.data, upscaler.factor())?,
                out,
            })
        };
        let images: Vec<Small> = (self.images.iter().zip(outs))
            .map(read)
            .collect::<Result<_>>()?;
        let tiles = images
            .iter()
            .map(|small| upscaler.tiles(small.size()).1 as u64);
        let (guided, room) = (upscaler.guided(), Room::default());
        let batch = (self.batch).resolve(guided, chosen.device, tiles.sum(), room)?;
        let upscaler = upscaler.with_batch(batch);
        let stage = self.upscaling.settings(&upscaler, &self.sampler)?;
        let made_with = MadeWith::new(upscaler.guided(), stage.sampler.clone(), &chosen)?
            .with_classes(config, &Classes::These(classes), labels.as_ref())?
            .with(|all| {
                all.seed = Some(self.seed);
                all.batch = Some(batch);
                all.then = vec![stage];
            });
        self.upscale(&upscaler, &images, (labels.as_ref(), batch), &made_with)
    }

    fn upscale(
        &self,
        upscaler: &Upscaler,
        images: &[Small],
        (labels, batch): (Option<&Tensor>, u64),
        made_with: &MadeWith,
    ) -> Result<()> {
        let parts = of_one_size(upscaler, images, batch);
        let steps = upscaler.sampler().steps.len();
        let bar = SampleProgress::new("upscaling", (steps * parts.len()) as u64);
        let mut on_step = |_: Step| bar.step();
        for numbers in parts {
            let some = &images[numbers.clone()];
            let low: Vec<&Tensor> = some.iter().map(|small| &small.image).collect();
            let low = Tensor::stack(&low, 0);
            let labels =
                labels.map(|labels| labels.narrow(0, numbers.start as i64, some.len() as i64));
            let numbers: Vec<u64> = numbers.map(|number| number as u64).collect();
            let large = upscaler.upscale(&low, labels.as_ref(), self.seed, &numbers, &mut on_step);
            let large = large.with_context(|| format!("cannot upscale {}", named(some)))?;
            let large = to_array(&large);
            for ((small, number), image) in some.iter().zip(numbers).zip(large.axis_iter(Axis(0))) {
                if let Some(dir) = small.out.parent().filter(|dir| *dir != Path::new("")) {
                    fs_err::create_dir_all(dir)?;
                }
                let settings = self.metadata.wanted(made_with);
                let settings = settings.map(|made| made.of_file(number, &small.path));
                write_png_with(&small.out, image, settings.transpose()?.as_deref())?;
                small.tell(upscaler);
            }
        }
        bar.finish();
        Ok(())
    }

    /// Where each image is written, checked.
    ///
    /// # Errors
    /// A place that cannot be written, or must not be.
    fn outs(&self, factor: i64) -> Result<Vec<PathBuf>> {
        let is_folder = |out: &&PathBuf| out.is_dir() || out.extension().is_none() && !out.exists();
        let folder = self.out.as_ref().filter(is_folder);
        let file = self.out.as_ref().filter(|_| folder.is_none());
        ensure!(
            file.is_none() || self.images.len() == 1,
            "--out {} is one file, and there are {}; name a folder",
            text::path(file.map_or(Path::new(""), PathBuf::as_path)),
            plural(self.images.len() as u64, "image")
        );
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain(&self.images));
        outputs.reads(self.class.guidance.files());
        if let Some(dir) = folder.filter(|dir| !dir.exists()) {
            outputs.fills("--out", dir, 0);
        }
        let mut outs: Vec<PathBuf> = vec![];
        for image in &self.images {
            let name = image.file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{name}-{factor}x.png");
            let out = match (file, folder) {
                (Some(file), _) => file.clone(),
                (None, Some(dir)) => dir.join(name),
                (None, None) => image.with_file_name(name),
            };
            if let Some(place) = outs.iter().position(|other| *other == out) {
                bail!(
                    "{} and {} would both become {}; rename one, or make them larger one by one with --out FILE.png",
                    text::path(&self.images[place]),
                    text::path(image),
                    text::path(&out)
                );
            }
            outputs.writes("--out", &out, &["png"], None);
            outs.push(out);
        }
        outputs.check()?;
        Ok(outs)
    }
}

impl Small {
    /// Height and width.
    fn size(&self) -> [i64; 2] {
        [1, 2].map(|axis| self.image.size()[axis])
    }

    fn tell(&self, upscaler: &Upscaler) {
        let [h, w] = self.size();
        let factor = upscaler.factor();
        let tiles = match upscaler.tiles([h, w]) {
            (_, 1) => String::new(),
            ([height, width], count) => format!(", in {count} tiles of {width}x{height}"),
        };
        say(&format!(
            "{}: {w}x{h} to {}x{}{tiles}, in {}",
            text::path(&self.path),
            w * factor,
            h * factor,
            text::path(&self.out)
        ));
    }
}

/// Neighbours of one size that are one tile each, at most `most` at a time; larger ones one by one, as they take memory.
fn of_one_size(upscaler: &Upscaler, images: &[Small], most: u64) -> Vec<std::ops::Range<usize>> {
    let mut parts: Vec<std::ops::Range<usize>> = vec![];
    for (number, small) in images.iter().enumerate() {
        let is_one_tile = upscaler.tiles(small.size()).1 == 1;
        match parts.last_mut() {
            Some(part)
                if is_one_tile
                    && (part.len() as u64) < most
                    && images[part.start].image.size() == small.image.size() =>
            {
                part.end = number + 1;
            }
            _ => parts.push(number..number + 1),
        }
    }
    parts
}

fn named(images: &[Small]) -> String {
    let names: Vec<String> = images.iter().map(|small| text::path(&small.path)).collect();
    names.join(", ")
}

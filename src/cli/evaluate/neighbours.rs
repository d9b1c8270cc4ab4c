//! `ddpm evaluate neighbours`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ndarray::{Array1, Array3, Axis, stack};
use serde::Serialize;
use tch::{Device, Tensor};

use super::source::{Source, SourceArgs, folder_like, training_images};
use super::trained_on::TrainedOn;
use crate::cli::args::run::run_or_latest;
use crate::cli::out::{self, say};
use crate::cli::outputs::{ForceArg, Outputs};
use crate::evaluate::ImageSet;
use crate::evaluate::neighbours::{Copying, Nearest, mirrored, nearest, thumbnail, thumbnails};
use crate::images::to_array;
use crate::report::{grid_of_columns, write_png};
use crate::text::plural;

/// Does a network copy its training images? The nearest training image of each generated one.
///
/// Images are compared as thumbnails of 32x32 pixels; the distance is their root mean square difference, in levels from
/// 0 to 255. A network that has learned by heart makes images that are nearer to its training images than others of the
/// same kind are: --held-out names such others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate neighbours runs/NAME -n 1000 --sampler unipc --held-out photos-held-out
  ddpm evaluate neighbours generated --data photos --out nearest.png")]
pub(in crate::cli) struct NeighboursCommand {
    /// Generated images: a run folder, a checkpoint, or a folder of images
    #[arg(value_name = "IMAGES", value_parser = run_or_latest())]
    generated: PathBuf,
    /// Folder of the training images [default: those of the network]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of images of the same kind that were not trained on [default: what the run held out]
    #[arg(long, value_name = "DIR")]
    held_out: Option<PathBuf>,
    /// Training images also count mirrored [default: if the network was trained on them so]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true)]
    mirrored: Option<bool>,
    /// Nearest training images of each
    #[arg(short = 'k', long, default_value_t = 3, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=100))]
    nearest: u64,
    /// Generated images to list and draw, those nearest to a training image first
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    show: u64,
    /// Draw them: a row for each, the generated image first, then its nearest training images
    #[arg(short, long, value_name = "FILE.png")]
    out: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    generated: String,
    training: String,
    held_out: Option<String>,
    mirrored: bool,
    median_distance: f64,
    held_out_median_distance: Option<f64>,
    nearer_than_half_of_held_out: Option<f64>,
    nearer_than_99_percent_of_held_out: Option<f64>,
    chance: Option<f64>,
    images: Vec<OfImage>,
}

#[derive(Serialize)]
struct OfImage {
    image: String,
    nearest: Vec<Neighbour>,
}

#[derive(Serialize)]
struct Neighbour {
    name: String,
    mirrored: bool,
    distance: f64,
}

/// Levels of a distance of thumbnails.
const LEVELS: f64 = 255.0;

impl NeighboursCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads([&self.generated]);
        outputs.reads(self.data.iter().chain(&self.held_out));
        if let Some(out) = &self.out {
            outputs.writes("--out", out, &["png"], None);
        }
        outputs.check()?;
        let chosen = self.source.compute.choose()?;
        let mut sources = self.source.open(&[&self.generated], &chosen)?;
        let generated = sources.pop().context("a set of images")?;
        let training = match (&self.data, &generated) {
            (Some(data), _) => folder_like(data, &generated, "--data")?,
            (None, Source::Network(network)) => {
                let training = training_images(network.config())?;
                if let Source::Loaded(loaded) = &training {
                    TrainedOn::of(network)?.check_held_out(loaded.loaded(), true)?;
                }
                training
            }
            (None, _) => bail!("name the folder of the training images with --data DIR"),
        };
        let held_out = match &self.held_out {
            Some(dir) => Some(folder_like(dir, &generated, "--held-out")?),
            None => None,
        };
        self.compare(&generated, &training, held_out.as_ref())
    }

    fn compare(
        &self,
        generated: &Source,
        training: &Source,
        held_out: Option<&Source>,
    ) -> Result<()> {
        let is_mirrored = self.mirrored.unwrap_or(match generated {
            Source::Network(network) => network.config().data.flip,
            _ => false,
        });
        let (base, chw, training_origin) = self.base(training, is_mirrored)?;
        let plain = base.size()[0] / if is_mirrored { 2 } else { 1 };
        let k = (self.nearest as usize).min(base.size()[0] as usize);

        let (mut vectors, mut kept) = (Vec::new(), Vec::new());
        let generated_origin = generated.with_images(&self.source, |set| {
            ensure!(
                set.chw() == chw,
                "the images to compare differ in size or channels: {:?} and {chw:?} (C, H, W)",
                set.chw()
            );
            set.for_each(&mut |images| {
                vectors.push(thumbnail(images));
                if self.out.is_some() {
                    kept.push(images.shallow_clone());
                }
                Ok(())
            })?;
            Ok(set.origin())
        })?;
        let found = nearest(&Tensor::cat(&vectors, 0), &base, k, false)?;
        let seen = |set: &dyn ImageSet| Ok((thumbnails(set)?, set.origin()));
        let held = match (held_out, training) {
            (Some(held_out), _) => Some(held_out.with_images(&self.source, seen)?),
            (None, Source::Loaded(loaded)) => match loaded.held_out()? {
                Some(held_out) => Some(seen(&held_out)?),
                None => None,
            },
            (None, _) => None,
        };
        let held = match held {
            Some((vectors, origin)) => Some((nearest(&vectors, &base, 1, false)?, origin)),
            None => None,
        };

        let order = by_distance(&found);
        let name = |place: usize| Neighbour {
            name: training.name(place % plain as usize),
            mirrored: place >= plain as usize,
            distance: 0.0,
        };
        let of_image = |image: &usize| OfImage {
            image: generated.name(*image),
            nearest: (0..k)
                .map(|rank| Neighbour {
                    distance: found.distances[[*image, rank]] * LEVELS,
                    ..name(found.places[[*image, rank]])
                })
                .collect(),
        };
        let own = found.distances.column(0).to_owned();
        let copying = match &held {
            Some((held, origin)) => {
                let theirs = held.distances.column(0).to_owned();
                tell_of_held_out(&theirs, origin);
                Some(Copying::new(&own, &theirs)?)
            }
            None => None,
        };
        let report = Report {
            generated: generated_origin,
            training: training_origin,
            held_out: held.as_ref().map(|(_, origin)| origin.clone()),
            mirrored: is_mirrored,
            median_distance: median(&own) * LEVELS,
            held_out_median_distance: held
                .as_ref()
                .map(|(held, _)| median(&held.distances.column(0).to_owned()) * LEVELS),
            nearer_than_half_of_held_out: copying.as_ref().map(|c| c.nearer_than_half),
            nearer_than_99_percent_of_held_out: copying.as_ref().map(|c| c.nearer_than_99_percent),
            chance: copying.as_ref().map(|c| c.chance),
            images: order.iter().map(of_image).collect(),
        };
        if let Some(out) = &self.out {
            let shown = &order[..order.len().min(self.show as usize)];
            self.draw(out, shown, &kept, &found, training, plain as usize)?;
        }
        match self.json {
            true => out::json(&serde_json::to_string(&report)?),
            false => self.print(&report),
        }
        Ok(())
    }

    /// Thumbnails of the training images, then mirrored ones where they count; their shape, and what they are.
    fn base(&self, training: &Source, is_mirrored: bool) -> Result<(Tensor, [i64; 3], String)> {
        training.with_images(&self.source, |set| {
            let plain = thumbnails(set)?;
            let base = match is_mirrored {
                true => Tensor::cat(&[&plain, &mirrored(&plain, set.chw())], 0),
                false => plain,
            };
            Ok((base, set.chw(), set.origin()))
        })
    }

    fn draw(
        &self,
        out: &std::path::Path,
        shown: &[usize],
        kept: &[Tensor],
        found: &Nearest,
        training: &Source,
        plain: usize,
    ) -> Result<()> {
        let generated = Tensor::cat(kept, 0);
        let mut cells: Vec<Array3<u8>> = Vec::new();
        for image in shown {
            let own = generated.narrow(0, *image as i64, 1).to_device(Device::Cpu);
            cells.push(to_array(&own).index_axis_move(Axis(0), 0));
            for place in found.places.row(*image) {
                let mut near = training.image(place % plain)?;
                if *place >= plain {
                    near.invert_axis(Axis(1));
                }
                cells.push(near);
            }
        }
        let views: Vec<_> = cells.iter().map(|cell| cell.view()).collect();
        let columns = 1 + found.places.ncols();
        write_png(
            out,
            grid_of_columns(stack(Axis(0), &views)?.view(), columns).view(),
        )?;
        say(&format!(
            "{}, each with its nearest training images, in {}",
            plural(shown.len() as u64, "generated image"),
            out.display()
        ));
        Ok(())
    }

    fn print(&self, report: &Report) {
        let also = if report.mirrored {
            ", also mirrored"
        } else {
            ""
        };
        out::result(&format!("{}, {}{also}", report.generated, report.training));
        out::result(&format!(
            "distance to the nearest training image: median {:.2} levels",
            report.median_distance
        ));
        match (
            &report.held_out,
            report.held_out_median_distance,
            report.nearer_than_half_of_held_out,
            report.nearer_than_99_percent_of_held_out,
            report.chance,
        ) {
            (Some(held_out), Some(median), Some(half), Some(nearest), Some(chance)) => {
                out::result(&format!(
                    "of held-out images ({held_out}): median {median:.2}"
                ));
                out::result(&format!(
                    "nearer than half of the held-out images: {:.1} % (50 % if nothing is copied)",
                    100.0 * half
                ));
                out::result(&format!(
                    "nearer than 99 % of the held-out images: {:.1} % (1 ± {:.1} % if nothing is copied)",
                    100.0 * nearest,
                    100.0 * chance
                ));
            }
            _ => out::result(
                "how near is near? --held-out DIR compares with images that were not trained on",
            ),
        }
        for image in report.images.iter().take(self.show as usize) {
            let near: Vec<String> = image.nearest.iter().map(named).collect();
            out::result(&format!("  {}: {}", image.image, near.join(", ")));
        }
    }
}

/// Says what makes a comparison with held-out images doubtful.
fn tell_of_held_out(distances: &Array1<f64>, origin: &str) {
    const FEW: usize = 100;
    let trained_on = distances
        .iter()
        .filter(|distance| **distance == 0.0)
        .count() as u64;
    if trained_on > 0 {
        say(&format!(
            "warning: {} of {origin} {} the same as a training image, and not held out",
            plural(trained_on, "image"),
            if trained_on == 1 { "is" } else { "are" }
        ));
    }
    if distances.len() < FEW {
        say(&format!(
            "note: with fewer than {FEW} held-out images, their nearest 1 % is the nearest one, which chance decides"
        ));
    }
}

fn named(near: &Neighbour) -> String {
    let mirrored = if near.mirrored { " mirrored" } else { "" };
    format!("{}{mirrored} {:.2}", near.name, near.distance)
}

/// The generated images, the nearest to a training image first.
fn by_distance(found: &Nearest) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.distances.nrows()).collect();
    order.sort_by(|a, b| found.distances[[*a, 0]].total_cmp(&found.distances[[*b, 0]]));
    order
}

fn median(values: &Array1<f64>) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

//! `ddpm evaluate neighbours`.

mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ndarray::{Array1, Array3, Axis, stack};
use tch::{Device, Tensor};

use self::report::{Neighbour, OfImage, Report};
use super::features::{FeatureArgs, MaybeFeatureArgs};
use super::looks::{Looks, median};
use super::ranks::Ranks;
use super::source::{Source, SourceArgs, folder_like, training_images};
use super::trained_on::TrainedOn;
use crate::cli::args::run::run_or_latest;
use crate::cli::out::{self, say};
use crate::cli::outputs::{ForceArg, Outputs};
use crate::device::Chosen;
use crate::evaluate::ImageSet;
use crate::evaluate::neighbours::{Copying, Nearest, nearest};
use crate::images::to_array;
use crate::report::{grid_of_columns, write_png};
use crate::text::plural;

/// Does a network copy its training images? The nearest training image of each generated one.
///
/// Images are compared as thumbnails of 32x32 pixels; the distance is their root mean square difference, in levels from
/// 0 to 255. With --features it is the Euclidean distance of what a network sees in them. A network that has learned by heart makes images that are nearer to its training images than others of the
/// same kind are: --held-out names such others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate neighbours runs/NAME -n 1000 --sampler unipc --held-out photos-held-out
  ddpm evaluate neighbours generated --data photos --out nearest.png
  ddpm evaluate neighbours runs/NAME --features inception --weights pt_inception-2015-12-05-6726825d.pth")]
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
    features: MaybeFeatureArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// What generated images are compared with.
struct Sets {
    training: Source,
    held_out: Option<Source>,
    /// True if training images count mirrored as well.
    mirrored: bool,
}

/// The training images, and mirrored ones after them.
struct Base {
    /// `[N, d]`.
    vectors: Tensor,
    /// How many are not mirrored.
    plain: usize,
    chw: [i64; 3],
    origin: String,
}

/// The generated images.
struct Made {
    /// `[N, d]`.
    vectors: Tensor,
    /// Their pixels in batches, if they are to be drawn.
    kept: Vec<Tensor>,
    origin: String,
}

impl NeighboursCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let check = || self.check_outputs();
        Ranks::run(
            &self.source.compute,
            self.source.group,
            check,
            |chosen, ranks| self.compare(chosen, ranks),
        )
    }

    fn check_outputs(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads([&self.generated]);
        outputs.reads(self.data.iter().chain(&self.held_out));
        outputs.reads(self.features.chosen().iter().flat_map(FeatureArgs::file));
        if let Some(out) = &self.out {
            outputs.writes("--out", out, &["png"], None);
        }
        outputs.check()
    }

    fn compare(&self, chosen: &Chosen, ranks: &Ranks) -> Result<()> {
        let looks = Looks::new(self.features.chosen(), chosen.device, ranks)?;
        let mut sources = self.source.open(&[&self.generated], chosen)?;
        let generated = sources.pop().context("a set of images")?;
        // Pixels are compared by the leading process alone.
        let compares = ranks.leads() || looks.network.is_some();
        let sets = match compares {
            true => Some(self.sets(&generated)?),
            false => None,
        };
        let training = match &sets {
            Some(sets) => Some(self.base(sets, &looks, ranks)?),
            None => None,
        };
        let made = self.made(&generated, training.as_ref(), &looks, ranks)?;
        let held = match &sets {
            Some(sets) => self.held_out(sets, &looks, ranks)?,
            None => None,
        };
        match (&sets, training, made) {
            (Some(sets), Some(training), Some(made)) if ranks.leads() => {
                self.tell(&generated, sets, &training, &made, held.as_ref(), &looks)
            }
            _ => Ok(()),
        }
    }

    /// Opens what generated images are compared with.
    fn sets(&self, generated: &Source) -> Result<Sets> {
        let training = match (&self.data, generated) {
            (Some(data), _) => folder_like(data, generated, "--data")?,
            (None, Source::Network(network)) => {
                let training = training_images(network.network.config())?;
                if let Source::Loaded(loaded) = &training {
                    TrainedOn::of(&network.network)?.check_held_out(loaded.loaded(), true)?;
                }
                training
            }
            (None, _) => bail!("name the folder of the training images with --data DIR"),
        };
        let held_out = match &self.held_out {
            Some(dir) => Some(folder_like(dir, generated, "--held-out")?),
            None => None,
        };
        let mirrored = self.mirrored.unwrap_or(match generated {
            Source::Network(network) => network.network.config().data.flip,
            _ => false,
        });
        Ok(Sets {
            training,
            held_out,
            mirrored,
        })
    }

    /// The training images, then mirrored ones where they count.
    fn base(&self, sets: &Sets, looks: &Looks, ranks: &Ranks) -> Result<Base> {
        let ranks = looks.ranks(ranks);
        sets.training.with_images(&self.source, ranks, |set| {
            let vectors = match sets.mirrored {
                true => looks.also_mirrored(set)?,
                false => looks.all(set)?,
            };
            Ok(Base {
                plain: vectors.size()[0] as usize / if sets.mirrored { 2 } else { 1 },
                vectors,
                chw: set.chw(),
                origin: set.origin(),
            })
        })
    }

    /// The generated images; all ranks share the work of making them, and the leading one has them.
    fn made(
        &self,
        generated: &Source,
        training: Option<&Base>,
        looks: &Looks,
        ranks: &Ranks,
    ) -> Result<Option<Made>> {
        let all = match looks.network {
            Some(_) => Some(ranks),
            None => generated.sampled_by(ranks),
        };
        let Some(all) = all else {
            return Ok(None);
        };
        let draws = self.out.is_some();
        generated.with_images(&self.source, all, |set| {
            if let Some(Base { chw, .. }) = training {
                ensure!(
                    set.chw() == *chw,
                    "the images to compare differ in size or channels: {:?} and {chw:?} (C, H, W)",
                    set.chw()
                );
            }
            let (mut vectors, mut kept) = (Vec::new(), Vec::new());
            let mut measure = |images: &Tensor| {
                let own = draws.then(|| images.shallow_clone());
                Ok([looks.at(images)?].into_iter().chain(own).collect())
            };
            set.measure(&mut measure, &mut |found| {
                let mut found = found.into_iter().filter(|_| ranks.leads());
                vectors.extend(found.next());
                kept.extend(found);
                Ok(())
            })?;
            Ok((!vectors.is_empty()).then(|| Made {
                vectors: Tensor::cat(&vectors, 0),
                kept,
                origin: set.origin(),
            }))
        })
    }

    /// Images that were not trained on, and what they are.
    fn held_out(
        &self,
        sets: &Sets,
        looks: &Looks,
        ranks: &Ranks,
    ) -> Result<Option<(Tensor, String)>> {
        let ranks = looks.ranks(ranks);
        let seen = |set: &dyn ImageSet| Ok((looks.all(set)?, set.origin()));
        match (&sets.held_out, &sets.training) {
            (Some(held_out), _) => held_out.with_images(&self.source, ranks, seen).map(Some),
            (None, Source::Loaded(loaded)) => match loaded.held_out()? {
                Some(held_out) => ranks.with_shared(&held_out, false, seen).map(Some),
                None => Ok(None),
            },
            (None, _) => Ok(None),
        }
    }

    fn tell(
        &self,
        generated: &Source,
        sets: &Sets,
        training: &Base,
        made: &Made,
        held: Option<&(Tensor, String)>,
        looks: &Looks,
    ) -> Result<()> {
        let base = &training.vectors;
        let k = (self.nearest as usize).min(base.size()[0] as usize);
        let found = nearest(&made.vectors, base, k, false)?;
        let held = match held {
            Some((vectors, origin)) => Some((nearest(vectors, base, 1, false)?, origin)),
            None => None,
        };
        let unit = looks.unit();
        let order = by_distance(&found);
        let neighbour = |place: usize, distance: f64| Neighbour {
            name: sets.training.name(place % training.plain),
            mirrored: place >= training.plain,
            distance: distance * unit,
        };
        let of_image = |image: &usize| OfImage {
            image: generated.name(*image),
            nearest: (0..k)
                .map(|rank| [*image, rank])
                .map(|at| neighbour(found.places[at], found.distances[at]))
                .collect(),
        };
        let own = found.distances.column(0).to_owned();
        let theirs = held.map(|(held, origin)| (held.distances.column(0).to_owned(), origin));
        let copying = match &theirs {
            Some((theirs, origin)) => {
                tell_of_held_out(theirs, origin, looks);
                Some(Copying::new(&own, theirs)?)
            }
            None => None,
        };
        let report = Report {
            features: looks.network.as_ref().map(|network| network.name()),
            generated: made.origin.clone(),
            training: training.origin.clone(),
            held_out: theirs.as_ref().map(|(_, origin)| (*origin).clone()),
            mirrored: sets.mirrored,
            median_distance: median(&own) * unit,
            held_out_median_distance: theirs.as_ref().map(|(theirs, _)| median(theirs) * unit),
            nearer_than_half_of_held_out: copying.as_ref().map(|c| c.nearer_than_half),
            nearer_than_99_percent_of_held_out: copying.as_ref().map(|c| c.nearer_than_99_percent),
            chance: copying.as_ref().map(|c| c.chance),
            images: order.iter().map(of_image).collect(),
        };
        if let Some(out) = &self.out {
            let shown = &order[..order.len().min(self.show as usize)];
            self.draw(
                out,
                shown,
                &made.kept,
                &found,
                &sets.training,
                training.plain,
            )?;
        }
        match self.json {
            true => out::json(&serde_json::to_string(&report)?),
            false => report.print(self.show as usize),
        }
        Ok(())
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
}

/// Says what makes a comparison with held-out images doubtful.
fn tell_of_held_out(distances: &Array1<f64>, origin: &str, looks: &Looks) {
    const FEW: usize = 100;
    let same = looks.same_within(distances);
    let trained_on = distances.iter().filter(|apart| **apart <= same).count() as u64;
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

/// The generated images, the nearest to a training image first.
fn by_distance(found: &Nearest) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.distances.nrows()).collect();
    order.sort_by(|a, b| found.distances[[*a, 0]].total_cmp(&found.distances[[*b, 0]]));
    order
}

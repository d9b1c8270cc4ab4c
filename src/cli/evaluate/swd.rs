//! `ddpm evaluate swd`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::ranks::Ranks;
use super::source::{Source, SourceArgs};
use crate::cli::args::run::run_or_latest;
use crate::cli::out::{self, say};
use crate::device::Chosen;
use crate::evaluate::sliced::{Level, Patches, Sliced, SlicedOptions, baseline, sliced};
use crate::text::plural;

/// Sliced Wasserstein distance of two sets of images, by their details of each size; needs no other network.
///
/// A set is a folder of images, a run folder or checkpoint (its images are sampled as they are measured, and not
/// written), or an .npz file of images (arr_0, uint8 [N, H, W, C]). Beside each distance stands that of one half of B from
/// the other: what two sets of the same kind are apart.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  ddpm evaluate swd runs/NAME photos -n 2000 --sampler dpmpp-2m-sde")]
pub(in crate::cli) struct SwdCommand {
    /// The set to measure, generated images as a rule
    #[arg(value_name = "A", value_parser = run_or_latest())]
    set: PathBuf,
    /// The set to compare with, real images as a rule
    #[arg(value_name = "B", value_parser = run_or_latest())]
    reference: PathBuf,
    /// Patches cut from each image on each level; fewer where there are many images
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096), hide_short_help = true)]
    patches: u64,
    /// Random directions
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536), hide_short_help = true)]
    directions: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    set: String,
    reference: String,
    images: u64,
    reference_images: u64,
    mean: f64,
    baseline: Option<f64>,
    levels: Vec<OfLevel>,
    remarks: Vec<String>,
}

/// Below this, chance decides much of the distance.
const FEW: u64 = 1000;

#[derive(Serialize)]
struct OfLevel {
    height: i64,
    width: i64,
    distance: f64,
    baseline: Option<f64>,
}

impl SwdCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let check = || Ok(());
        Ranks::run(
            &self.source.compute,
            self.source.group,
            check,
            |chosen, ranks| self.compare(chosen, ranks),
        )
    }

    fn compare(&self, chosen: &Chosen, ranks: &Ranks) -> Result<()> {
        let [set, reference] = (self.source).open_both(&self.set, &self.reference, chosen)?;
        let set = self.patches(&set, ranks)?;
        let reference = self.patches(&reference, ranks)?;
        let (Some((set, set_origin)), Some((reference, reference_origin))) = (set, reference)
        else {
            return Ok(());
        };
        let found = sliced(&set, &reference)?;
        // One image has no halves.
        let apart = match reference.images() {
            1 => None,
            _ => Some(baseline(&reference)?),
        };
        let report = Report {
            set: set_origin,
            reference: reference_origin,
            images: set.images(),
            reference_images: reference.images(),
            mean: found.mean,
            baseline: apart.as_ref().map(|apart| apart.mean),
            levels: levels(&found, apart.as_ref()),
            remarks: few(&set, &reference),
        };
        match self.json {
            true => out::json(&serde_json::to_string(&report)?),
            false => report.print(),
        }
        Ok(())
    }

    /// Patches of a set, and what it is, in the leading process: the others help to sample.
    fn patches(&self, source: &Source, ranks: &Ranks) -> Result<Option<(Patches, String)>> {
        let Some(all) = source.sampled_by(ranks) else {
            return Ok(None);
        };
        let options = SlicedOptions {
            patches_per_image: self.patches,
            directions: self.directions,
            seed: self.source.seed,
            ..SlicedOptions::default()
        };
        source.with_images(&self.source, all, |set| {
            if !ranks.leads() {
                return set.for_each(&mut |_| Ok(())).map(|_| None);
            }
            Ok(Some((Patches::of(set, &options)?, set.origin())))
        })
    }
}

/// Says that there are few images.
fn few(set: &Patches, reference: &Patches) -> Vec<String> {
    let both = [("A", set.images()), ("B", reference.images())];
    let few = both.into_iter().filter(|(_, images)| *images < FEW);
    let remark = |(name, images)| {
        let images = plural(images, "image");
        format!(
            "{name} has {images}: with fewer than {FEW}, much of the distance is chance, as that of two halves of B shows"
        )
    };
    few.map(remark).collect()
}

fn levels(found: &Sliced, apart: Option<&Sliced>) -> Vec<OfLevel> {
    let level = |(place, level): (usize, &Level)| OfLevel {
        height: level.height,
        width: level.width,
        distance: level.distance,
        baseline: apart.map(|apart| apart.levels[place].distance),
    };
    found.levels.iter().enumerate().map(level).collect()
}

impl Report {
    fn print(&self) {
        out::result(&format!("A  {}", self.set));
        out::result(&format!("B  {}", self.reference));
        out::result("sliced Wasserstein distance, times 1000 (of two halves of B)");
        let row = |name: &str, distance: f64, baseline: Option<f64>| {
            let halves = baseline.map_or(String::new(), |apart| format!("  ({apart:.2})"));
            out::result(&format!("  {name:<10} {distance:8.2}{halves}"));
        };
        for level in &self.levels {
            let size = format!("{}x{}", level.width, level.height);
            row(&size, level.distance, level.baseline);
        }
        row("mean", self.mean, self.baseline);
        for remark in &self.remarks {
            say(&format!("note: {remark}"));
        }
    }
}

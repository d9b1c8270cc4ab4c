//! `ddpm evaluate fid`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::features::FeatureArgs;
use super::ranks::Ranks;
use super::source::{Source, SourceArgs};
use crate::cli::args::run::run_or_latest;
use crate::cli::out::{self, say};
use crate::device::Chosen;
use crate::evaluate::features::FeatureExtractor;
use crate::evaluate::frechet::{self, Remark};
use crate::evaluate::inception_score::{SCORE_SEED, inception_score};
use crate::evaluate::kernel::{KernelOptions, kernel};
use crate::evaluate::moments::Statistics;
use crate::evaluate::precision::precision_recall;
use crate::evaluate::seen::{Keep, Seen, see};
use crate::text;

/// A distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    /// Fréchet distance of the features' means and covariances (FID)
    Fid,
    /// Kernel distance (KID), which is not too large for few images
    Kid,
    /// Inception score of A
    Is,
    /// Precision and recall: are the images of A like those of B, and the other way round
    Pr,
}

/// FID and its relatives: how far a set of images A is from a set B, by what a network sees in them.
///
/// A set is a folder of images, a run folder or checkpoint (its images are sampled as they are measured, and not
/// written), or a .npz file: images (arr_0, uint8 [N, H, W, C]) or statistics (mu and sigma, as pytorch-fid and
/// `ddpm evaluate statistics` write them). Distances are comparable only with the same network and dialect, and with as
/// many images.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm evaluate fid runs/NAME photos --weights pt_inception-2015-12-05-6726825d.pth -n 10000
  ddpm evaluate fid generated photos --features random
  ddpm evaluate fid runs/NAME photos.npz --weights inception-2015-12-05.pt --dialect tf --metrics fid")]
pub(in crate::cli) struct FidCommand {
    /// The set to measure, generated images as a rule
    #[arg(value_name = "A", value_parser = run_or_latest())]
    set: PathBuf,
    /// The set to compare with, real images as a rule
    #[arg(value_name = "B", value_parser = run_or_latest())]
    reference: PathBuf,
    /// What to measure [default: all that the two sets and the network allow]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    metrics: Vec<Metric>,
    #[command(flatten)]
    features: FeatureArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// What is printed.
#[derive(Debug, Default, Serialize)]
struct Report {
    features: String,
    set: String,
    reference: String,
    images: Option<u64>,
    reference_images: Option<u64>,
    fid: Option<f64>,
    fid_bias: Option<f64>,
    kid: Option<f64>,
    kid_std: Option<f64>,
    kid_subset_images: Option<usize>,
    inception_score: Option<f64>,
    inception_score_std: Option<f64>,
    precision: Option<f64>,
    recall: Option<f64>,
    remarks: Vec<String>,
}

/// A set after it was seen.
struct Measured {
    origin: String,
    /// `None` for statistics.
    chw: Option<[i64; 3]>,
    statistics: Statistics,
    /// `None` for statistics.
    features: Option<Tensor>,
    logits: Option<Tensor>,
}

impl FidCommand {
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
        let network = self.features.open(chosen.device)?;
        ranks.same("feature network", || self.features.fingerprint())?;
        let [set, reference] = (self.source).open_both(&self.set, &self.reference, chosen)?;
        let has_images = |source: &Source| !matches!(source, Source::Statistics(..));
        let both = has_images(&set) && has_images(&reference);
        let classifies = has_images(&set) && classifies(&*network)?;
        self.refuse_impossible(both, classifies)?;
        let keep = Keep {
            features: both && (self.wants(Metric::Kid) || self.wants(Metric::Pr)),
            logits: classifies && self.wants(Metric::Is),
        };
        // The others only help to see the images.
        let keep = if ranks.leads() {
            keep
        } else {
            Keep {
                features: false,
                ..keep
            }
        };
        let set = self.measure(set, &*network, keep, ranks)?;
        let keep = Keep {
            logits: false,
            ..keep
        };
        let reference = self.measure(reference, &*network, keep, ranks)?;
        if !ranks.leads() {
            return Ok(());
        }
        let report = self.report(&set, &reference, &network.name())?;
        match self.json {
            true => out::json(&serde_json::to_string(&report)?),
            false => report.print(),
        }
        Ok(())
    }

    fn wants(&self, metric: Metric) -> bool {
        self.metrics.is_empty() || self.metrics.contains(&metric)
    }

    /// Refuses what was asked for by name and cannot be measured, before hours of sampling.
    fn refuse_impossible(&self, both: bool, classifies: bool) -> Result<()> {
        for (metric, name) in [(Metric::Kid, "KID"), (Metric::Pr, "precision and recall")] {
            ensure!(
                both || !self.metrics.contains(&metric),
                "--metrics: {name} of statistics cannot be measured: it needs the images of both sets"
            );
        }
        ensure!(
            classifies || !self.metrics.contains(&Metric::Is),
            "--metrics: an Inception score needs images in A and a network that classifies (--features inception or small-cnn)"
        );
        Ok(())
    }

    /// A value; without it, an error if it was asked for by name, else a remark.
    fn heed<T>(&self, metric: Metric, found: Result<T>, report: &mut Report) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.metrics.contains(&metric) => Err(error),
            Err(error) => {
                report.remarks.push(format!("left out: {error:#}"));
                Ok(None)
            }
        }
    }

    fn measure(
        &self,
        source: Source,
        network: &dyn FeatureExtractor,
        keep: Keep,
        ranks: &Ranks,
    ) -> Result<Measured> {
        if let Source::Statistics(path, statistics) = source {
            check_same_network(&path, &statistics, network)?;
            return Ok(Measured {
                origin: format!("statistics in {}", text::path(&path)),
                chw: None,
                statistics: *statistics,
                features: None,
                logits: None,
            });
        }
        source.with_images(&self.source, ranks, |set| {
            let Seen {
                moments,
                features,
                logits,
            } = see(set, network, keep)?;
            Ok(Measured {
                origin: set.origin(),
                chw: Some(set.chw()),
                statistics: Statistics {
                    moments,
                    features: Some(network.name()),
                    sqrt_cov: None,
                },
                features,
                logits,
            })
        })
    }

    fn report(&self, set: &Measured, reference: &Measured, network: &str) -> Result<Report> {
        let [own, other] = [set, reference].map(|measured| &measured.statistics);
        let mut report = Report {
            features: network.to_owned(),
            set: set.origin.clone(),
            reference: reference.origin.clone(),
            images: own.moments.count,
            reference_images: other.moments.count,
            ..Report::default()
        };
        if self.wants(Metric::Fid) {
            let root = match &other.sqrt_cov {
                Some(root) => root.clone(),
                None => frechet::sqrt(&other.moments.cov)?,
            };
            let found = frechet::distance(&own.moments, &other.moments, &root)?;
            report.fid = Some(found.distance);
            // Of a covariance that lacks rank it means little.
            let lacks_rank = |remark: &Remark| matches!(remark, Remark::RankDeficient { .. });
            report.fid_bias = found.bias.filter(|_| !found.remarks.iter().any(lacks_rank));
            report
                .remarks
                .extend(found.remarks.iter().map(ToString::to_string));
        }
        if let (Some(own), Some(other)) = (&set.features, &reference.features) {
            self.add_of_features(&mut report, own, other)?;
        }
        if let Some(logits) = &set.logits {
            let found = inception_score(logits, SCORE_SEED);
            if let Some(score) = self.heed(Metric::Is, found, &mut report)? {
                report.inception_score = Some(score.mean);
                report.inception_score_std = Some(score.std);
            }
        }
        let size = |measured: &Measured| measured.chw.map(|[_, height, width]| [height, width]);
        if let (Some(own), Some(other)) = (size(set), size(reference))
            && own != other
        {
            let [size, others] = [own, other].map(|[height, width]| format!("{width}x{height}"));
            report.remarks.push(format!(
                "the images of A are {size} pixels and those of B {others}: sharpness alone tells them apart"
            ));
        }
        Ok(report)
    }

    fn add_of_features(&self, report: &mut Report, own: &Tensor, other: &Tensor) -> Result<()> {
        if self.wants(Metric::Kid) {
            let found = kernel(own, other, &KernelOptions::default());
            if let Some(found) = self.heed(Metric::Kid, found, report)? {
                report.kid = Some(found.mean);
                report.kid_std = Some(found.std);
                report.kid_subset_images = Some(found.subset_images);
            }
        }
        if self.wants(Metric::Pr) {
            let found = precision_recall(own, other);
            if let Some(found) = self.heed(Metric::Pr, found, report)? {
                report.precision = Some(found.precision);
                report.recall = Some(found.recall);
            }
        }
        Ok(())
    }
}

/// True for a network that says of which class an image is.
fn classifies(network: &dyn FeatureExtractor) -> Result<bool> {
    // Grey, which all networks take.
    let black = Tensor::zeros([1, 1, 32, 32], (Kind::Uint8, Device::Cpu));
    Ok(network.features(&black)?.logits.is_some())
}

/// Refuses statistics of another network, and says if a file does not name the one that it is of.
fn check_same_network(
    path: &Path,
    statistics: &Statistics,
    network: &dyn FeatureExtractor,
) -> Result<()> {
    match &statistics.features {
        Some(theirs) => ensure!(
            *theirs == network.name(),
            "{} holds statistics of {theirs:?}, and the network chosen is {:?}: distances between the two mean nothing",
            text::path(path),
            network.name()
        ),
        None => say(&format!(
            "note: {} does not say by which network its statistics are; taken for {}",
            text::path(path),
            network.name()
        )),
    }
    Ok(())
}

impl Report {
    fn print(&self) {
        let row = |what: &str, value: String| out::result(&format!("{what:<18} {value}"));
        row("features", self.features.clone());
        row("A", self.set.clone());
        row("B", self.reference.clone());
        if let Some(fid) = self.fid {
            // Rounding may make it slightly negative.
            row("FID", format!("{:.4}", fid.max(0.0)));
        }
        if let Some(bias) = self.fid_bias {
            row(
                "",
                format!("of it about {bias:.2} because the images are few"),
            );
        }
        if let (Some(kid), Some(std), Some(images)) =
            (self.kid, self.kid_std, self.kid_subset_images)
        {
            row("KID", format!("{kid:.6} ± {std:.6} (subsets of {images})"));
        }
        if let (Some(score), Some(std)) = (self.inception_score, self.inception_score_std) {
            row("Inception score", format!("{score:.4} ± {std:.4}"));
        }
        if let (Some(precision), Some(recall)) = (self.precision, self.recall) {
            row("precision, recall", format!("{precision:.4}, {recall:.4}"));
        }
        for remark in &self.remarks {
            say(&format!("note: {remark}"));
        }
    }
}

//! A cascade: the images of one network, made larger by others.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::record::of_sampler_and_times;
use crate::cli::args::run::run_or_latest;
use crate::cli::args::sampler::SamplerArgs;
use crate::cli::args::upscaling::UpscalingArgs;
use crate::cli::findings;
use crate::cli::out::say;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::images::{from_pixels, to_pixels};
use crate::interop::Request;
use crate::pretrained::{Guided, Pretrained, Upscaler};
use crate::report::StageSettings;
use crate::rng::{Stream, key};
use crate::sample::{Guidance, OnStep, batch_labels};
use crate::text::{self, plural, shell};

/// The networks that make sampled images larger.
#[derive(Debug, Args)]
#[command(next_help_heading = "Upscaling")]
pub(super) struct CascadeArgs {
    /// Make the images larger with this network, of `ddpm train --upscale`; several times for several, in this order
    ///
    /// --sampler and --steps are for all of them; without --sampler, these take dpmpp-2m. --guidance, --raw and what is said of
    /// files of other programs are about the first network alone; the others' EMA weights are taken.
    #[arg(long, value_name = "CKPT", value_parser = run_or_latest())]
    then: Vec<PathBuf>,
    #[command(flatten)]
    upscaling: UpscalingArgs,
}

/// The images that go through a cascade.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampled<'a> {
    /// Settings of the network that makes them.
    pub(super) config: &'a RunConfig,
    /// Their classes, `[N]` i64.
    pub(super) labels: Option<&'a Tensor>,
    /// How many.
    pub(super) number: u64,
    pub(super) seed: u64,
    /// Images, or tiles of them, in a batch.
    pub(super) batch: u64,
}

/// The networks that make images larger, in their order, each with the classes of all images.
pub(super) struct Cascade<'a> {
    stages: Vec<(Upscaler<'a>, Option<Tensor>)>,
    /// Shape of a sampled image.
    chw: [i64; 3],
    seed: u64,
}

impl CascadeArgs {
    /// The files that are read.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.then.iter()
    }

    /// True if there is anything to make larger.
    pub(super) fn given(&self) -> bool {
        !self.then.is_empty()
    }

    /// Loads the networks; `tells` of it.
    ///
    /// # Errors
    /// A file that is no network; flags about none.
    pub(super) fn load(&self, chosen: &Chosen, tells: bool) -> Result<Vec<Pretrained>> {
        ensure!(
            self.given() || !self.upscaling.given(),
            "--tile and --condition-noise are about --then, which names a network that makes images larger"
        );
        let load = |path: &PathBuf| -> Result<Pretrained> {
            let cannot = || format!("--then {}", text::path(path));
            let request = Request::default();
            let mut network = match tells {
                true => findings::load(path, &request, chosen.device),
                false => Pretrained::load_with(path, &request, chosen.device),
            }
            .with_context(cannot)?;
            if tells && network.report.is_some() {
                say(&format!(
                    "note: what --then {} leaves open is assumed; to say it, convert it first, with `ddpm import {} --to \
                     FILE.safetensors` and --upscale or other hints",
                    text::path(path),
                    shell(path)
                ));
            }
            network.set_precision(chosen.precision);
            Ok(network)
        };
        self.then.iter().map(load).collect()
    }

    /// The cascade for these images; `tells` what is doubtful.
    ///
    /// # Errors
    /// A network that makes images from noise alone, of other colours or of other classes.
    pub(super) fn cascade<'a>(
        &self,
        networks: &'a [Pretrained],
        sampler: &SamplerArgs,
        of: Sampled,
        tells: bool,
    ) -> Result<Cascade<'a>> {
        let stage = |(path, network): (&PathBuf, &'a Pretrained)| -> Result<(Upscaler<'a>, _)> {
            let cannot = || format!("--then {}", text::path(path));
            let guided = Guided::upscaling(network, Guidance::NONE, None)?;
            let upscaler =
                (self.upscaling.upscaler(guided, sampler, tells)).with_context(cannot)?;
            let (ours, theirs) = (of.config.model.chw()[0], network.config().model.chw()[0]);
            ensure!(
                ours == theirs,
                "--then {}: it makes images of {}, and the first network those of {ours}",
                text::path(path),
                plural(theirs as u64, "channel")
            );
            let labels = labels_for(network.config(), of, tells).with_context(cannot)?;
            Ok((upscaler.with_batch(of.batch), labels))
        };
        Ok(Cascade {
            stages: (self.then.iter().zip(networks))
                .map(stage)
                .collect::<Result<_>>()?,
            chw: of.config.model.chw(),
            seed: of.seed,
        })
    }
}

/// The classes of the images for a network that makes them larger: the same, if it has the same; else "no class".
///
/// # Errors
/// It has other classes, and must always have one.
fn labels_for(config: &RunConfig, of: Sampled, tells: bool) -> Result<Option<Tensor>> {
    let Some(known) = config.model.classes() else {
        return Ok(None);
    };
    let names = |config: &RunConfig| config.conditional.clone().map(|c| c.classes);
    let base = of.config;
    if let Some(labels) = of.labels
        && base.model.classes() == Some(known)
        && names(base) == names(config)
    {
        let always = config.model.null_class().is_none();
        let lacks = always && labels.eq(known).any().int64_value(&[]) != 0;
        ensure!(
            !lacks,
            "this network must always have a class, and some of the images have none"
        );
        return Ok(Some(labels.shallow_clone()));
    }
    let none = config.model.null_class().context(
        "this network is told the class of what it makes larger, and the images are of none of its classes",
    )?;
    if tells {
        say("note: a network of --then has other classes than the first, and is told none");
    }
    let like = (Kind::Int64, Device::Cpu);
    Ok(Some(Tensor::full([of.number as i64], none, like)))
}

impl Cascade<'_> {
    /// Shape of an image at the end, `[C, H, W]`.
    pub(super) fn chw(&self) -> [i64; 3] {
        let factor: i64 = self
            .stages
            .iter()
            .map(|(stage, _)| stage.factor())
            .product();
        let [c, h, w] = self.chw;
        [c, factor * h, factor * w]
    }

    /// Steps that a batch takes.
    pub(super) fn steps(&self) -> usize {
        let steps = |(stage, _): &(Upscaler, _)| stage.sampler().steps.len();
        self.stages.iter().map(steps).sum()
    }

    /// What makes the images larger, for their files.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(super) fn settings(
        &self,
        args: &CascadeArgs,
        sampler: &SamplerArgs,
    ) -> Result<Vec<StageSettings>> {
        let stages = self.stages.iter();
        stages
            .map(|(stage, _)| args.upscaling.settings(stage, sampler))
            .collect()
    }

    /// All that decides the bits of what is made of an image, by name; nothing if that stays as it is.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(super) fn record(&self) -> Result<Vec<(String, String)>> {
        let [_, mut h, mut w] = self.chw;
        let mut all = vec![];
        for (place, (stage, _)) in (1..).zip(&self.stages) {
            let (tile, count) = stage.tiles([h, w]);
            (h, w) = (h * stage.factor(), w * stage.factor());
            let sampler = stage.sampler();
            let weights = stage.guided().network().fingerprint()?;
            let settings = [
                ("", weights.to_string()),
                (" sampler", of_sampler_and_times(sampler)),
                (" clip_x0", sampler.clip_x0.to_string()),
                (" noise", stage.noise().to_string()),
                (" tiles", format!("{count} of {}x{}", tile[1], tile[0])),
            ];
            let named = settings.map(|(name, value)| (format!("then {place}{name}"), value));
            all.extend(named);
        }
        Ok(all)
    }

    /// Makes the images `numbers` larger, `[numbers.len(), C, h, w]` f32 in [-1, 1].
    ///
    /// # Errors
    /// Values that are not finite.
    pub(super) fn upscale(
        &self,
        x_0: Tensor,
        numbers: &Range<u64>,
        on_step: &mut OnStep,
    ) -> Result<Tensor> {
        let mut x = x_0;
        let own: Vec<u64> = numbers.clone().collect();
        for (place, (stage, labels)) in (0..).zip(&self.stages) {
            // What a file between the two would hold, as in training.
            let low = from_pixels(&to_pixels(&x));
            let labels = batch_labels(labels.as_ref(), numbers, low.device());
            // Noise of its own.
            let seed = key(self.seed, Stream::Condition, place);
            x = stage.upscale(&low, labels.as_ref(), seed, &own, on_step)?;
        }
        Ok(x)
    }
}

//! `ddpm decode`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::{Device, Tensor};

use super::args::class::of_class;
use super::args::compute::ComputeArgs;
use super::args::ddcm::DecodeSettings;
use super::args::foreign::{ForeignArgs, SamplerHints};
use super::args::image_out::OutputArgs;
use super::findings;
use super::out::say;
use super::outputs::Outputs;
use crate::checkpoint::{every_checkpoint, in_a_run, is_ours, pinned_for};
use crate::cli::progress::SampleProgress;
use crate::config::Sigma;
use crate::diffusion::Schedule;
use crate::formats::ddcm::{self, Ddcm, DdcmHeader};
use crate::fs::folder_of;
use crate::interop::{Request, Uses};
use crate::pretrained::{Guided, Pretrained};
use crate::sample::{
    Choice, Codebook, Ddpm, Guidance, Images, NoiseSource, Process, Respaced, Sampler, Visit,
    sample_images,
};
use crate::text::{plural, printable};

/// Folder searched for the model if --model is not given.
const RUNS: &str = "runs";

/// Decompress the images of a .ddcm file.
#[derive(Debug, Args)]
pub(super) struct DecodeCommand {
    /// File that `ddpm encode` wrote
    #[arg(value_name = "FILE.ddcm")]
    file: PathBuf,
    /// Model that the file was made with [default: searched in runs/ and beside the file]
    #[arg(long, value_name = "CKPT")]
    model: Option<PathBuf>,
    /// The file was made with the raw weights
    #[arg(long)]
    raw: bool,
    /// Images per batch; with 1 an image does not depend on the other images in the file
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    foreign: ForeignArgs,
}

impl DecodeCommand {
    pub(super) fn run(&self) -> Result<()> {
        let file = ddcm::read(&self.file)?;
        let mut outputs = self.outputs(file.images() as u64);
        outputs.check()?;
        let mut output = self.output.open(None);
        let header = file.header();
        let cannot = || format!("cannot decode {}", self.file.display());
        let settings = DecodeSettings::parse(&header.settings).with_context(cannot)?;
        let chosen = self.compute.choose_exact()?;
        let mut network = self.network(header, &needed(header, &settings), chosen.device)?;
        // Perhaps one that was searched for.
        outputs.reads([&network.path]);
        outputs.check()?;
        network.set_precision(chosen.precision);
        let steps = visited(header, &network, settings.sigma).with_context(cannot)?;

        let guidance = settings.guidance.unwrap_or(Guidance::NONE);
        let guided = Guided::new(&network, guidance, None).with_context(cannot)?;
        refuse_class(&network, settings.class).with_context(cannot)?;
        let denoiser = |x: &Tensor, t: &Tensor| of_class(&guided, settings.class, x, t);
        let diffusion = &network.meta.config.diffusion;
        let process = Process::new(&denoiser, &steps, diffusion, settings.clip_x0);
        let sampler = Sampler::Ddpm(Ddpm {
            sigma: settings.sigma,
            last_noise: header.last_stored,
        });
        let codebook = Codebook::new(header.codebook_seed, header.codebook_size, header.chw)?;
        let wanted = Images {
            noise: NoiseSource::Codebook(codebook, Choice::Given(choices(&file))),
            numbers: 0..file.images() as u64,
            batch: self.batch,
            chw: header.chw,
            device: chosen.device,
        };
        let evaluations = steps.len() * wanted.batches().count();
        let bar = SampleProgress::new("decoding", evaluations as u64);
        let images = sample_images(&process, &sampler, &wanted, &mut |_| bar.step());
        bar.finish();
        output.take(0, &images.with_context(cannot)?)?;
        let bits = file.bits_per_pixel().indices;
        outputs.print(&format!("{bits:.4} bits per pixel"));
        output
            .finish(file.images() as u64, self.file.display().to_string())
            .map(drop)
    }

    fn outputs(&self, images: u64) -> Outputs {
        let mut outputs = Outputs::new(self.output.force);
        let model = self.model.iter().chain(self.foreign.file());
        outputs.reads([&self.file].into_iter().chain(model));
        self.output.declare(images, &mut outputs);
        outputs
    }

    /// Hints describe the file of --model; the models that are searched need none.
    fn refuse_hints_without_model(&self, request: &Request) -> Result<()> {
        let hints = request.hints.given();
        let mut given = hints.iter().map(|(name, _)| *name);
        let key = request.key.as_ref().map(|_| "key");
        let config = request.config.as_ref().map(|_| "config");
        match given.next().or(key).or(config) {
            Some(name) if self.model.is_none() => {
                bail!(
                    "`hints.{name}` describes the file of --model; give --model too, or leave it out"
                )
            }
            _ => Ok(()),
        }
    }

    /// The network whose hash is in the file.
    fn network(&self, header: &DdcmHeader, needs: &str, device: Device) -> Result<Pretrained> {
        let wanted = blake3::Hash::from_bytes(header.model_hash);
        let hints = SamplerHints::default();
        let request = self.foreign.request(self.raw, hints, Uses::PROCESS)?;
        self.refuse_hints_without_model(&request)?;
        if let Some(path) = &self.model {
            let network = findings::load(path, &request, device)?;
            if network.fingerprint()? == wanted {
                return Ok(network);
            }
            let elsewhere = match self.search(&of_its_run(&network.path), &wanted, device)? {
                Some((found, raw)) => {
                    let raw = if raw { " --raw" } else { "" };
                    format!(
                        "; give --model {}{raw}, which it was made with",
                        found.path.display()
                    )
                }
                None => format!("; want {needs}"),
            };
            bail!(
                "{} was made with another model than {} (or with the other of its raw and averaged weights){elsewhere}",
                self.file.display(),
                path.display(),
            );
        }
        let candidates = candidates(&self.file, &wanted);
        if let Some((network, raw)) = self.search(&candidates, &wanted, device)? {
            let raw = if raw { ", raw weights" } else { "" };
            say(&format!("model: {}{raw}", network.path.display()));
            return Ok(network);
        }
        let seen = match candidates.len() {
            0 => format!("no model was found in {RUNS}/ or beside the file"),
            n => format!(
                "{} in {RUNS}/ and beside the file: none is it",
                plural(n as u64, "model")
            ),
        };
        bail!(
            "{} was made with {needs}; {seen}. Give it with --model CKPT",
            self.file.display(),
        )
    }

    /// The first of these files with the network that is wanted, in its averaged or raw weights.
    fn search(
        &self,
        paths: &[PathBuf],
        wanted: &blake3::Hash,
        device: Device,
    ) -> Result<Option<(Pretrained, bool)>> {
        for path in paths {
            for raw in [self.raw, !self.raw] {
                let request = Request {
                    raw,
                    ..Request::default()
                };
                // A file that is damaged or not a model is not the one.
                if let Ok(network) = Pretrained::load_with(path, &request, device)
                    && network.fingerprint()? == *wanted
                {
                    return Ok(Some((network, raw)));
                }
            }
        }
        Ok(None)
    }
}

/// What the file says of its model: a checkpoint, if it was one of a run, and the beginning of the hash.
fn needed(header: &DdcmHeader, settings: &DecodeSettings) -> String {
    let hash = blake3::Hash::from_bytes(header.model_hash).to_hex();
    let hash = &hash[..12];
    match &settings.needs {
        Some(checkpoint) => format!("{}, network {hash}", printable(checkpoint)),
        None => format!("a model whose hash begins with {hash}"),
    }
}

/// The checkpoints of the run that a checkpoint is in.
fn of_its_run(path: &Path) -> Vec<PathBuf> {
    let run = path.parent().and_then(Path::parent);
    match (in_a_run(path), run) {
        (Some(_), Some(run)) => every_checkpoint(run),
        _ => vec![],
    }
}

/// Where the model may be, the likeliest first: checkpoints in runs/ that are pinned for it, the newest of each run,
/// weights beside the file, older checkpoints.
fn candidates(file: &Path, wanted: &blake3::Hash) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let weights = |path: &PathBuf| {
        path.extension().is_some_and(|e| e == "safetensors") && is_ours(path).unwrap_or(false)
    };
    let runs = list(Path::new(RUNS));
    let all: Vec<Vec<PathBuf>> = runs.iter().map(|run| every_checkpoint(run)).collect();
    let pinned = runs.iter().flat_map(|run| pinned_for(run, wanted));
    let newest = all.iter().filter_map(|run| run.first().cloned());
    let beside = list(folder_of(file)).into_iter().filter(weights);
    let mut found: Vec<PathBuf> = Vec::new();
    for path in pinned
        .chain(newest)
        .chain(beside)
        .chain(all.iter().flatten().cloned())
    {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// Refuses a class that the network does not have, and none for one that has some.
fn refuse_class(network: &Pretrained, class: Option<i64>) -> Result<()> {
    let model = &network.config().model;
    let known = model.classes();
    let fits = match (class, known) {
        (None, None) => true,
        (Some(class), Some(known)) => {
            (0..known).contains(&class) || model.null_class() == Some(class)
        }
        _ => false,
    };
    let shown = |number: Option<i64>| number.map_or("none".to_owned(), |number| number.to_string());
    ensure!(
        fits,
        "its class is {}, and the model's number of classes is {}",
        shown(class),
        shown(known)
    );
    Ok(())
}

/// The steps that the file visits, checked against the network.
fn visited(header: &DdcmHeader, network: &Pretrained, sigma: Sigma) -> Result<Respaced> {
    let config = &network.meta.config;
    ensure!(
        header.chw == config.model.chw()
            && i64::from(header.timesteps) == config.diffusion.timesteps,
        "its images are {:?} with T = {}, the model's {:?} with T = {}",
        header.chw,
        header.timesteps,
        config.model.chw(),
        config.diffusion.timesteps
    );
    ensure!(
        sigma != Sigma::Learned || config.model.learned_variance(),
        "it needs variances from the network, which predicts none"
    );
    let times = header.steps.iter().map(|t| *t as usize).collect();
    Respaced::new(&Schedule::new(&config.diffusion), &Visit::List(times))
}

/// The entry of each draw of each image; x_T is entry 0 where it is not stored.
fn choices(file: &Ddcm) -> Vec<Vec<u32>> {
    let start: &[u32] = if file.header().start_stored {
        &[]
    } else {
        &[0]
    };
    let of_image = |i| [start, &file.indices(i)].concat();
    (0..file.images()).map(of_image).collect()
}

//! `ddpm decode`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::Device;

use super::args::class::ClassArg;
use super::args::compute::ComputeArgs;
use super::args::ddcm::DecodeSettings;
use super::args::foreign::{ForeignArgs, SamplerHints};
use super::args::image_out::OutputArgs;
use super::findings;
use super::out::{self, say};
use crate::checkpoint::is_ours;
use crate::cli::progress::SampleProgress;
use crate::config::Sigma;
use crate::diffusion::Schedule;
use crate::formats::ddcm::{self, Ddcm, DdcmHeader};
use crate::pretrained::Pretrained;
use crate::sample::{
    Choice, Codebook, Ddpm, Images, NoiseSource, Process, Respaced, Sampler, Visit, sample_images,
};
use crate::text::plural;

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
        let mut output = self.output.open()?;
        let file = ddcm::read(&self.file)?;
        let header = file.header();
        let cannot = || format!("cannot decode {}", self.file.display());
        let settings = DecodeSettings::parse(&header.settings).with_context(cannot)?;
        let chosen = self.compute.choose_exact()?;
        let mut network = self.network(header, chosen.device)?;
        network.set_precision(chosen.precision);
        let steps = visited(header, &network, settings.sigma).with_context(cannot)?;

        let class = ClassArg {
            class: settings.class,
        };
        let denoiser = class.denoiser(&network).with_context(cannot)?;
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
        output.take(&images.with_context(cannot)?)?;
        out::result(&format!(
            "{:.4} bits per pixel",
            file.bits_per_pixel().indices
        ));
        output.finish(self.file.display().to_string())
    }

    /// The network whose hash is in the file.
    fn network(&self, header: &DdcmHeader, device: Device) -> Result<Pretrained> {
        let request = self.foreign.request(self.raw, SamplerHints::default())?;
        let is_it = |network: &Pretrained| {
            Ok::<_, anyhow::Error>(*network.fingerprint()?.as_bytes() == header.model_hash)
        };
        if let Some(path) = &self.model {
            let network = findings::load(path, &request, device)?;
            ensure!(
                is_it(&network)?,
                "{} was made with another model than {} (or with the other of its raw and averaged weights)",
                self.file.display(),
                path.display()
            );
            return Ok(network);
        }
        let candidates = candidates(&self.file);
        for path in &candidates {
            // A file that is damaged or not a model is not the one.
            if let Ok(network) = Pretrained::load_with(path, &request, device)
                && is_it(&network)?
            {
                say(&format!("model: {}", path.display()));
                return Ok(network);
            }
        }
        let hash = blake3::Hash::from_bytes(header.model_hash).to_hex();
        let seen = match candidates.len() {
            0 => format!("no model was found in {RUNS}/ or beside the file"),
            n => format!(
                "{} in {RUNS}/ and beside the file: none has it",
                plural(n as u64, "model")
            ),
        };
        bail!(
            "{} was made with a model whose hash begins with {}; {seen}. Give it with --model CKPT",
            self.file.display(),
            &hash[..12]
        )
    }
}

/// Run folders in runs/, and weights beside the file.
fn candidates(file: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let beside = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut found = list(Path::new(RUNS));
    found.retain(|path| path.join("config.toml").exists());
    let weights = |path: &PathBuf| {
        path.extension().is_some_and(|e| e == "safetensors") && is_ours(path).unwrap_or(false)
    };
    found.extend(list(beside).into_iter().filter(weights));
    found
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

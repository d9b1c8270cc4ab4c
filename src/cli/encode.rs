//! `ddpm encode`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use ndarray::{Array1, Array4, Axis, concatenate};
use tch::{Device, Tensor};

use super::args::class::{ClassArgs, of_class};
use super::args::ddcm::DecodeSettings;
use super::args::image_in::read_images;
use super::args::load::{LoadArgs, weights_line};
use super::args::sampler::SamplerArgs;
use super::out::say;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use crate::checkpoint::{Pin, in_a_run};
use crate::cli::progress::SampleProgress;
use crate::formats::ddcm::{self, Ddcm, DdcmHeader};
use crate::fs::Target;
use crate::images::to_array;
use crate::native::send;
use crate::report::psnr_db;
use crate::sample::ChosenSampler;
use crate::sample::SamplerKind;
use crate::sample::{Codebook, Ddpm, Process, Sampler, Step, ddcm_encode};
use crate::text::plural;

/// Limit on the values of a codebook in memory at once: 256 MiB.
const PART_VALUES: i64 = 1 << 26;

/// Compress images to a few hundred bytes each, as a sampler's choices of noise (DDCM).
///
/// `ddpm decode` needs the same model, which the file identifies by a hash of its weights. More steps and a larger
/// codebook give higher quality: an image takes (steps) x log2(codebook) bits.
#[derive(Debug, Args)]
pub(super) struct EncodeCommand {
    /// Images, cropped and resized as in training
    #[arg(value_name = "IMG", required = true, index = 2)]
    images: Vec<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "FILE.ddcm", value_parser = path_or_stdout())]
    out: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    /// Codebook entries per step, a power of two
    #[arg(long, value_name = "K", default_value_t = 64)]
    codebook: u32,
    /// Seed of the codebooks
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the checkpoint for this file: training does not remove it [default: true for a checkpoint of a run]
    ///
    /// Until you delete RUN/checkpoints/step-*.pin.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true)]
    pin: Option<bool>,
    /// Images per batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    #[command(flatten)]
    class: ClassArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    load: LoadArgs,
}

impl EncodeCommand {
    pub(super) fn run(&self) -> Result<()> {
        let outputs = self.outputs();
        outputs.check()?;
        let uses = self.sampler.uses(SamplerKind::Ddpm);
        let (network, device) = self.load.load_exact(self.sampler.hints(), uses)?;
        let config = &network.meta.config;
        let codebook = Codebook::new(self.seed, self.codebook, config.model.chw())?;
        let (chosen, options) = self.ddpm(config)?;
        (self.class.guidance).refuse_other("the file can be decoded with one network only")?;
        let guided = self.class.guidance.guided(&network, None, true)?;
        let class = self.class.class.one(&guided)?;
        self.class.guidance.tell_visited(&chosen.steps.times);
        let denoiser = |x: &Tensor, t: &Tensor| of_class(&guided, class, x, t);
        let process = chosen.process(&denoiser, &network.meta.config.diffusion);
        let images = read_images(&self.images, &config.model, &config.data)?;
        let fingerprint = network.fingerprint()?;
        let pin = self.pin(&network.path, &fingerprint)?;

        let batches = images.split(i64::from(self.batch), 0);
        let bar = SampleProgress::new("encoding", (process.steps.len() * batches.len()) as u64);
        let mut on_step = |_: Step| bar.step();
        let (mut indices, mut decoded) = (Vec::new(), Vec::new());
        for batch in &batches {
            let x_0 = batch.to_device(device.device);
            let (chosen, x) = encode(&process, options, codebook, &x_0, &mut on_step);
            process.check_finite()?;
            indices.extend(Vec::<Vec<i64>>::try_from(chosen.to_device(Device::Cpu))?);
            decoded.push(to_array(&x));
        }
        bar.finish();

        let weights = weights_line(&network, self.load.which(), &network.path);
        let mut settings = DecodeSettings::new(options, process.clip_x0, class, guided.guidance());
        if let Some(checkpoint) = in_a_run(&network.path) {
            settings = settings.needing(&checkpoint, &weights);
        }
        let header = DdcmHeader {
            model_hash: *fingerprint.as_bytes(),
            settings: settings.to_text()?,
            timesteps: config.diffusion.timesteps as u32,
            steps: process
                .steps
                .times
                .iter()
                .rev()
                .map(|t| *t as u32)
                .collect(),
            codebook_size: codebook.size(),
            codebook_seed: self.seed,
            chw: config.model.chw(),
            start_stored: false,
            last_stored: options.last_noise,
        };
        let narrow = |row: &Vec<i64>| row.iter().map(|index| *index as u32).collect();
        let file = Ddcm::new(header, &indices.iter().map(narrow).collect::<Vec<_>>())?;
        if let Some(pin) = &pin {
            pin.check()?;
        }
        ddcm::write(&self.out, &file)?;
        self.tell_needed(&network.path, &weights, &fingerprint, pin.as_ref());
        if let Some(pin) = pin {
            pin.keep();
        }
        let decoded: Vec<_> = decoded.iter().map(Array4::view).collect();
        let decoded = concatenate(Axis(0), &decoded)?;
        self.tell(&outputs, &file, &to_array(&images), &decoded);
        Ok(())
    }

    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain(&self.images));
        outputs.writes("--out", &self.out, &["ddcm"], None);
        outputs
    }

    /// Pins a checkpoint before the long work, during which training might remove it.
    fn pin(&self, checkpoint: &Path, network: &blake3::Hash) -> Result<Option<Pin>> {
        // Nobody can tell what becomes of a stream.
        let kept = matches!(Target::of(&self.out), Ok(Target::File(_)));
        let wanted = self.pin.unwrap_or(kept && in_a_run(checkpoint).is_some());
        let pin = wanted.then(|| Pin::set(checkpoint, &self.out, network));
        match pin.transpose() {
            // A run of somebody else may be read-only.
            Err(error) if self.pin.is_none() && checkpoint.exists() => {
                say(&format!("warning: the checkpoint is not pinned: {error:#}"));
                Ok(None)
            }
            pin => pin.context("--pin"),
        }
    }

    /// Tells which checkpoint decoding needs, and whether it stays.
    fn tell_needed(&self, path: &Path, weights: &str, network: &blake3::Hash, pin: Option<&Pin>) {
        let until = match pin {
            Some(pin) => format!(
                "training will not remove it, until you delete {}",
                pin.path().display()
            ),
            None if in_a_run(path).is_some() => {
                "it is not pinned, and training with --keep may remove it".to_owned()
            }
            None => "keep that file".to_owned(),
        };
        say(&format!(
            "to decode {}, {} is needed ({weights}, network {}): {until}",
            self.out.display(),
            path.display(),
            &network.to_hex()[..12]
        ));
    }

    /// DDPM's options; only DDPM draws noise from codebooks.
    fn ddpm(&self, config: &crate::config::RunConfig) -> Result<(ChosenSampler, Ddpm)> {
        let chosen = self
            .sampler
            .choose(config, SamplerKind::Ddpm, || Ok(Array1::zeros(0)))?;
        let Sampler::Ddpm(options) = chosen.sampler else {
            anyhow::bail!("encode works with --sampler ddpm only: its noise carries the image");
        };
        ensure!(
            chosen.steps.len() > 1 || options.last_noise,
            "one step adds no noise in this model, so there is nothing to choose; raise --steps"
        );
        Ok((chosen, options))
    }

    /// Prints a line for each image and one for the file.
    fn tell(&self, outputs: &Outputs, file: &Ddcm, before: &Array4<u8>, after: &Array4<u8>) {
        let pairs = before.outer_iter().zip(after.outer_iter());
        for ((before, after), path) in pairs.zip(&self.images) {
            let psnr = psnr_db(before, after);
            outputs.print(&format!("{}: PSNR {psnr:.2} dB", path.display()));
        }
        let size = file.bits_per_pixel();
        outputs.print(&format!(
            "{}: {}, {:.4} bits per pixel ({:.4} with the header)",
            self.out.display(),
            plural(file.images() as u64, "image"),
            size.indices,
            size.file
        ));
    }
}

/// The choices for one batch, and the images that they decode to.
fn encode(
    process: &Process,
    options: Ddpm,
    codebook: Codebook,
    x_0: &Tensor,
    on_step: &mut crate::sample::OnStep,
) -> (Tensor, Tensor) {
    let (device, shape) = (x_0.device(), x_0.size());
    let x_start = codebook.entry_tensor(0, 0).to_device(device);
    let x_start = x_start.unsqueeze(0).repeat([shape[0], 1, 1, 1]);
    let values: i64 = shape[1..].iter().product();
    let part = (PART_VALUES / values).clamp(1, i64::from(codebook.size())) as u32;
    let mut parts = |k: u64| -> Box<dyn Iterator<Item = Tensor>> {
        let starts = (0..codebook.size()).step_by(part as usize);
        Box::new(starts.map(move |start| {
            let end = (start + part).min(codebook.size());
            // The host does not wait for the steps before.
            let entries = codebook.entries_tensor(k, start..end);
            send(&entries, device).expect("there is host memory for a part of the codebook")
        }))
    };
    ddcm_encode(process, options, x_0, x_start, &mut parts, on_step)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn an_i64_tensor_of_two_dimensions_becomes_rows() {
        let t = Tensor::from_slice(&[1i64, 2, 3, 4]).view([2, 2]);
        assert_eq!(Vec::<Vec<i64>>::try_from(t).unwrap(), [[1, 2], [3, 4]]);
        let none = Tensor::zeros([2, 0], (Kind::Int64, Device::Cpu));
        assert_eq!(Vec::<Vec<i64>>::try_from(none).unwrap(), [[0i64; 0]; 2]);
    }
}

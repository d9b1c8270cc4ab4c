//! `ddpm invert`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::args::class::{ClassArgs, in_turn};
use super::args::foreign::SamplerHints;
use super::args::image_in::read_images;
use super::args::load::LoadArgs;
use super::out::say;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use crate::cli::progress::SampleProgress;
use crate::diffusion::Schedule;
use crate::formats::safetensors;
use crate::images::to_array;
use crate::interop::Uses;
use crate::report::{grid_of_columns, mean_sq_error, psnr_db, write_png};
use crate::sample::{Ddim, Process, Respaced, Spacing, Step, Visit, ddim, ddim_invert};

/// The figure's name without --out.
const DEFAULT_FIGURE: &str = "inverted.png";

/// Find the latents of images by DDIM inversion, and reconstruct the images.
///
/// The error of each reconstruction is printed; more --steps make it smaller. The figure has a row for each image: original, latent, reconstruction.
#[derive(Debug, Args)]
pub(super) struct InvertCommand {
    /// Images, cropped and resized as in training
    #[arg(value_name = "IMG", required = true, index = 2)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    class: ClassArgs,
    /// Figure to write
    #[arg(short, long, value_name = "FILE.png", default_value = DEFAULT_FIGURE, value_parser = path_or_stdout())]
    out: PathBuf,
    /// Write the latents: `x_T` [N, C, H, W] f32
    #[arg(long, value_name = "FILE.safetensors", value_parser = path_or_stdout())]
    out_tensor: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    /// Steps in each direction [default: 100, at most T]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    #[command(flatten)]
    load: LoadArgs,
}

impl InvertCommand {
    pub(super) fn run(&self) -> Result<()> {
        let outputs = self.outputs();
        outputs.check()?;
        let (network, device) = self.load.load(SamplerHints::default(), Uses::PROCESS)?;
        let config = &network.meta.config;
        let schedule = Schedule::new(&config.diffusion);
        let count = self.steps.unwrap_or(schedule.len().min(100));
        let steps = Respaced::new(&schedule, &Visit::Count(count, Spacing::Linspace))?;
        let guide = self.class.guidance.load(&device)?;
        let guided = self.class.guidance.guided(&network, guide.as_ref(), true)?;
        let classes = self.class.class.chosen(&guided)?;
        self.class.guidance.tell_visited(&steps.times);
        let classes = in_turn(&classes, self.images.len());
        let denoiser = guided.denoiser(classes.map(|classes| classes.to_device(device.device)));
        // Clipped steps cannot be inverted.
        let process = Process::new(&denoiser, &steps, &config.diffusion, false);
        let x_0 = read_images(&self.images, &config.model, &config.data)?;

        let bar = SampleProgress::new("inverting", 2 * process.steps.len() as u64);
        let mut on_step = |_: Step| bar.step();
        let x_t = ddim_invert(&process, x_0.to_device(device.device), &mut on_step);
        let again = ddim(
            &process,
            &Ddim::new(0.0)?,
            x_t.shallow_clone(),
            &mut |_| x_t.zeros_like(),
            &mut on_step,
        );
        bar.finish();
        process.check_finite()?;
        let (x_t, again) = (x_t.to_device(Device::Cpu), again.to_device(Device::Cpu));
        self.tell(&outputs, &x_0, &x_t, &again);
        self.write(&x_0, &x_t, &again)
    }

    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain(&self.images));
        outputs.reads(self.class.guidance.files());
        outputs.writes("--out", &self.out, &["png"], Some(DEFAULT_FIGURE));
        if let Some(out) = &self.out_tensor {
            outputs.writes("--out-tensor", out, &["safetensors"], None);
        }
        outputs
    }

    /// Prints a line for each image: error of the reconstruction in grey levels, mean and deviation of the latent.
    fn tell(&self, outputs: &Outputs, x_0: &Tensor, x_t: &Tensor, again: &Tensor) {
        let (before, after) = (to_array(x_0), to_array(again));
        let pairs = before.outer_iter().zip(after.outer_iter());
        for (i, (path, (a, b))) in (0..).zip(self.images.iter().zip(pairs)) {
            let rms = mean_sq_error(a, b).sqrt();
            let apart = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
            outputs.print(&format!(
                "{}: PSNR {:.2} dB, RMS error {rms:.3}, max error {}; latent mean {:.3}, std {:.3}",
                path.display(),
                psnr_db(a, b),
                apart.max().unwrap_or(0),
                x_t.get(i).mean(Kind::Double).double_value(&[]),
                x_t.get(i).std(true).double_value(&[]),
            ));
        }
    }

    fn write(&self, x_0: &Tensor, x_t: &Tensor, again: &Tensor) -> Result<()> {
        if let Some(out) = &self.out_tensor {
            let about = (
                "ddpm-invert".to_owned(),
                self.load.checkpoint.display().to_string(),
            );
            safetensors::write(out, about, &[("x_T".to_owned(), x_t.shallow_clone())])?;
        }
        // Latents exceed the range of images: three standard deviations are shown.
        let rows = Tensor::stack(&[x_0.shallow_clone(), x_t / 3.0, again.shallow_clone()], 1);
        write_png(
            &self.out,
            grid_of_columns(to_array(&rows.flatten(0, 1)).view(), 3).view(),
        )?;
        say(&format!("figure in {}", self.out.display()));
        Ok(())
    }
}

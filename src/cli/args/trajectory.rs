//! The trajectory from noise to images, as an animation and as a strip.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use ndarray::{Array3, Array4, s};
use tch::{Device, Tensor};

use crate::cli::made_with::MadeWith;
use crate::cli::out::say;
use crate::cli::outputs::{Outputs, path_or_stdout};
use crate::images::{to_array, to_pixels};
use crate::report::{
    ANIMATION_ENDINGS, frame_steps, grid, grid_of_columns, strip, write_animation_with,
    write_png_with,
};
use crate::sample::Step;

/// Images shown in a strip, one per row.
const STRIP_IMAGES: usize = 8;

/// Files for the trajectory.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Trajectory")]
pub(in crate::cli) struct TrajectoryArgs {
    /// Write an animation of the grid from noise to images
    #[arg(long, value_name = "FILE.png|gif", value_parser = path_or_stdout(), hide_short_help = true)]
    trajectory: Option<PathBuf>,
    /// Write the trajectory as one image: a row for each of the first 8 images, time from left to right
    #[arg(long, value_name = "FILE.png", value_parser = path_or_stdout(), hide_short_help = true)]
    strip: Option<PathBuf>,
    /// Show the predicted x_0 instead of x_t
    #[arg(long, hide_short_help = true)]
    x0: bool,
    /// Number of frames in the animation
    #[arg(long, default_value_t = 40, requires = "trajectory", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000), hide_short_help = true)]
    frames: u32,
    /// Number of frames in the strip
    #[arg(long, default_value_t = 10, requires = "strip", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100), hide_short_help = true)]
    strip_frames: u32,
    /// Milliseconds per frame
    #[arg(long, default_value_t = 80, requires = "trajectory", value_name = "MS", value_parser = clap::value_parser!(u32).range(20..=10_000), hide_short_help = true)]
    frame_millis: u32,
}

/// Duration of the last frame, in milliseconds.
const LAST_MILLIS: u32 = 2_000;

/// Collects frames and writes them.
#[derive(Debug)]
pub(in crate::cli) struct Trajectory<'a> {
    args: &'a TrajectoryArgs,
    animation: Recorder,
    strip: Recorder,
}

impl TrajectoryArgs {
    /// Names the files.
    ///
    /// # Errors
    /// A flag that changes none.
    pub(in crate::cli) fn declare(&self, outputs: &mut Outputs) -> Result<()> {
        ensure!(
            !self.x0 || self.given(),
            "--x0 changes --trajectory and --strip; give one of them"
        );
        if let Some(path) = &self.trajectory {
            outputs.writes("--trajectory", path, &ANIMATION_ENDINGS, None);
        }
        if let Some(path) = &self.strip {
            outputs.writes("--strip", path, &["png"], None);
        }
        Ok(())
    }

    /// The files that are written.
    pub(in crate::cli) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.trajectory.iter().chain(&self.strip).cloned()
    }

    /// True if a file of the trajectory is asked for.
    pub(in crate::cli) fn given(&self) -> bool {
        self.trajectory.is_some() || self.strip.is_some()
    }

    /// Prepares for reverse processes of `steps` steps.
    pub(in crate::cli) fn open(&self, steps: usize) -> Trajectory<'_> {
        let recorder = |wanted: bool, frames: u32| {
            Recorder::new(if wanted {
                frame_steps(steps, frames as usize)
            } else {
                vec![]
            })
        };
        Trajectory {
            args: self,
            animation: recorder(self.trajectory.is_some(), self.frames),
            strip: recorder(self.strip.is_some(), self.strip_frames),
        }
    }
}

impl Trajectory<'_> {
    /// Records one step of a batch. Frames stay on the device, so it does not wait.
    pub(in crate::cli) fn see(&mut self, step: &Step) {
        for recorder in [&mut self.animation, &mut self.strip] {
            recorder.see(step, self.args.x0);
        }
    }

    /// Ends a batch.
    pub(in crate::cli) fn end_batch(&mut self) {
        self.animation.end_batch();
        self.strip.end_batch();
    }

    /// Writes the files, which say what they are `made_with`, if it is there.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(in crate::cli) fn finish(self, made_with: Option<&MadeWith>) -> Result<()> {
        let settings = (made_with.filter(|_| self.args.given()))
            .map(MadeWith::of_frames)
            .transpose()?;
        let settings = settings.as_deref();
        if let Some(path) = &self.args.trajectory {
            let frames = self.animation.frames();
            let frames: Vec<Array3<u8>> = frames.map(|frame| grid(frame.view())).collect();
            write_animation_with(path, &frames, self.args.frame_millis, LAST_MILLIS, settings)?;
            say(&format!("{} frames in {}", frames.len(), path.display()));
        }
        if let Some(path) = &self.args.strip {
            let column = |frame: Array4<u8>| {
                let shown = frame.dim().0.min(STRIP_IMAGES);
                grid_of_columns(frame.slice(s![..shown, .., .., ..]), 1)
            };
            let columns: Vec<Array3<u8>> = self.strip.frames().map(column).collect();
            write_png_with(path, strip(&columns).view(), settings)?;
            say(&format!("strip in {}", path.display()));
        }
        Ok(())
    }
}

/// Records the frames after chosen steps, batch by batch.
#[derive(Debug)]
struct Recorder {
    /// Numbers of steps done (1 after the first) that become frames.
    wanted: Vec<usize>,
    batch: Vec<Tensor>,
    /// Frames of each finished batch: `[frames, N, C, H, W]` u8 on CPU.
    ended: Vec<Tensor>,
}

impl Recorder {
    /// `steps` counts from 0.
    fn new(steps: Vec<usize>) -> Recorder {
        Recorder {
            wanted: steps.iter().map(|step| step + 1).collect(),
            batch: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn see(&mut self, step: &Step, x0: bool) {
        if self.wanted.contains(&step.done) {
            let shown = if x0 {
                step.estimate.x_0_hat()
            } else {
                step.x.shallow_clone()
            };
            self.batch.push(to_pixels(&shown));
        }
    }

    fn end_batch(&mut self) {
        if !self.batch.is_empty() {
            let frames = std::mem::take(&mut self.batch);
            self.ended
                .push(Tensor::stack(&frames, 0).to_device(Device::Cpu));
        }
    }

    /// Each frame with the images of all batches, `[N, H, W, C]`.
    fn frames(&self) -> impl Iterator<Item = Array4<u8>> {
        let frames = match self.ended.is_empty() {
            true => Vec::new(),
            false => Tensor::cat(&self.ended, 1).unbind(0),
        };
        frames.into_iter().map(|frame| to_array(&frame))
    }
}

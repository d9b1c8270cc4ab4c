//! Samples images from a trained network and writes them as one PNG.
//!
//! ```sh
//! cargo run --release --example sample -- runs/NAME grid.png
//! ```
//!
//! The first argument is whatever `ddpm sample` takes: a run folder, a checkpoint, or a file of another program.

use std::path::Path;

use anyhow::{Context, Result};
use ddpm::Pretrained;
use ddpm::report::{grid, write_png};
use ddpm::sample::SamplerKind;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: sample CHECKPOINT OUT.png [STEPS]";
    let checkpoint = arguments.next().context(usage)?;
    let out = arguments.next().context(usage)?;
    let steps = arguments.next().map_or(Ok(20), |steps| steps.parse())?;

    let pretrained = Pretrained::load(&checkpoint)?;
    println!("{} training steps", pretrained.meta.step);
    let images = pretrained
        .sampler(SamplerKind::DpmPp2m)
        .steps(steps)
        .sample(16, 0)?;
    println!("{:?}: images, height, width, channels", images.shape());
    write_png(Path::new(&out), grid(images.view()).view())
}

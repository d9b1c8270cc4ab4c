//! Trains a small network on a folder of images and reports in its own way.
//!
//! ```sh
//! cargo run --release --example train -- photos runs/photos 1000
//! ```
//!
//! Run it again with more steps, and it goes on where it was.

use std::sync::Arc;

use anyhow::{Context, Result};
use ddpm::checkpoint::RunFolder;
use ddpm::config::Preset;
use ddpm::report::StepMetrics;
use ddpm::train::{Observer, Start, Stop, train};

/// Prints the plan, and the loss of every 100th step.
#[derive(Debug)]
struct Printer;

impl Observer for Printer {
    fn message(&self, text: &str) {
        println!("{text}");
    }

    fn step(&self, metrics: &StepMetrics, _secs: f64) {
        if metrics.step.is_multiple_of(100) {
            println!("step {}: loss {:.2}", metrics.step, metrics.loss);
        }
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: train IMAGES RUN STEPS";
    let images = arguments.next().context(usage)?;
    let folder = RunFolder::new(arguments.next().context(usage)?.into());
    let steps = arguments.next().context(usage)?.parse()?;

    let mut start = if folder.dir().exists() {
        Start::resume(folder)?
    } else {
        let mut config = Preset::Demo.config();
        config.data.folder = Some(std::path::absolute(images)?.into());
        config.data.flip = true;
        // No grids on the way: the example `sample` draws one.
        config.sample.every_steps = 0;
        Start {
            folder,
            ..Start::new(config)
        }
    };
    start.config.train.steps = steps;
    start.observer = Arc::new(Printer);
    // Ctrl-C finishes the step and saves.
    start.stop = Stop::install(None)?;
    println!("{:?}", train(start)?);
    Ok(())
}

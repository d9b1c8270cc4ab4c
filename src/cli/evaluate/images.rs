//! The images that a network is measured on.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::trained_on::TrainedOn;
use crate::cli::out::say;
use crate::cli::progress::DecodeProgress;
use crate::data::{self, Loaded, Order};
use crate::evaluate::NotFiniteFor;
use crate::pretrained::Pretrained;

/// Images, decoded as those of the model's training are.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImagesArgs {
    /// Folder of images, best those that the network was not trained on [default: what the run held out, else its training data]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) data: Option<PathBuf>,
    /// Number of images, chosen by the seed [default: 1000, or all if there are fewer]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: Option<u64>,
    /// Images per batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(in crate::cli) batch: u64,
    /// Seed for the choice of images, their noise and time steps; the noise of an image depends on (seed, image) only
    #[arg(long, default_value_t = 0)]
    pub(in crate::cli) seed: u64,
}

/// Images that are measured where `-n` does not say how many.
const USUAL: u64 = 1000;

/// The chosen images of a data set.
pub(in crate::cli) struct Measured {
    loaded: Loaded,
    /// Their numbers in the data set, in the order of the seed.
    numbers: Vec<u64>,
    batch: usize,
    classes: Option<i64>,
}

/// Some of them.
pub(in crate::cli) struct ImageBatch {
    /// `[N, C, H, W]` f32 in [-1, 1].
    pub(in crate::cli) x_0: Tensor,
    /// The number of each in the data set.
    pub(in crate::cli) numbers: Vec<u64>,
    /// `[N]` i64, for class-conditional networks.
    pub(in crate::cli) classes: Option<Tensor>,
}

impl ImagesArgs {
    /// Decodes the images as the network's training data are, never flipped, and chooses some; `tells` what it finds.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub(in crate::cli) fn load(&self, network: &Pretrained, tells: bool) -> Result<Measured> {
        let loaded = decode(network, self.data.as_ref(), "evaluate", tells)?;
        let seen_in_training = self.data.is_none() && loaded.held_out.is_none();
        let trained_on = TrainedOn::of(network)?;
        trained_on.check_held_out(&loaded, tells)?;
        let loaded = loaded.held_out_or_all(network.device())?;
        let there = loaded.store.len();
        let number = self.number.unwrap_or(USUAL).min(there);
        let chosen = Order::new(self.seed, there).batch(0, number as i64);
        let classes = network.config().model.classes();
        if tells {
            if seen_in_training {
                say(
                    "note: these are the images that the network was trained on; others, named with --data DIR or kept apart \
                     by `ddpm train --hold-out 5%`, tell whether it knows more than those",
                );
            } else if self.data.is_none() {
                say(&loaded.origin);
            } else {
                trained_on.tell(&loaded.manifest);
            }
            self.tell(number, there, classes);
        }
        Ok(Measured {
            loaded,
            numbers: chosen.into_iter().map(|number| number as u64).collect(),
            batch: self.batch as usize,
            classes,
        })
    }

    fn tell(&self, number: u64, there: u64, classes: Option<i64>) {
        match self.number {
            Some(wanted) if wanted > there => {
                say(&format!("note: -n {wanted}: there are only {there}"));
            }
            _ if number < there => say(&format!("{number} of {there}, chosen by --seed")),
            _ => {}
        }
        if let Some(classes) = classes {
            say(&format!(
                "note: this network is class-conditional, and the images have no classes: they are given the {classes} \
                 classes in turn"
            ));
        }
    }
}

impl Measured {
    /// Where they come from.
    pub(in crate::cli) fn origin(&self) -> &str {
        &self.loaded.origin
    }

    /// Values of an image.
    pub(in crate::cli) fn values(&self) -> usize {
        self.loaded.store.pixels().get(0).numel()
    }

    /// Number of batches.
    pub(in crate::cli) fn batches(&self) -> usize {
        self.numbers.len().div_ceil(self.batch)
    }

    /// Digest of the whole data set.
    pub(in crate::cli) fn fingerprint(&self) -> String {
        self.loaded.manifest.fingerprint()
    }

    /// The numbers of the images of batch `k` of [`batches`](Measured::batches).
    pub(in crate::cli) fn numbers_of(&self, k: usize) -> &[u64] {
        let first = k * self.batch;
        &self.numbers[first..self.numbers.len().min(first + self.batch)]
    }

    /// Batch `k` of [`batches`](Measured::batches).
    ///
    /// # Errors
    /// Out of memory.
    pub(in crate::cli) fn get(&self, k: usize, device: Device) -> Result<ImageBatch> {
        let (first, numbers) = (k * self.batch, self.numbers_of(k));
        let indices: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        let classes = self.classes.map(|classes| {
            let place = Tensor::arange(indices.len() as i64, (Kind::Int64, device));
            (place + first as i64).remainder(classes)
        });
        Ok(ImageBatch {
            x_0: self.loaded.store.batch(&indices, None)?,
            numbers: numbers.to_vec(),
            classes,
        })
    }

    /// Adds the name of the image to an error that has its number.
    pub(in crate::cli) fn name(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(&NotFiniteFor { image, .. }) = error.downcast_ref() else {
            return error;
        };
        match self.loaded.manifest.name(image as usize) {
            Some(name) => error.context(format!("image {image} is {name}")),
            None => error,
        }
    }
}

/// Decodes a folder of images as the network's training data are, or those again, for this command.
///
/// # Errors
/// Images that cannot be read; no folder for a network that this program has not trained.
pub(in crate::cli) fn decode(
    network: &Pretrained,
    folder: Option<&PathBuf>,
    command: &str,
    tells: bool,
) -> Result<Loaded> {
    let config = network.config();
    // Of a file of another program, the settings of data are not its own.
    ensure!(
        folder.is_some() || (network.report.is_none() && network.meta.step > 0),
        "{} does not say what its network was trained on; {command} needs images like those: name a folder with --data DIR",
        network.path.display()
    );
    let mut wanted = config.data.clone();
    if folder.is_some() {
        wanted.folder = folder.cloned();
        // That is about the run's own images.
        wanted.hold_out = None;
    }
    let bar = tells.then(DecodeProgress::new);
    let progress = |done, total| bar.iter().for_each(|bar| bar.set(done, total));
    let loaded = data::load(
        &wanted,
        &config.model,
        config.train.seed,
        None,
        network.device(),
        &progress,
    );
    bar.iter().for_each(DecodeProgress::finish);
    let loaded = loaded.with_context(|| {
        format!("{command} needs images like the training data of the model: name a folder with --data DIR")
    })?;
    if tells {
        match loaded.skipped.len() {
            0 => say(&loaded.origin),
            skipped => say(&format!("{}, {skipped} left out", loaded.origin)),
        }
        for notice in loaded.notices() {
            say(&notice);
        }
    }
    Ok(loaded)
}

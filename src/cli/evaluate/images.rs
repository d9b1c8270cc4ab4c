//! The images that a network is measured on.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Tensor};

use super::trained_on::TrainedOn;
use crate::cli::out::say;
use crate::cli::progress::DecodeProgress;
use crate::config::{LabelsFrom, RunConfig, Sources};
use crate::data::{self, Loaded, Order};
use crate::diffusion::{LowResolution, beside};
use crate::evaluate::NotFiniteFor;
use crate::pretrained::Pretrained;
use crate::text::{listed, plural};

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
    /// The class of each image of the data set, for class-conditional networks.
    classes: Option<Vec<i64>>,
    /// What makes the images small for a network that makes them large.
    low_resolution: Option<LowResolution>,
}

/// Some of them.
pub(in crate::cli) struct ImageBatch {
    /// `[N, C, H, W]` f32 in [-1, 1].
    pub(in crate::cli) x_0: Tensor,
    /// The number of each in the data set.
    pub(in crate::cli) numbers: Vec<u64>,
    /// `[N]` i64, for class-conditional networks.
    pub(in crate::cli) classes: Option<Tensor>,
    /// What is given beside x_t, `[N, C, H, W]`, for networks that make images larger.
    condition: Option<Tensor>,
}

impl ImageBatch {
    /// What a network takes of these images, of x_t.
    pub(in crate::cli) fn input(&self, x_t: &Tensor) -> Tensor {
        beside(x_t, self.condition.as_ref())
    }
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
        let classes = match network.config().model.classes() {
            Some(known) => Some(classes_of(&loaded, network.config(), known, tells)?),
            None => None,
        };
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
            self.tell(number, there);
        }
        Ok(Measured {
            loaded,
            numbers: chosen.into_iter().map(|number| number as u64).collect(),
            batch: self.batch as usize,
            classes,
            low_resolution: network.config().upscale.as_ref().map(LowResolution::new),
        })
    }

    fn tell(&self, number: u64, there: u64) {
        match self.number {
            Some(wanted) if wanted > there => {
                say(&format!("note: -n {wanted}: there are only {there}"));
            }
            _ if number < there => say(&format!("{number} of {there}, chosen by --seed")),
            _ => {}
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
        let numbers = self.numbers_of(k);
        let indices: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        let classes = self.classes.as_ref().map(|classes| {
            let own: Vec<i64> = numbers
                .iter()
                .map(|number| classes[*number as usize])
                .collect();
            Tensor::from_slice(&own).to_device(device)
        });
        let x_0 = self.loaded.store.batch(&indices, None)?;
        let condition = self.low_resolution.map(|small| small.condition(&x_0));
        Ok(ImageBatch {
            x_0,
            condition,
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

/// The class of each image, in the numbers of a network of `known` classes: by its label, or in turn where there are none.
///
/// # Errors
/// Labels that are not the network's classes; an image without one, for a network that must always have a class.
fn classes_of(loaded: &Loaded, config: &RunConfig, known: i64, tells: bool) -> Result<Vec<i64>> {
    let Some(labels) = &loaded.labels else {
        if tells {
            say(&format!(
                "note: this network is class-conditional, and the images have no classes: they are given the {known} \
                 classes in turn"
            ));
        }
        return Ok((0..loaded.store.len() as i64)
            .map(|place| place % known)
            .collect());
    };
    let names = config
        .conditional
        .as_ref()
        .map_or(&[][..], |conditional| &conditional.classes);
    let place = |name: &String| names.iter().position(|known| known == name);
    let numbered = |name: &String| {
        name.parse()
            .ok()
            .filter(|number| (0..known).contains(number))
    };
    let by_name = labels.names.iter().any(|name| place(name).is_some());
    let numbers: Option<Vec<i64>> = labels.names.iter().map(numbered).collect();
    let to: Vec<Option<i64>> = match names.is_empty() {
        true => (0..labels.names.len() as i64).map(Some).collect(),
        false if !by_name => {
            let numbers = numbers.with_context(|| {
                format!(
                    "none of the classes of these images ({}) is one of the network's ({}), by name or number",
                    listed(&labels.names),
                    listed(names)
                )
            })?;
            if tells {
                say(
                    "note: the classes of these images are numbers, and are taken for those of the network",
                );
            }
            numbers.into_iter().map(Some).collect()
        }
        false => (labels.names.iter())
            .map(|name| place(name).map(|place| place as i64))
            .collect(),
    };
    ensure!(
        !names.is_empty() || to.len() as i64 == known,
        "the images are of {}, and the network has {known}, whose names it does not say; leave out their labels, or name \
         images of as many classes",
        plural(to.len() as u64, "class")
    );
    let is_lost = |class: &&Option<u32>| class.is_none_or(|class| to[class as usize].is_none());
    let lost = labels.of.iter().filter(is_lost).count() as u64;
    if lost > 0 && tells && config.model.null_class().is_some() {
        let images = plural(lost, "image");
        say(&format!(
            "warning: {images} of none of the network's classes ({}): measured as of no class",
            listed(names)
        ));
    }
    let class = |(place, class): (usize, &Option<u32>)| {
        let own = class.and_then(|class| to[class as usize]);
        own.or(config.model.null_class()).with_context(|| {
            let image = loaded.manifest.name(place).unwrap_or_default();
            format!("{image} is of none of the network's classes, and it must always have one")
        })
    };
    labels.of.iter().enumerate().map(class).collect()
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
        wanted.folder = folder.cloned().map(Sources::from);
        // That is about the run's own images.
        wanted.hold_out = None;
        wanted.labels = Some(LabelsFrom::Auto);
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

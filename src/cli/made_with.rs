//! What images were made with, for the PNG files that hold them.
//!
//! Files of two commands that make the same images hold the same text: nothing of where they are written, of when, of ranks, or
//! of images that have no part in theirs.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use tch::Tensor;

use super::args::class::class_name;
use super::command_line::CommandLine;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::pretrained::{Guided, Pretrained, network_settings};
use crate::report::{
    GuidanceSettings, ImageSettings, OfClass, SamplerSettings, StageSettings, StartSettings,
};
use crate::sample::Classes;

/// Images in a batch, where nothing is said of it.
const USUAL_BATCH: u64 = 16;

/// `--no-metadata`, for commands that make images.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct MetadataArg {
    /// Leave the settings out of the PNG files
    ///
    /// Without it, each holds what it was made with, and the command that makes it again: `ddpm inspect FILE.png`. Paths stand
    /// there as they are given.
    #[arg(long, hide_short_help = true)]
    no_metadata: bool,
}

impl MetadataArg {
    /// What goes into the files.
    pub(super) fn wanted(self, made_with: &MadeWith) -> Option<&MadeWith> {
        (!self.no_metadata).then_some(made_with)
    }
}

/// The settings of all images of a command.
#[derive(Debug)]
pub(super) struct MadeWith {
    all: ImageSettings,
    line: Option<CommandLine>,
    each: Each,
}

/// What tells the images of a command apart.
#[derive(Debug, Default)]
struct Each {
    /// How many there are.
    number: u64,
    /// Images in a batch.
    batch: u64,
    /// Whether an image is another one if there are more of them.
    depends_on_number: bool,
    /// The class of each, by number and name.
    classes: Vec<Option<OfClass>>,
}

impl MadeWith {
    /// The settings that all commands have.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(super) fn new(
        guided: &Guided,
        sampler: SamplerSettings,
        device: &Chosen,
    ) -> Result<MadeWith> {
        let network = guided.network();
        let all = ImageSettings {
            ddpm: env!("CARGO_PKG_VERSION").to_owned(),
            network: network_settings(network)?,
            sampler,
            guidance: guidance_settings(guided)?,
            device: device.kind().to_owned(),
            precision: device.precision.to_string(),
            environment: Some(device.environment.clone()),
            ..ImageSettings::default()
        };
        let mut line = CommandLine::of_process();
        if let Some(line) = &mut line {
            // A run goes on, and its newest checkpoint is then another one.
            line.set("checkpoint", None, vec![network.path.clone().into()]);
            if let Some(other) = guided.other() {
                line.set(
                    "guide_with",
                    Some("--guide-with"),
                    vec![other.path.clone().into()],
                );
            }
            if guided.guidance().is_none() {
                line.leave_out("guidance");
            }
        }
        Ok(MadeWith {
            all,
            line,
            each: Each::default(),
        })
    }

    /// Adds settings of one command.
    pub(super) fn with(mut self, change: impl FnOnce(&mut ImageSettings)) -> MadeWith {
        change(&mut self.all);
        self
    }

    /// The networks of --then, which make the images larger.
    pub(super) fn with_stages(
        mut self,
        stages: Vec<StageSettings>,
        networks: &[Pretrained],
    ) -> MadeWith {
        self.all.then = stages;
        if let (Some(line), false) = (&mut self.line, networks.is_empty()) {
            let paths = networks.iter().map(|network| network.path.clone().into());
            line.set("then", Some("--then"), paths.collect());
        }
        self
    }

    /// `number` images, `batch` at a time. With `depends_on_number`, an image is another one if there are more.
    pub(super) fn with_batches(
        mut self,
        number: u64,
        batch: u64,
        depends_on_number: bool,
    ) -> MadeWith {
        self.all.batch = Some(batch);
        self.each.number = number;
        self.each.batch = batch.max(1);
        self.each.depends_on_number = depends_on_number;
        self
    }

    /// The classes that were asked for, and that of each image: `[N]` i64.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn with_classes(
        mut self,
        config: &RunConfig,
        classes: &Classes,
        labels: Option<&Tensor>,
    ) -> Result<MadeWith> {
        let (Some(known), Some(labels)) = (config.model.classes(), labels) else {
            return Ok(self);
        };
        let name = |class: i64| class_name(class as usize, config);
        self.all.classes = Some(match classes {
            Classes::All => "all".to_owned(),
            Classes::AsOften(_) => "data".to_owned(),
            Classes::None => "none".to_owned(),
            Classes::These(these) => {
                let names: Vec<String> = these.iter().map(|class| name(*class)).collect();
                names.join(",")
            }
        });
        let of = |number: i64| {
            (number < known).then(|| OfClass {
                number,
                name: name(number),
            })
        };
        let labels: Vec<i64> = labels.try_into()?;
        self.each.classes = labels.into_iter().map(of).collect();
        Ok(self)
    }

    /// One line of JSON for the file of image `number`.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn of_image(&self, number: u64) -> Result<String> {
        let each = &self.each;
        // The images of its batch have a part in its last bits; those behind have none.
        let end = match each.depends_on_number {
            true => each.number,
            false => (number / each.batch + 1) * each.batch,
        };
        let settings = ImageSettings {
            image: Some(number),
            class: (each.classes.get(number as usize)).cloned().flatten(),
            classes: None,
            command: self.command(end.min(each.number), true),
            ..self.all.clone()
        };
        Ok(settings.to_json()?)
    }

    /// One line of JSON for a file of all images.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn of_all(&self) -> Result<String> {
        Ok(self.settings_of_all().to_json()?)
    }

    /// One line of JSON for an animation or a strip of all images, which their command alone does not make.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn of_frames(&self) -> Result<String> {
        let settings = ImageSettings {
            command: None,
            ..self.settings_of_all()
        };
        Ok(settings.to_json()?)
    }

    /// The settings of all images.
    pub(super) fn settings_of_all(&self) -> ImageSettings {
        ImageSettings {
            images: Some(self.each.number),
            command: self.command(self.each.number, false),
            ..self.all.clone()
        }
    }

    /// One line of JSON for image `number`, which was made of a file.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn of_file(&self, number: u64, file: &Path) -> Result<String> {
        let start = StartSettings {
            image: as_given(file),
            ..StartSettings::default()
        };
        let settings = ImageSettings {
            image: Some(number),
            class: (self.each.classes.get(number as usize)).cloned().flatten(),
            classes: None,
            start: Some(start),
            command: self.command_as_given(),
            ..self.all.clone()
        };
        Ok(settings.to_json()?)
    }

    /// One line of JSON for the only file of a command.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn of_figure(&self) -> Result<String> {
        let settings = ImageSettings {
            command: self.command_as_given(),
            ..self.all.clone()
        };
        Ok(settings.to_json()?)
    }

    /// The command for all that it made.
    fn command_as_given(&self) -> Option<String> {
        let mut line = self.line.clone()?;
        // What --batch auto has found, it might not find again.
        if let (Some(batch), true) = (self.all.batch, line.has("batch")) {
            line.set("batch", Some("--batch"), vec![batch.to_string().into()]);
        }
        line.line()
    }

    /// The command for the first `number` images.
    fn command(&self, number: u64, separate: bool) -> Option<String> {
        let mut line = self.line.clone()?;
        line.set("number", Some("-n"), vec![number.to_string().into()]);
        line.leave_out("batch");
        if self.each.batch != USUAL_BATCH.min(number) {
            let batch = OsString::from(self.each.batch.to_string());
            line.set("batch", Some("--batch"), vec![batch]);
        }
        if separate {
            line.set("separate", Some("--separate"), vec!["images".into()]);
        }
        line.line()
    }
}

fn guidance_settings(guided: &Guided) -> Result<Option<GuidanceSettings>> {
    let guidance = guided.guidance();
    if guidance.is_none() {
        return Ok(None);
    }
    Ok(Some(GuidanceSettings {
        scale: guidance.scale,
        interval: guidance.interval,
        rescale: guidance.rescale,
        with: guided.other().map(network_settings).transpose()?,
    }))
}

/// A path as it was given.
pub(super) fn as_given(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

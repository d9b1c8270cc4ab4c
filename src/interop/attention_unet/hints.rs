//! Settings that a file leaves open: from the user's hints, then from the published settings of a known
//! file; the rest is assumed, and reported, or is missing.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::checkpoint::{Family, Origin};
use crate::config::{
    AttentionUNetConfig, DiffusionConfig, LossKind, MAX_SIDE, ModelConfig, Prediction,
    SampleConfig, ScheduleKind, Sigma, sides_wanted,
};
use crate::interop::Known;
use crate::interop::Settings;
use crate::interop::settings::spelled;
use crate::interop::{Hints, MissingHint, Report};

/// Hints for one file, and their entries in the report.
pub(in crate::interop) struct HintReader<'a> {
    given: &'a Hints,
    /// `given` over the published settings.
    hints: Hints,
    /// Known files with the same shapes.
    alike: Vec<Known>,
    report: &'a mut Report,
}

/// One open setting: the hint's field, its flag with a metavar, its meaning.
#[derive(Clone, Copy)]
pub(in crate::interop) struct Question<T> {
    pub(in crate::interop) field: fn(&Hints) -> Option<T>,
    pub(in crate::interop) flag: &'static str,
    pub(in crate::interop) about: &'static str,
}

const SCHEDULE: Question<ScheduleKind> = Question {
    field: |h| h.schedule,
    flag: "--schedule NAME",
    about: "noise schedule: linear or cosine",
};

const TIMESTEPS: Question<i64> = Question {
    field: |h| h.timesteps,
    flag: "--timesteps T",
    about: "number of time steps: usually 1000 or 4000",
};

const PREDICTION: Question<Prediction> = Question {
    field: |h| h.prediction,
    flag: "--prediction KIND",
    about: "what the network predicts",
};

const SIGMA: Question<Sigma> = Question {
    field: |h| h.sigma,
    flag: "--sigma KIND",
    about: "noise of the reverse steps: beta (fixedlarge) or posterior (fixedsmall)",
};

impl<'a> HintReader<'a> {
    /// Takes the hints for a file of `family` that holds `model`.
    ///
    /// # Errors
    /// `known` is another family's file, or one of other shapes; `blocks` contradicts the shapes.
    pub(in crate::interop) fn new(
        family: Family,
        model: &AttentionUNetConfig,
        given: &'a Hints,
        report: &'a mut Report,
    ) -> Result<HintReader<'a>> {
        let blocks = given.blocks.unwrap_or(model.blocks);
        ensure!(
            blocks == model.blocks,
            "blocks = {blocks}: the levels in the file have {} residual blocks; leave blocks out",
            model.blocks
        );
        let hints = match given.known {
            Some(known) => {
                refuse_wrong(known, family, model)?;
                known.over(given)
            }
            None => given.clone(),
        };
        let mut alike = Known::like(model);
        alike.retain(|known| known.family() == family);
        Ok(HintReader {
            given,
            hints,
            alike,
            report,
        })
    }

    /// All hints, given and published.
    pub(in crate::interop) fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The hint, noted with its source.
    pub(in crate::interop) fn take<T>(&mut self, question: Question<T>) -> Option<T>
    where
        T: Serialize + Copy,
    {
        let value = (question.field)(&self.hints)?;
        let flag = name_of(question.flag);
        let from = match (self.given.known, (question.field)(self.given)) {
            (Some(known), None) => format!("--known {}", known.name()),
            _ => flag.to_owned(),
        };
        let what = flag.trim_start_matches('-').replace('-', " ");
        self.report.fact(what, spelled(&value), from);
        Some(value)
    }

    /// The hint; without one it is noted as missing, and `placeholder` returned.
    pub(in crate::interop) fn need<T: Serialize + Copy>(
        &mut self,
        question: Question<T>,
        placeholder: T,
    ) -> T {
        match self.take(question) {
            Some(value) => value,
            None => {
                self.lacks(question.flag, question.about);
                placeholder
            }
        }
    }

    /// The hint, or `value`, noted as an assumption with the reason.
    pub(in crate::interop) fn or_assume<T: Serialize + Copy>(
        &mut self,
        question: Question<T>,
        value: T,
        why: &str,
    ) -> T {
        let flag = name_of(question.flag);
        match self.take(question) {
            Some(value) => value,
            None => {
                let setting = setting_of(flag);
                self.report.assume(format!(
                    "{setting} = {}: {why}; set `hints.{setting}` to override",
                    spelled(&value)
                ));
                value
            }
        }
    }

    /// The hint, or `value`, which the family's code uses.
    pub(in crate::interop) fn or_family<T: Serialize + Copy>(
        &mut self,
        question: Question<T>,
        value: T,
    ) -> T {
        match self.take(question) {
            Some(value) => value,
            None => {
                let what = name_of(question.flag).trim_start_matches('-');
                self.fact(&what.replace('-', " "), &spelled(&value));
                value
            }
        }
    }

    /// Notes what the family's code always does.
    pub(in crate::interop) fn fact(&mut self, what: &str, value: &str) {
        self.report.fact(what, value, "family");
    }

    /// Notes what was seen in the file.
    pub(in crate::interop) fn seen(&mut self, what: &str, value: &str, from: &str) {
        self.report.fact(what, value, from);
    }

    /// Notes what is missing, and which known files have these shapes.
    pub(in crate::interop) fn lacks(&mut self, flag: &str, about: &str) {
        let names: Vec<String> = self.alike.iter().map(|known| known.name()).collect();
        let alike = if names.is_empty() {
            String::new()
        } else {
            let names = names.join(" or ");
            format!(" (these shapes are those of `hints.known` = {names}, which sets it)")
        };
        self.report.missing.push(MissingHint {
            flag: flag.to_owned(),
            about: format!("{about}{alike}"),
        });
    }

    /// T, which must be given.
    pub(in crate::interop) fn need_timesteps(&mut self) -> Result<Option<i64>> {
        let timesteps = self.take(TIMESTEPS);
        match timesteps {
            Some(value) => check_timesteps(value, "timesteps")?,
            None => self.lacks(TIMESTEPS.flag, TIMESTEPS.about),
        }
        Ok(timesteps)
    }

    /// T, which the family's code fixes.
    pub(in crate::interop) fn family_timesteps(&mut self, value: i64) -> Result<i64> {
        let timesteps = self.or_family(TIMESTEPS, value);
        check_timesteps(timesteps, "timesteps")?;
        Ok(timesteps)
    }

    /// The schedule, which must be given.
    pub(in crate::interop) fn need_schedule(&mut self) -> Result<ScheduleKind> {
        let schedule = self.need(SCHEDULE, ScheduleKind::Linear);
        named(schedule)
    }

    /// Ho et al.'s 1e-4 to 0.02, whatever T is, unless a hint names another schedule.
    ///
    /// Our linear schedule is scaled where T is not 1000, so that other T need the betas themselves.
    pub(in crate::interop) fn linear_betas(
        &mut self,
        timesteps: i64,
        always: bool,
    ) -> Result<(ScheduleKind, Vec<f64>)> {
        let schedule = if always {
            self.or_family(SCHEDULE, ScheduleKind::Linear)
        } else {
            let why = "betas from 1e-4 to 0.02 are its default, and the file does not say";
            self.or_assume(SCHEDULE, ScheduleKind::Linear, why)
        };
        if named(schedule)? != ScheduleKind::Linear || timesteps == 1000 {
            return Ok((schedule, Vec::new()));
        }
        let gap = (0.02 - 1e-4) / (timesteps - 1) as f64;
        let betas = (0..timesteps).map(|t| 1e-4 + gap * t as f64).collect();
        Ok((ScheduleKind::Explicit, betas))
    }

    /// The kind of prediction: the noise, unless a hint differs.
    pub(in crate::interop) fn prediction(&mut self, why: &str) -> Prediction {
        self.or_assume(PREDICTION, Prediction::Eps, why)
    }

    /// Noise of the reverse steps of a network that does not learn it: `default` with its reason, or a
    /// hint that must be given.
    pub(in crate::interop) fn fixed_sigma(
        &mut self,
        default: Option<(Sigma, &str)>,
    ) -> Result<Sigma> {
        let sigma = match default {
            Some((value, why)) => self.or_assume(SIGMA, value, why),
            None => self.need(SIGMA, Sigma::Beta),
        };
        ensure!(
            sigma != Sigma::Learned,
            "sigma = learned: this network predicts no variance, want beta or posterior"
        );
        Ok(sigma)
    }

    /// Noise of the reverse steps of a network that learns it; a hint may choose another.
    pub(in crate::interop) fn learned_sigma(&mut self) -> Sigma {
        self.seen("sigma", "learned", "shapes");
        Sigma::Learned
    }

    /// True if x_0 is clipped; `family` is what the family's sampler does.
    pub(in crate::interop) fn clip_x0(&mut self, family: bool) -> bool {
        let question = Question {
            field: |h| h.clip_x0,
            flag: "--clip-x0",
            about: "",
        };
        self.or_family(question, family)
    }

    /// Height and width, which no shape of the network gives.
    pub(in crate::interop) fn need_image_size(
        &mut self,
        model: &mut AttentionUNetConfig,
    ) -> Result<()> {
        let question = Question {
            field: |h| h.image_size,
            flag: "--image-size HxW",
            about: "height and width of an image, in pixels",
        };
        match self.take(question) {
            Some(size) => set_image_size(model, size, "image_size"),
            None => {
                self.lacks(question.flag, question.about);
                Ok(())
            }
        }
    }

    /// Dropout, which matters only for further training.
    pub(in crate::interop) fn dropout(&mut self) -> Result<f64> {
        let question = Question {
            field: |h| h.dropout,
            flag: "--dropout P",
            about: "",
        };
        let why = "not in the file, and it matters only for further training";
        let dropout = self.or_assume(question, 0.0, why);
        ensure!(
            (0.0..1.0).contains(&dropout),
            "dropout = {dropout}: want 0 <= dropout < 1"
        );
        Ok(dropout)
    }
}

/// Sets the size of an image, which all halvings must divide evenly.
///
/// # Errors
/// A size of 0 or below, a huge one, or one that the levels cannot halve.
pub(in crate::interop) fn set_image_size(
    model: &mut AttentionUNetConfig,
    (height, width): (i64, i64),
    from: &str,
) -> Result<()> {
    let halvings = model.widths.len().saturating_sub(1);
    let factor = 1i64 << halvings.min(62);
    for side in [height, width] {
        ensure!(
            (1..=MAX_SIDE).contains(&side) && side % factor == 0,
            "{from} = {height} × {width}: for each side {}",
            sides_wanted(factor)
        );
    }
    (model.height, model.width) = (height, width);
    Ok(())
}

/// Refuses a number of time steps that no schedule has.
pub(in crate::interop) fn check_timesteps(timesteps: i64, from: &str) -> Result<()> {
    ensure!(
        (2..=100_000).contains(&timesteps),
        "{from}: {timesteps} time steps, want 2 to 100000"
    );
    Ok(())
}

/// Refuses hints about settings that a family with plain attention and plain time never varies.
pub(in crate::interop) fn refuse_openai_hints(hints: &Hints, family: &str) -> Result<()> {
    let settings = [
        ("num_heads", hints.num_heads.is_some()),
        ("num_heads_upsample", hints.num_heads_upsample.is_some()),
        ("head_channels", hints.head_channels.is_some()),
        ("attention_order", hints.attention_order.is_some()),
        ("rescale_timesteps", hints.rescale_timesteps.is_some()),
    ];
    for (setting, given) in settings {
        ensure!(
            !given,
            "{setting} has no meaning for a file of {family}: its attention has one head and separate \
             weights, and its network sees t unscaled; leave {setting} out"
        );
    }
    ensure!(
        hints.null_class.is_none(),
        "null_class has no meaning for a file of {family}: its network has no classes; leave null_class out"
    );
    Ok(())
}

/// The settings of a file, whose family adds no noise at the last step and trains with the mean squared
/// error.
pub(in crate::interop) fn settings(
    model: AttentionUNetConfig,
    (timesteps, schedule, betas): (i64, ScheduleKind, Vec<f64>),
    prediction: Prediction,
    (sigma, clip_x0): (Sigma, bool),
    origin: Origin,
) -> Settings {
    Settings {
        model: ModelConfig::UnetAttention(model),
        diffusion: DiffusionConfig {
            timesteps,
            schedule,
            betas,
            prediction,
            loss: LossKind::Mse,
        },
        sample: SampleConfig {
            sigma,
            clip_x0,
            last_noise: false,
            images: 0,
            every_steps: 0,
        },
        origin,
    }
}

fn refuse_wrong(known: Known, family: Family, model: &AttentionUNetConfig) -> Result<()> {
    let name = known.name();
    ensure!(
        known.family() == family,
        "known = {name}: that is a file of {}, this one is of {}",
        family_name(known.family()),
        family_name(family)
    );
    let differences = known.shape().differences(model);
    ensure!(
        differences.is_empty(),
        "known = {name}: that is another file than this one, which has {}",
        differences.join(", ")
    );
    Ok(())
}

fn family_name(family: Family) -> String {
    let value = family.to_possible_value();
    value.map_or_else(|| format!("{family:?}"), |v| v.get_name().to_owned())
}

fn named(schedule: ScheduleKind) -> Result<ScheduleKind> {
    ensure!(
        schedule != ScheduleKind::Explicit,
        "schedule = explicit: the file holds no betas, want a named schedule"
    );
    Ok(schedule)
}

/// The setting behind a flag: `num_heads` of `--num-heads`.
fn setting_of(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

fn name_of(flag: &'static str) -> &'static str {
    flag.split(' ').next().unwrap_or(flag)
}

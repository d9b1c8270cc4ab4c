//! What a caller makes of a file: a setting that plays no part in it is not asked for.

use anyhow::{Result, ensure};

use super::hints::Hints;
use super::report::Report;
use super::settings::{Settings, spelled};
use crate::checkpoint::Family;
use crate::config::{ModelConfig, SampleConfig, Sigma};

/// The settings, of those that a file may leave open, that play a part in what a caller does with it. The network's own
/// always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Height and width of the images.
    pub image_size: bool,
    /// The noise schedule.
    pub schedule: bool,
    /// The number of time steps.
    pub timesteps: bool,
    /// What the network predicts.
    pub prediction: bool,
    /// The noise of ddpm's reverse steps.
    pub sigma: bool,
    /// Clipping of the predicted x_0.
    pub clip_x0: bool,
    /// Dropout, for further training.
    pub dropout: bool,
}

impl Uses {
    /// All of them: the settings are kept.
    pub const ALL: Uses = Uses {
        image_size: true,
        schedule: true,
        timesteps: true,
        prediction: true,
        sigma: true,
        clip_x0: true,
        dropout: true,
    };

    /// None of them: the bare network, from x_t and t to its output.
    pub const NETWORK: Uses = Uses {
        image_size: false,
        schedule: false,
        timesteps: false,
        prediction: false,
        sigma: false,
        clip_x0: false,
        dropout: false,
    };

    /// The process without ddpm's own noise: ODE samplers, inversion, measuring.
    pub const PROCESS: Uses = Uses {
        sigma: false,
        dropout: false,
        ..Uses::ALL
    };

    /// The given hints that play no part, whatever the file. A network may depend on T and on the size of the images.
    pub fn idle(self, hints: &Hints) -> Vec<&'static str> {
        let names = hints.given().into_iter().map(|(name, _)| name);
        let network = |name: &str| matches!(name, "timesteps" | "image_size");
        names
            .filter(|name| !network(name) && !self.of(name))
            .collect()
    }

    /// True if a setting plays a part.
    fn of(self, setting: &str) -> bool {
        match setting {
            "image_size" => self.image_size,
            "schedule" => self.schedule,
            "timesteps" => self.timesteps,
            "prediction" => self.prediction,
            "sigma" => self.sigma,
            "clip_x0" => self.clip_x0,
            "dropout" => self.dropout,
            _ => true,
        }
    }

    /// [`Uses::of`] what a file was found to describe: its network may itself depend on T or on the images' size.
    fn of_file(self, settings: &Settings, hints: &Hints) -> Uses {
        let openai = settings.origin.family == Family::Openai;
        Uses {
            // The size decides how often it pools.
            image_size: self.image_size || matches!(settings.model, ModelConfig::Unet(_)),
            // It may see t · 1000 / T.
            timesteps: self.timesteps || (openai && hints.rescale_timesteps != Some(false)),
            ..self
        }
    }

    /// Puts the sampler's settings of `hints` that play a part in place of those of a file, as they describe the
    /// sampler and not the network; returns a sentence for each that differs.
    ///
    /// # Errors
    /// A learned sigma for a network of `model` that learns none.
    pub(crate) fn replace(
        self,
        hints: &Hints,
        sample: &mut SampleConfig,
        model: &ModelConfig,
    ) -> Result<Vec<String>> {
        let sigma = hints.sigma.filter(|_| self.sigma);
        let clip_x0 = hints.clip_x0.filter(|_| self.clip_x0);
        ensure!(
            sigma != Some(Sigma::Learned) || model.learned_variance(),
            "`hints.sigma` = learned: this network learns no variances; expected beta or posterior"
        );
        let mut said = Vec::new();
        if let Some(sigma) = sigma.filter(|sigma| *sigma != sample.sigma) {
            let theirs = std::mem::replace(&mut sample.sigma, sigma);
            let (ours, theirs) = (spelled(&sigma), spelled(&theirs));
            said.push(format!(
                "`hints.sigma` = {ours} instead of the file's {theirs}"
            ));
        }
        if let Some(clip) = clip_x0.filter(|clip| *clip != sample.clip_x0) {
            let theirs = std::mem::replace(&mut sample.clip_x0, clip);
            said.push(format!(
                "`hints.clip_x0`={clip} instead of the file's {theirs}"
            ));
        }
        Ok(said)
    }

    /// Drops questions and assumptions about settings that play no part from the report, and fills those settings in.
    pub(super) fn trim(self, settings: &mut Settings, hints: &Hints, report: &mut Report) {
        let uses = self.of_file(settings, hints);
        let (asked, idle): (Vec<_>, Vec<_>) = (report.missing.drain(..))
            .partition(|hint| hint.setting().split(" or ").any(|name| uses.of(name)));
        report.missing = asked;
        report
            .assumptions
            .retain(|text| overridable(text).is_none_or(|name| uses.of(name)));
        for hint in idle {
            match hint.setting().as_str() {
                "image_size" => {
                    let [channels, ..] = settings.model.chw();
                    let side = settings.model.size_factor();
                    settings.model.set_chw([channels, side, side]);
                }
                "timesteps" => {
                    let timesteps = settings.diffusion.timesteps;
                    report.assume(format!(
                        "timesteps = {timesteps}: the network itself does not depend on it; set `hints.timesteps` to \
                         override"
                    ));
                }
                _ => {}
            }
        }
    }
}

impl Default for Uses {
    fn default() -> Uses {
        Uses::ALL
    }
}

/// The setting that an assumption offers to override.
fn overridable(assumption: &str) -> Option<&str> {
    let (_, offered) = assumption.split_once("set `hints.")?;
    offered.split_once('`').map(|(name, _)| name)
}

//! Evaluations of a run while it is trained: when, of what, and by how many images.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::validate::require;
use super::{ConfigError, RunConfig};

/// A measure of a network in training. Of all, less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Loss on images held out: the mean squared error of what the network predicts.
    Loss,
    /// Bits per dimension of images held out: the variational bound.
    Bpd,
    /// Sliced Wasserstein distance of samples from images held out, or from those of the training.
    Swd,
    /// Fréchet distance of the same, by the features of random convolutions.
    Fid,
}

impl Metric {
    /// Its name in settings and metrics.jsonl.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Bpd => "bpd",
            Metric::Swd => "swd",
            Metric::Fid => "fid",
        }
    }

    /// True if it looks at samples.
    pub fn samples(self) -> bool {
        matches!(self, Metric::Swd | Metric::Fid)
    }
}

/// Samplers of few steps that evaluations can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuickSampler {
    /// With noise, which young networks need.
    #[default]
    #[serde(rename = "dpmpp-2m-sde")]
    DpmPp2mSde,
    /// Without noise.
    #[serde(rename = "dpmpp-2m")]
    DpmPp2m,
    /// Without noise, of first order.
    Ddim,
    /// Ancestral sampling: all T steps.
    Ddpm,
}

/// Evaluations while training; a run without this table has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations; there is one after the last step, too.
    pub every_steps: u64,
    /// What is measured, of the EMA weights.
    #[serde(default = "loss_alone")]
    pub metrics: Vec<Metric>,
    /// The one by which a step is the best of the run; none for the first of `metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Metric>,
    /// Images that are sampled, and most of those held out that are used.
    #[serde(default = "some_images")]
    pub images: u64,
    /// Loss and bits per dimension are measured at one out of so many successive time steps.
    #[serde(default = "tenth")]
    pub every_t: usize,
    /// Sampler of the samples.
    #[serde(default)]
    pub sampler: QuickSampler,
    /// Its steps; all T if the network has fewer.
    #[serde(default = "few_steps")]
    pub steps: usize,
    /// Evaluations without a better value after which the run ends; none for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

fn loss_alone() -> Vec<Metric> {
    vec![Metric::Loss]
}

fn some_images() -> u64 {
    256
}

fn tenth() -> usize {
    10
}

fn few_steps() -> usize {
    20
}

impl EvaluationConfig {
    /// One evaluation each `every_steps`, all else by default.
    pub fn new(every_steps: u64) -> EvaluationConfig {
        EvaluationConfig {
            every_steps,
            metrics: loss_alone(),
            best: None,
            images: some_images(),
            every_t: tenth(),
            sampler: QuickSampler::default(),
            steps: few_steps(),
            patience: None,
        }
    }

    /// The metric that decides which step is the best.
    ///
    /// # Panics
    /// Without metrics.
    pub fn deciding(&self) -> Metric {
        self.best.unwrap_or_else(|| self.metrics[0])
    }

    pub(super) fn validate(&self, run: &RunConfig) -> Result<(), ConfigError> {
        require(
            self.every_steps > 0,
            "evaluation.every_steps",
            self.every_steps,
            "want at least 1; leave the table out for no evaluations",
        )?;
        let names: Vec<&str> = self.metrics.iter().map(|metric| metric.name()).collect();
        let shown = names.join(",");
        let twice = |(place, name): (usize, &&str)| names[..place].contains(name);
        require(
            !names.is_empty() && !names.iter().enumerate().any(twice),
            "evaluation.metrics",
            &shown,
            "want one or more of loss, bpd, swd and fid, each once",
        )?;
        let blind = self.metrics.iter().find(|metric| !metric.samples());
        require(
            blind.is_none() || run.data.hold_out.is_some(),
            "evaluation.metrics",
            &shown,
            "loss and bpd are of images that are not trained on: hold some out with `data.hold_out`, or measure swd or fid",
        )?;
        let [channels, height, width] = run.model.chw();
        require(
            !self.metrics.contains(&Metric::Swd) || height.min(width) >= 16,
            "evaluation.metrics",
            &shown,
            format!("images of {width}x{height} are too small for swd, which needs 16 pixels"),
        )?;
        require(
            !self.metrics.iter().any(|metric| metric.samples()) || matches!(channels, 1 | 3),
            "evaluation.metrics",
            &shown,
            format!("swd and fid are of images with 1 or 3 channels, and these have {channels}"),
        )?;
        let deciding = self.best.is_none_or(|best| self.metrics.contains(&best));
        require(
            deciding,
            "evaluation.best",
            self.best.map_or("", Metric::name),
            format!("want one of those measured: {shown}"),
        )?;
        require(
            (2..=100_000).contains(&self.images),
            "evaluation.images",
            self.images,
            "want 2 to 100000 images",
        )?;
        require(
            self.every_t > 0,
            "evaluation.every_t",
            self.every_t,
            "want at least 1, for all time steps",
        )?;
        require(
            self.steps > 0,
            "evaluation.steps",
            self.steps,
            "want at least 1 step of the sampler",
        )?;
        require(
            self.patience != Some(0),
            "evaluation.patience",
            0,
            "want at least 1 evaluation; leave it out for a run that does all its steps",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HoldOut, Preset};

    fn with(text: &str) -> RunConfig {
        RunConfig::from_toml(text, Preset::Demo).unwrap()
    }

    #[test]
    fn settings_that_name_no_evaluation_stay_the_same_text() {
        let mut config = Preset::Demo.config();
        let text = config.to_toml().unwrap();
        assert!(!text.contains("evaluation"), "{text}");
        config.data.hold_out = Some(HoldOut::Number(3));
        config.evaluation = Some(EvaluationConfig::new(10));
        let text = config.to_toml().unwrap();
        assert_eq!(RunConfig::of_a_run(&text), Some(config.clone()));
        assert_eq!(config.validate(), Ok(vec![]));
        let some = with("[evaluation]\nevery_steps = 10\n");
        assert_eq!(some.evaluation, config.evaluation);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        let refused = |edit: &dyn Fn(&mut EvaluationConfig)| {
            let mut config = Preset::Demo.config();
            let mut evaluation = EvaluationConfig::new(5);
            evaluation.metrics = vec![Metric::Fid, Metric::Swd];
            edit(&mut evaluation);
            config.evaluation = Some(evaluation);
            config
                .validate()
                .map_err(|error| (error.setting, error.wanted))
        };
        assert_eq!(refused(&|_| ()), Ok(vec![]));
        for metric in [Metric::Loss, Metric::Bpd] {
            let (setting, wanted) = refused(&|e| e.metrics = vec![metric]).unwrap_err();
            assert_eq!(setting, "evaluation.metrics");
            assert!(wanted.contains("`data.hold_out`"), "{wanted}");
        }
        let name = |edit: &dyn Fn(&mut EvaluationConfig)| refused(edit).unwrap_err().0;
        assert_eq!(name(&|e| e.every_steps = 0), "evaluation.every_steps");
        assert_eq!(name(&|e| e.metrics.clear()), "evaluation.metrics");
        assert_eq!(
            name(&|e| e.metrics = vec![Metric::Fid; 2]),
            "evaluation.metrics"
        );
        assert_eq!(name(&|e| e.best = Some(Metric::Bpd)), "evaluation.best");
        assert_eq!(name(&|e| e.images = 1), "evaluation.images");
        assert_eq!(name(&|e| e.every_t = 0), "evaluation.every_t");
        assert_eq!(name(&|e| e.steps = 0), "evaluation.steps");
        assert_eq!(name(&|e| e.patience = Some(0)), "evaluation.patience");
        let mut small = Preset::Demo.config();
        small.model.set_chw([3, 8, 8]);
        small.evaluation = with("[evaluation]\nevery_steps = 1\nmetrics = [\"swd\"]\n").evaluation;
        let said = small.validate().unwrap_err().to_string();
        assert!(said.contains("too small for swd"), "{said}");
    }
}

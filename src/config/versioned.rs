//! Settings that keep a run as it began: what they are where a text does not name them depends on whose text it is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{ImageRules, LabelsFrom, RunConfig};

/// Draws that the noise and the dropout of a training step are made of. In settings that do not name any: by batch.
///
/// A run keeps those that it began with, so that it goes on with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Draws {
    /// As in older runs: eps is one draw over the batch, dropout one stream through all microbatches.
    Batch,
    /// A draw for the eps of each image, and one stream of dropout for each microbatch: any share of a batch can be
    /// drawn alone.
    Image,
}

impl Draws {
    /// The draws of a new run.
    pub const LATEST: Self = Self::Image;

    /// The draws of a run whose settings do not name any.
    pub(super) fn unnamed() -> Self {
        Unnamed::OLD.draws
    }

    /// True for [`Draws::unnamed`]: settings of before stay the same text.
    pub(super) fn are_unnamed(&self) -> bool {
        *self == Self::unnamed()
    }
}

/// How L2 norms of many values are added up: that of the gradients and, on a CPU, those of LAMB. In settings that do not
/// name it: plainly.
///
/// A run keeps what it began with, so that it goes on with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Norms {
    /// As in older runs: one call of libtorch, on a CPU 0.1 % too small for 25 million values.
    Plain,
    /// In blocks, right to the rounding of f32.
    Blocked,
}

impl Norms {
    /// The norms of a new run.
    pub const LATEST: Self = Self::Blocked;

    /// The norms of a run whose settings do not name any.
    pub(super) fn unnamed() -> Self {
        Unnamed::OLD.norms
    }

    /// True for [`Norms::unnamed`]: settings of before stay the same text.
    pub(super) fn are_unnamed(&self) -> bool {
        *self == Self::unnamed()
    }
}

/// Values of the settings that files of earlier versions lack, for a text that does not name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unnamed {
    /// `data.rules`.
    pub rules: ImageRules,
    /// `train.draws`.
    pub draws: Draws,
    /// `optim.norms`.
    pub norms: Norms,
    /// `train.plain_blocks`; none is true.
    pub plain_blocks: Option<bool>,
    /// True if `data.labels` is [`LabelsFrom::Auto`], false if there is none.
    pub labels: bool,
}

impl Unnamed {
    /// For the settings of a new run.
    pub const NEW: Self = Self {
        rules: ImageRules::LATEST,
        draws: Draws::LATEST,
        norms: Norms::LATEST,
        plain_blocks: Some(false),
        labels: true,
    };

    /// For a run's own settings, and those in a checkpoint.
    pub const OLD: Self = Self {
        rules: ImageRules::V1,
        draws: Draws::Batch,
        norms: Norms::Plain,
        plain_blocks: None,
        labels: false,
    };

    /// The values in `config`.
    pub fn of(config: &RunConfig) -> Self {
        Self {
            rules: config.data.rules,
            draws: config.train.draws,
            norms: config.optim.norms,
            plain_blocks: config.train.plain_blocks,
            labels: config.data.labels.is_some(),
        }
    }

    /// The table of a config with these settings in it, also where its text would not name them.
    pub(super) fn with_names(
        self,
        mut table: toml::Table,
    ) -> Result<toml::Table, toml::ser::Error> {
        let values = [
            ("data", "rules", toml::Value::try_from(self.rules)?),
            ("train", "draws", toml::Value::try_from(self.draws)?),
            ("optim", "norms", toml::Value::try_from(self.norms)?),
        ];
        for (section, key, value) in values {
            if let Some(toml::Value::Table(section)) = table.get_mut(section) {
                section.insert(key.to_owned(), value);
            }
        }
        Ok(table)
    }

    /// Gives `config` these values.
    pub fn apply(self, config: &mut RunConfig) {
        config.data.rules = self.rules;
        config.train.draws = self.draws;
        config.optim.norms = self.norms;
        config.train.plain_blocks = self.plain_blocks;
        config.data.labels = self.labels.then_some(LabelsFrom::Auto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, OptimConfig, Preset, TrainConfig};

    fn own(text: &str) -> Result<Unnamed, String> {
        RunConfig::from_toml_with(text, Preset::Demo, Unnamed::OLD)
            .map(|config| Unnamed::of(&config))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn settings_that_are_not_named_are_those_of_their_time() {
        let mut config = Preset::Demo.config();
        assert_eq!(Unnamed::of(&config), Unnamed::NEW);
        let new = config.to_toml().unwrap();
        assert!(new.contains("\nrules = 2\n"), "{new}");
        assert!(new.contains("\ndraws = \"image\"\n"), "{new}");
        assert!(new.contains("\nnorms = \"blocked\"\n"), "{new}");
        assert_eq!(own(&new), Ok(Unnamed::NEW));
        // A run of 0.1 keeps the text of its settings.
        Unnamed::OLD.apply(&mut config);
        let old = config.to_toml().unwrap();
        for name in ["rules", "draws", "\nnorms", "plain_blocks", "labels"] {
            assert!(!old.contains(name), "{old}");
        }
        assert_eq!(own(&old), Ok(Unnamed::OLD));
        // A new run that begins from its settings.
        let again = RunConfig::from_toml(&old, Preset::Demo).unwrap();
        assert_eq!(Unnamed::of(&again), Unnamed::NEW);
        // A file that changes some settings of a preset.
        let some = "[data]\nresize = \"area\"\n[train]\nseed = 3\n";
        let of_new = RunConfig::from_toml(some, Preset::Demo).unwrap();
        assert_eq!(Unnamed::of(&of_new), Unnamed::NEW);
        assert_eq!(own(some), Ok(Unnamed::OLD));
    }

    #[test]
    fn a_difference_names_both_values() {
        let new = Preset::Demo.config();
        let mut old = new.clone();
        Unnamed::OLD.apply(&mut old);
        let found: Vec<_> = old.differences(&new).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        let wanted = [
            "data.labels: \"(not set)\" instead of \"auto\"",
            "data.rules: 1 instead of 2",
            "optim.norms: \"plain\" instead of \"blocked\"",
            "train.draws: \"batch\" instead of \"image\"",
            "train.plain_blocks: \"(not set)\" instead of false",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn checkpoints_that_do_not_name_them_are_old() {
        let mut config = Preset::Demo.config();
        Unnamed::OLD.apply(&mut config);
        let json = serde_json::to_string(&(&config.data, &config.train, &config.optim)).unwrap();
        for name in ["rules", "draws", "\"norms\"", "plain_blocks", "labels"] {
            assert!(!json.contains(name), "{json}");
        }
        let (data, train, optim): (DataConfig, TrainConfig, OptimConfig) =
            serde_json::from_str(&json).unwrap();
        assert_eq!(
            (data, train, optim),
            (config.data, config.train, config.optim)
        );
    }

    #[test]
    fn values_of_newer_versions_are_refused() {
        for (text, wanted) in [
            ("[data]\nrules = 3", "a newer ddpm wrote it"),
            ("[data]\nrules = 0", "knows 1 and 2"),
            ("[data]\nrules = \"2\"", "expected a whole number"),
            ("[train]\ndraws = \"row\"", "expected `batch` or `image`"),
            ("[optim]\nnorms = \"f64\"", "expected `plain` or `blocked`"),
        ] {
            let error = own(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}

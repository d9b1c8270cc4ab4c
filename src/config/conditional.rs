//! Class-conditional training: the classes, and how often the network is trained without them.

use serde::{Deserialize, Serialize};

use super::validate::require;
use super::{ConfigError, RunConfig};

/// Settings of a run whose network is told the class of each image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalConfig {
    /// Share of the images, drawn anew at each step, whose class the network is not told, so that it can be guided by what
    /// it says without one. None: 0.1, or 0 for a network that must always have a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_dropout: Option<f64>,
    /// Names of the classes, class `i` being that at place `i`. They come from the labels of the images when a run begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Images of each class that are trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<u64>,
}

/// Share of the images without a class unless told otherwise.
pub const LABEL_DROPOUT: f64 = 0.1;

impl ConditionalConfig {
    /// Names of the classes, each with its number of images: `cat 500, dog 320`.
    pub fn counted(&self) -> Vec<(&str, u64)> {
        let names = self.classes.iter().map(String::as_str);
        names.zip(self.images.iter().copied()).collect()
    }

    pub(super) fn validate(&self, run: &RunConfig) -> Result<(), ConfigError> {
        let dropout = self.label_dropout.unwrap_or(0.0);
        require(
            (0.0..1.0).contains(&dropout),
            "conditional.label_dropout",
            dropout,
            "want 0 or more, and less than 1",
        )?;
        require(
            dropout == 0.0 || run.model.classes().is_none() || run.model.null_class().is_some(),
            "conditional.label_dropout",
            dropout,
            "this network must always have a class; want 0",
        )?;
        require(
            self.images.len() == self.classes.len(),
            "conditional.images",
            self.images.len(),
            format!("want a number for each of {} classes", self.classes.len()),
        )?;
        let known = run.model.classes().unwrap_or(0);
        require(
            self.classes.is_empty() || self.classes.len() as i64 == known,
            "conditional.classes",
            self.classes.len(),
            format!(
                "want the names of the network's {known} classes; they are found when a run begins"
            ),
        )?;
        let mut names: Vec<&String> = self.classes.iter().collect();
        names.sort();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        require(
            twice.is_none(),
            "conditional.classes",
            twice.map_or("", |pair| pair[0]),
            "two classes have this name",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn settings_of_a_run_without_classes_stay_the_same_text() {
        let mut config = Preset::Demo.config();
        assert!(!config.to_toml().unwrap().contains("conditional"));
        config.conditional = Some(ConditionalConfig::default());
        assert_eq!(config.validate(), Ok(vec![]));
        let text = config.to_toml().unwrap();
        assert_eq!(RunConfig::of_a_run(&text), Some(config.clone()));
        config.model.set_classes(Some(2), true);
        config.conditional = Some(ConditionalConfig {
            label_dropout: Some(0.2),
            classes: vec!["a b".into(), "c".into()],
            images: vec![3, 4],
        });
        assert_eq!(config.validate(), Ok(vec![]));
        let text = config.to_toml().unwrap();
        assert_eq!(RunConfig::of_a_run(&text), Some(config));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |edit: &dyn Fn(&mut RunConfig, &mut ConditionalConfig)| {
            let mut config = Preset::Demo.config();
            config.model.set_classes(Some(2), true);
            let mut conditional = ConditionalConfig {
                label_dropout: Some(0.1),
                classes: vec!["a".into(), "b".into()],
                images: vec![1, 1],
            };
            edit(&mut config, &mut conditional);
            config.conditional = Some(conditional);
            config.validate().map_err(|error| error.setting)
        };
        assert_eq!(refused(&|_, _| ()), Ok(vec![]));
        let dropout = "conditional.label_dropout";
        for share in [-0.1, 1.0, f64::NAN] {
            assert_eq!(refused(&|_, c| c.label_dropout = Some(share)), Err(dropout));
        }
        let always = |run: &mut RunConfig, _: &mut ConditionalConfig| {
            run.model.set_classes(Some(2), false);
        };
        assert_eq!(refused(&always), Err(dropout));
        let (classes, images) = ("conditional.classes", "conditional.images");
        assert_eq!(refused(&|_, c| c.images.clear()), Err(images));
        assert_eq!(refused(&|_, c| c.classes[1] = "a".into()), Err(classes));
        let more = |_: &mut RunConfig, c: &mut ConditionalConfig| {
            (c.classes, c.images) = (vec!["a".into()], vec![1]);
        };
        assert_eq!(refused(&more), Err(classes));
    }
}

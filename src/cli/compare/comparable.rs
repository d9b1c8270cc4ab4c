//! Whether evaluations of two runs are of the same thing.

use std::path::Path;

use anyhow::Result;

use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::data::Manifest;
use crate::text::plural;

/// What decides what the evaluations of a run are of.
pub(super) struct Setting {
    config: Option<RunConfig>,
    /// Why there are no settings.
    pub(super) missing: Option<String>,
    held_out: Option<Manifest>,
    trained: Option<Manifest>,
}

impl Setting {
    /// Reads the settings of a run and its lists of images; what cannot be read is `missing`.
    pub(super) fn read(dir: &Path) -> Setting {
        let folder = RunFolder::new(dir.to_owned());
        let mut missing = None;
        let config = folder.config();
        let config = config.map_err(|error| missing = Some(format!("{error:#}")));
        let mut list = |path: &Path| match list(path) {
            Ok(list) => list,
            Err(error) => {
                missing.get_or_insert(format!("{error:#}"));
                None
            }
        };
        Setting {
            held_out: list(&folder.held_out_path()),
            trained: list(&folder.images_path()),
            config: config.ok(),
            missing,
        }
    }

    /// The settings, if they can be read.
    pub(super) fn config(&self) -> Option<&RunConfig> {
        self.config.as_ref()
    }

    /// Why values of `metric` cannot be compared with those of `other`; nothing if they can.
    ///
    /// # Errors
    /// Settings that cannot be written as text.
    pub(super) fn differences(&self, other: &Setting, metric: &str) -> Result<Vec<String>> {
        let (Some(own), Some(theirs)) = (&self.config, &other.config) else {
            return Ok(vec![
                "the settings of one of them cannot be read".to_owned(),
            ]);
        };
        let mut found = Vec::new();
        let [ours, others] = [own, theirs].map(|config| config.model.chw());
        if ours != others {
            let [ours, others] = [ours, others]
                .map(|[c, h, w]| format!("{w}x{h} with {}", plural(c as u64, "channel")));
            found.push(format!("images of {ours} instead of {others}"));
        }
        for change in own.differences(theirs)? {
            if decides(metric, &change.key) {
                let ours = change.ours.trim_matches('"');
                let theirs = change.theirs.trim_matches('"');
                found.push(format!("`{}` = {ours} instead of {theirs}", change.key));
            }
        }
        let [own, theirs] = [self, other].map(|setting| setting.real(metric));
        found.extend(match (own, theirs) {
            (Some((_, role)), Some((_, their_role))) if role != their_role => {
                Some(format!("images {role} instead of images {their_role}"))
            }
            (Some((own, role)), Some((theirs, _))) if !own.same_images(theirs) => {
                Some(format!("other images {role}"))
            }
            (Some(_), Some(_)) => None,
            _ => Some("the images of one of them are not known".to_owned()),
        });
        Ok(found)
    }

    /// True if the noise of their evaluations differs, which moves values by chance.
    pub(super) fn has_other_noise(&self, other: &Setting) -> bool {
        let seed = |setting: &Setting| setting.config.as_ref().map(|config| config.train.seed);
        seed(self) != seed(other)
    }

    /// The list of the real images of a metric, and what they are to the run.
    fn real(&self, metric: &str) -> Option<(&Manifest, &'static str)> {
        let held_out = self.held_out.as_ref().map(|list| (list, "held out"));
        match metric {
            "loss" | "bpd" => held_out,
            // One alone has no spread: then they are of the training.
            _ => (held_out.filter(|(list, _)| list.len() > 1))
                .or(self.trained.as_ref().map(|list| (list, "trained on"))),
        }
    }
}

fn list(path: &Path) -> Result<Option<Manifest>> {
    match path.try_exists()? {
        true => Manifest::read(path).map(Some),
        false => Ok(None),
    }
}

/// True for settings without which values of a metric are of something else. Another network may have any.
fn decides(metric: &str, setting: &str) -> bool {
    let of_images = matches!(setting, "evaluation" | "evaluation.images");
    of_images
        || match metric {
            // Errors are of what is predicted, at the noise of the schedule.
            "loss" => {
                setting == "evaluation.every_t"
                    || (setting.starts_with("diffusion.") && setting != "diffusion.loss")
            }
            "bpd" => setting == "evaluation.every_t",
            _ => matches!(setting, "evaluation.sampler" | "evaluation.steps"),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EvaluationConfig, Prediction, Preset};

    fn setting(change: impl FnOnce(&mut RunConfig)) -> Setting {
        let mut config = Preset::Demo.config();
        config.evaluation = Some(EvaluationConfig::new(100));
        change(&mut config);
        Setting {
            config: Some(config),
            missing: None,
            held_out: Some(Manifest::default()),
            trained: Some(Manifest::default()),
        }
    }

    #[test]
    fn only_what_a_metric_depends_on_makes_it_another() {
        let plain = setting(|_| ());
        let by = |change: fn(&mut RunConfig)| {
            let other = setting(change);
            ["loss", "bpd", "swd", "fid"]
                .map(|metric| !other.differences(&plain, metric).unwrap().is_empty())
        };
        assert_eq!(by(|_| ()), [false; 4]);
        assert_eq!(by(|c| c.train.batch = 7), [false; 4]);
        assert_eq!(
            by(|c| c.diffusion.prediction = Prediction::X0),
            [true, false, false, false]
        );
        assert_eq!(by(|c| c.evaluation = None), [true; 4]);
        assert_eq!(by(|c| c.model.set_chw([3, 8, 8])), [true; 4]);
        let table = |c: &mut RunConfig| c.evaluation.as_mut().unwrap().every_t = 3;
        assert_eq!(by(table), [true, true, false, false]);
        let table = |c: &mut RunConfig| c.evaluation.as_mut().unwrap().steps = 3;
        assert_eq!(by(table), [false, false, true, true]);
        let table = |c: &mut RunConfig| c.evaluation.as_mut().unwrap().images = 3;
        assert_eq!(by(table), [true; 4]);
    }
}

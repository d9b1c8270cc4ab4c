//! Refuses settings that cannot work, with the value seen, the values wanted and what to do.

use std::path::{Path, PathBuf};

use super::hold_out::{HoldOut, WANTED};
use super::{DataConfig, ModelKind, RunConfig, ScheduleKind, Sigma, Sources};

/// A setting that cannot work.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{setting} = {seen}: {wanted}")]
pub struct ConfigError {
    /// `section.key`.
    pub setting: &'static str,
    /// The value that was given.
    pub seen: String,
    /// The values that work, and why where that is not obvious.
    pub wanted: String,
}

pub(super) fn require(
    ok: bool,
    setting: &'static str,
    seen: impl ToString,
    wanted: impl Into<String>,
) -> Result<(), ConfigError> {
    if ok {
        Ok(())
    } else {
        Err(ConfigError {
            setting,
            seen: seen.to_string(),
            wanted: wanted.into(),
        })
    }
}

impl DataConfig {
    /// Checks the built-in images, of `chw` pixels each, where they are used.
    ///
    /// # Errors
    /// More than 64 GiB of pixels.
    pub fn check_builtin(&self, chw: [i64; 3]) -> Result<(), ConfigError> {
        let [channels, height, width] = chw;
        let pixels = chw.map(|n| n.max(0) as u128).iter().product::<u128>();
        require(
            u128::from(self.builtin_images) * pixels <= 1 << 36,
            "data.builtin_images",
            self.builtin_images,
            format!(
                "want at most 64 GiB of pixels, {} images of {channels}x{height}x{width}; or name a folder of images",
                (1 << 36) / pixels.max(1)
            ),
        )
    }
}

impl RunConfig {
    /// Checks every setting; returns warnings about settings that rarely work well.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let warnings = self.model.validate()?;
        self.validate_optim()?;
        let d = &self.diffusion;
        require(
            (2..=100_000).contains(&d.timesteps),
            "diffusion.timesteps",
            d.timesteps,
            "want 2 to 100000 time steps",
        )?;
        self.validate_process()?;
        let t = &self.train;
        require(
            (1..=1_000_000_000_000).contains(&t.steps),
            "train.steps",
            t.steps,
            "want 1 to 10^12",
        )?;
        require(
            (1..=1_000_000).contains(&t.batch),
            "train.batch",
            t.batch,
            "want 1 to 1000000 images",
        )?;
        // config.toml keeps it, and TOML has no larger integers.
        require(
            i64::try_from(t.seed).is_ok(),
            "train.seed",
            t.seed,
            "want at most 2^63 - 1",
        )?;
        require(
            t.accumulate > 0 && t.batch % t.accumulate == 0,
            "train.accumulate",
            t.accumulate,
            format!(
                "must divide the batch of {} into equal microbatches",
                t.batch
            ),
        )?;
        require(
            !t.checkpoint_blocks || self.model.kind() == ModelKind::Unet,
            "train.checkpoint_blocks",
            t.checkpoint_blocks,
            "only unet has blocks that can be recomputed; to save memory, split the batch with `train.accumulate`",
        )?;
        require(
            t.plain_blocks != Some(true) || self.model.kind() == ModelKind::Unet,
            "train.plain_blocks",
            true,
            "only unet has blocks that are one operation otherwise; leave it out",
        )?;
        require(
            t.explosion_factor == 0.0
                || (t.explosion_factor > 1.0 && t.explosion_factor.is_finite()),
            "train.explosion_factor",
            t.explosion_factor,
            "want more than 1, or 0 to switch the check off",
        )?;
        require(
            t.sample_steps <= d.timesteps as usize,
            "train.sample_steps",
            t.sample_steps,
            format!("want at most T = {}, or 0 for all", d.timesteps),
        )?;
        require(
            t.save_every_steps > 0,
            "train.save_every_steps",
            t.save_every_steps,
            "want at least 1",
        )?;
        require(
            t.keep > 0,
            "train.keep",
            t.keep,
            "want at least 1 checkpoint kept",
        )?;
        require(
            (1..=1024).contains(&self.sample.images),
            "sample.images",
            self.sample.images,
            "want 1 to 1024 images",
        )?;
        let places = self.data.folder.iter().flat_map(Sources::paths);
        let unnamed = places.clone().find(|place| place.to_str().is_none());
        require(
            unnamed.is_none(),
            "data.folder",
            unnamed.map_or(Path::new(""), PathBuf::as_path).display(),
            "is not UTF-8 text, as a run's settings are; rename the folder, or give a link to it (ln -s)",
        )?;
        let hold_out = self.data.hold_out.as_ref();
        require(
            hold_out.is_none_or(HoldOut::is_valid),
            "data.hold_out",
            hold_out.map(ToString::to_string).unwrap_or_default(),
            WANTED,
        )?;
        require(
            self.data.builtin_images > 0,
            "data.builtin_images",
            self.data.builtin_images,
            "want at least 1",
        )?;
        if let Some(evaluation) = &self.evaluation {
            evaluation.validate(self)?;
        }
        if let Some(conditional) = &self.conditional {
            conditional.validate(self)?;
        }
        self.validate_upscale()?;
        Ok(warnings)
    }

    fn validate_process(&self) -> Result<(), ConfigError> {
        let d = &self.diffusion;
        let explicit = d.schedule == ScheduleKind::Explicit;
        require(
            d.betas.len() == if explicit { d.timesteps as usize } else { 0 },
            "diffusion.betas",
            format!("{} numbers", d.betas.len()),
            format!(
                "want one for each of {} time steps with schedule = \"explicit\", and none with other schedules",
                d.timesteps
            ),
        )?;
        let wrong = d.betas.iter().find(|b| !(**b > 0.0 && **b < 1.0));
        require(
            wrong.is_none(),
            "diffusion.betas",
            wrong.unwrap_or(&0.0),
            "want 0 < beta < 1",
        )?;
        require(
            self.sample.sigma != Sigma::Learned || self.model.learned_variance(),
            "sample.sigma",
            "learned",
            "this network predicts no variance; want beta or posterior",
        )
    }

    fn validate_optim(&self) -> Result<(), ConfigError> {
        let o = &self.optim;
        require(
            o.lr > 0.0 && o.lr.is_finite(),
            "optim.lr",
            o.lr,
            "want a positive number",
        )?;
        for (name, beta) in [
            ("optim.beta1", o.beta1),
            ("optim.beta2", o.beta2),
            ("optim.ema", o.ema),
        ] {
            require(
                (0.0..1.0).contains(&beta),
                name,
                beta,
                "want 0 <= value < 1",
            )?;
        }
        require(
            o.eps > 0.0 && o.eps.is_finite(),
            "optim.eps",
            o.eps,
            "want a positive number",
        )?;
        require(
            o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
            "optim.weight_decay",
            o.weight_decay,
            "want 0 or more",
        )?;
        let points = &o.lr_schedule;
        require(
            !points.is_empty()
                && points.windows(2).all(|p| p[0].0 < p[1].0)
                && points.iter().all(|p| p.1 >= 0.0 && p.1.is_finite()),
            "optim.lr_schedule",
            format!("{points:?}"),
            "want points STEP:MULTIPLIER with rising steps and multipliers of 0 or more",
        )?;
        let clip = o.clip_norm.unwrap_or(1.0);
        require(
            clip > 0.0 && clip.is_finite(),
            "optim.clip_norm",
            clip,
            "want a positive number",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Norm, Preset};
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn presets_are_valid_and_quiet() {
        for preset in Preset::value_variants() {
            assert_eq!(preset.config().validate(), Ok(vec![]), "{preset:?}");
        }
    }

    #[test]
    fn batch_norm_is_refused_with_the_reason() {
        let mut config = Preset::Demo.config();
        config.model.unet_mut().norm = Norm::Batch;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("noise levels"), "{error}");
    }

    #[test]
    fn blocks_have_other_forms_in_the_simplified_u_net_alone() {
        for (name, checkpointed) in [
            ("train.checkpoint_blocks", true),
            ("train.plain_blocks", false),
        ] {
            for preset in Preset::value_variants() {
                let mut config = preset.config();
                config.train.checkpoint_blocks = checkpointed;
                config.train.plain_blocks = Some(!checkpointed);
                match config.validate() {
                    Ok(_) => assert_eq!(config.model.kind(), ModelKind::Unet),
                    Err(error) => {
                        assert_ne!(config.model.kind(), ModelKind::Unet);
                        assert_eq!(error.setting, name);
                        assert!(error.wanted.contains("only unet"), "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn built_in_images_are_measured_where_they_are_used() {
        let mut config = Preset::Demo.config();
        config.model.set_chw([3, 1200, 1200]);
        assert_eq!(config.validate(), Ok(vec![]));
        let check = |config: &RunConfig| config.data.check_builtin(config.model.chw());
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains("15907 images of 3x1200x1200"), "{error}");
        config.data.builtin_images = 15_907;
        assert_eq!(check(&config), Ok(()));
    }

    #[test]
    fn small_groups_draw_a_warning() {
        let mut config = Preset::Demo.config();
        config.model.unet_mut().norm_groups = 32;
        let warnings = config.validate().unwrap();
        assert!(warnings[0].contains("1 channel"), "{warnings:?}");
    }

    #[test]
    fn sides_must_be_divisible_by_the_poolings() {
        let mut config = Preset::Demo.config();
        config.model.unet_mut().height = 36;
        let error = config.validate().unwrap_err();
        assert_eq!((error.setting, error.seen.as_str()), ("model.height", "36"));
        config.model.unet_mut().height = 48;
        assert!(config.validate().is_ok());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |edit: &dyn Fn(&mut RunConfig)| {
            let mut config = Preset::Demo.config();
            edit(&mut config);
            config.validate().unwrap_err().setting
        };
        assert_eq!(refused(&|c| c.train.batch = 0), "train.batch");
        assert_eq!(refused(&|c| c.train.accumulate = 5), "train.accumulate");
        assert_eq!(refused(&|c| c.optim.lr = f64::NAN), "optim.lr");
        assert_eq!(refused(&|c| c.optim.ema = 1.0), "optim.ema");
        assert_eq!(
            refused(&|c| c.optim.lr_schedule = vec![(5, 1.0), (5, 0.0)]),
            "optim.lr_schedule"
        );
        assert_eq!(
            refused(&|c| c.model.unet_mut().channels = 4),
            "model.channels"
        );
        assert_eq!(
            refused(&|c| c.model.unet_mut().norm_groups = 7),
            "model.norm_groups"
        );
        assert_eq!(
            refused(&|c| c.diffusion.timesteps = 1),
            "diffusion.timesteps"
        );
    }
}

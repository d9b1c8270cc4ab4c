//! Refuses settings that cannot work, saying what was seen, what is wanted and what to do.

use super::{ModelConfig, Norm, RunConfig};

/// A setting that cannot work.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{setting} = {seen}: {wanted}")]
pub struct ConfigError {
    /// `section.key`.
    pub setting: &'static str,
    /// The value that was given.
    pub seen: String,
    /// What it must be, and why where that is not plain.
    pub wanted: String,
}

fn require(
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

impl RunConfig {
    /// Checks every setting; returns warnings about settings that work but rarely well.
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
        let t = &self.train;
        require(
            (1..=1_000_000_000_000).contains(&t.steps),
            "train.steps",
            t.steps,
            "want at least 1, and at most 10^12",
        )?;
        require(
            (1..=1_000_000).contains(&t.batch),
            "train.batch",
            t.batch,
            "want 1 to 1000000 pictures",
        )?;
        // TOML, which the run's settings are kept in, has no larger whole numbers.
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
            "want 1 to 1024 pictures",
        )?;
        let builtin_bytes =
            u128::from(self.data.builtin_images) * self.model.chw().iter().product::<i64>() as u128;
        require(
            (1..=1 << 36).contains(&builtin_bytes),
            "data.builtin_images",
            self.data.builtin_images,
            "want at least 1, and at most 64 GiB of pixels",
        )?;
        Ok(warnings)
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

impl ModelConfig {
    /// Checks the network's settings alone.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        require(
            self.channels == 1 || self.channels == 3,
            "model.channels",
            self.channels,
            "want 3 (colour) or 1 (grey)",
        )?;
        require(
            (1..=65_536).contains(&self.base_width),
            "model.base_width",
            self.base_width,
            "want 1 or more, usually 32 to 256",
        )?;
        require(
            (1..=16).contains(&self.multipliers.len())
                && self.multipliers.iter().all(|m| (1..=64).contains(m)),
            "model.multipliers",
            format!("{:?}", self.multipliers),
            "want 1 to 16 whole numbers from 1 to 64, for example 1,2,2",
        )?;
        require(
            (1..=64).contains(&self.blocks),
            "model.blocks",
            self.blocks,
            "want 1 to 64",
        )?;
        require(
            self.min_pixel >= 1,
            "model.min_pixel",
            self.min_pixel,
            "want at least 1",
        )?;
        require(
            (0.0..1.0).contains(&self.dropout),
            "model.dropout",
            self.dropout,
            "want 0 <= dropout < 1",
        )?;
        require(
            self.norm_eps > 0.0,
            "model.norm_eps",
            self.norm_eps,
            "want a positive number",
        )?;
        require(
            self.base_width % 2 == 0 || self.time_embedding == super::TimeEmbedding::Trainable,
            "model.base_width",
            self.base_width,
            "a sinusoidal time embedding needs an even width",
        )?;
        self.validate_sides()?;
        self.validate_norm()
    }

    fn validate_sides(&self) -> Result<(), ConfigError> {
        let factor = self.size_factor();
        for (setting, side) in [("model.height", self.height), ("model.width", self.width)] {
            require(
                (1..=16_384).contains(&side) && side % factor == 0,
                setting,
                side,
                format!(
                    "want a multiple of {factor} up to 16384, because {} levels with min_pixel {} halve the picture {} times",
                    self.multipliers.len(),
                    self.min_pixel,
                    factor.ilog2()
                ),
            )?;
        }
        Ok(())
    }

    fn validate_norm(&self) -> Result<Vec<String>, ConfigError> {
        require(
            self.norm != Norm::Batch,
            "model.norm",
            "batch",
            "batch norm is refused: its statistics mix pictures at different noise levels t, and the ones it keeps for sampling fit none of them; use group, layer or instance",
        )?;
        let mut warnings = Vec::new();
        for level in self.levels() {
            let groups = self.groups_of(level.width);
            require(
                groups >= 1 && level.width % groups == 0,
                "model.norm_groups",
                groups,
                format!(
                    "must divide every level's width, and {} is one",
                    level.width
                ),
            )?;
            if self.norm == Norm::Group && level.width / groups < 4 {
                warnings.push(format!(
                    "norm groups of {} channel(s) at width {}: below 4 the norm erases most of each channel's mean, and pictures come out in wrong flat colours; use fewer norm groups",
                    level.width / groups,
                    level.width
                ));
            }
        }
        warnings.dedup();
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn presets_are_valid_and_quiet() {
        for preset in Preset::value_variants() {
            assert_eq!(preset.config().validate(), Ok(vec![]));
        }
    }

    #[test]
    fn batch_norm_is_refused_with_the_reason() {
        let mut config = Preset::Demo.config();
        config.model.norm = Norm::Batch;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("noise levels"), "{error}");
    }

    #[test]
    fn small_groups_draw_a_warning() {
        let mut config = Preset::Demo.config();
        config.model.norm_groups = 32;
        let warnings = config.validate().unwrap();
        assert!(warnings[0].contains("1 channel"), "{warnings:?}");
    }

    #[test]
    fn sides_must_be_divisible_by_the_poolings() {
        let mut config = Preset::Demo.config();
        config.model.height = 36;
        let error = config.validate().unwrap_err();
        assert_eq!((error.setting, error.seen.as_str()), ("model.height", "36"));
        config.model.height = 48;
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
        assert_eq!(refused(&|c| c.model.channels = 4), "model.channels");
        assert_eq!(refused(&|c| c.model.norm_groups = 7), "model.norm_groups");
        assert_eq!(
            refused(&|c| c.diffusion.timesteps = 1),
            "diffusion.timesteps"
        );
    }
}

//! The flags of settings: the library's messages name settings, in backquotes, and here they become flags.

use anyhow::Error;
use image::ImageError;
use tch::TchError;

use super::libtorch_said;
use crate::config::ConfigError;
use crate::interop::MissingHints;
use crate::text::one_line;

/// Settings whose flags have other names, and those of a run's config.toml. A value stands behind ` = ` in the library,
/// and behind a space on the command line.
const FLAGS: [(&str, &str); 62] = [
    ("start.auto_accumulate", "--batch auto"),
    ("start.folder", "--run"),
    ("start.init", "--init-from"),
    ("data.background", "--background"),
    ("data.balance", "--balance"),
    ("data.builtin_images", "--builtin-images"),
    ("data.folder", "--data"),
    ("data.labels", "--labels"),
    ("data.resize", "--resize"),
    ("diffusion.loss", "--loss"),
    ("diffusion.prediction", "--prediction"),
    ("diffusion.schedule", "--schedule"),
    ("diffusion.timesteps", "--timesteps"),
    ("conditional", "--conditional"),
    ("conditional.label_dropout", "--label-dropout"),
    ("evaluation.every_steps", "--evaluate-every"),
    ("evaluation.images", "--evaluate-images"),
    ("evaluation.metrics", "--evaluate-metrics"),
    ("evaluation.patience", "--patience"),
    ("images.size", "--size"),
    ("model.base_width", "--base-width"),
    ("model.blocks", "--blocks"),
    ("model.channels", "--channels"),
    ("model.dropout", "--dropout"),
    ("model.height", "--size"),
    ("model.min_pixel", "--min-pixel"),
    ("model.multipliers", "--multipliers"),
    ("model.norm_groups", "--norm-groups"),
    ("model.width", "--size"),
    ("optim.beta1", "--beta1"),
    ("optim.beta2", "--beta2"),
    ("optim.clip_norm", "--clip-norm"),
    ("optim.ema", "--ema"),
    ("optim.eps", "--eps"),
    ("optim.lr", "--lr"),
    ("optim.lr_schedule", "--lr-schedule"),
    ("optim.optimizer", "--optimizer"),
    ("optim.weight_decay", "--weight-decay"),
    ("sample.clip_x0", "--clip-x0"),
    ("sample.every_steps", "--sample-every"),
    ("sample.images", "--sample-images"),
    ("sample.sigma", "--sigma"),
    ("train.accumulate", "--accumulate"),
    ("train.batch", "--batch"),
    ("train.checkpoint_blocks", "--checkpoint-blocks"),
    ("train.draws", "--draws"),
    ("train.explosion_factor", "--explosion-factor"),
    ("train.keep", "--keep"),
    ("train.layout", "--layout"),
    ("train.on_bad_step", "--on-bad-step"),
    ("train.plain_blocks", "--plain-blocks"),
    ("train.sample_limit_secs", "--sample-limit"),
    ("train.sample_steps", "--sample-steps"),
    ("train.save_every_steps", "--save-every"),
    ("train.seed", "--seed"),
    ("train.steps", "--steps"),
    ("upscale", "--upscale"),
    ("upscale.factor", "--upscale"),
    ("upscale.noise", "--upscale-noise"),
    ("data.flip", "--flip"),
    ("data.hold_out", "--hold-out"),
    ("optim.adapt_norms", "--adapt-norms"),
];

/// Groups of other settings, each with the flag of its name: `hints.num_heads` is --num-heads.
const GROUPS: [&str; 5] = ["evaluate.", "hints.", "request.", "sampler.", "start."];

/// The flag of a setting, if it has one.
fn flag_of(setting: &str) -> Option<String> {
    if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == setting) {
        return Some((*flag).to_owned());
    }
    let name = GROUPS
        .iter()
        .find_map(|group| setting.strip_prefix(group))?;
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (plain && !name.is_empty()).then(|| format!("--{}", name.replace('_', "-")))
}

/// A message of the library with flags for the settings that it names.
pub(super) fn with_flags(message: &str) -> String {
    let mut text = String::new();
    let mut rest = message;
    while let Some((before, quoted)) = rest.split_once('`') {
        text += before;
        match quoted.split_once('`') {
            Some((setting, after)) if flag_of(setting).is_some() => {
                text += &flag_of(setting).unwrap_or_default();
                rest = match after.strip_prefix(" = ") {
                    Some(value) => {
                        text.push(' ');
                        value
                    }
                    None => after,
                };
            }
            _ => {
                text.push('`');
                rest = quoted;
            }
        }
    }
    text + rest
}

/// An error and its causes on one line, with flags for the settings that it names.
pub fn describe_error(error: &Error) -> String {
    let causes: Vec<String> = error.chain().map(describe_cause).collect();
    with_flags(&causes.join(": "))
}

fn describe_cause(cause: &(dyn std::error::Error + 'static)) -> String {
    if let Some(missing) = cause.downcast_ref::<MissingHints>() {
        return missing.listing(|hint| hint.flag.clone());
    }
    if let Some(TchError::Torch(said)) = cause.downcast_ref::<TchError>() {
        return libtorch_said(said);
    }
    if let Some(decoder) = cause.downcast_ref::<ImageError>() {
        return one_line(decoder);
    }
    let flag = |config: &ConfigError| flag_of(config.setting);
    match cause.downcast_ref::<ConfigError>() {
        Some(config) => match flag(config) {
            Some(flag) => format!("{config} ({flag})"),
            None => config.to_string(),
        },
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::Preset;
    use clap::CommandFactory;

    #[test]
    fn settings_become_flags_with_their_values() {
        for (message, wanted) in [
            (
                "lower `optim.lr`, or set `train.accumulate` = 4 or `start.auto_accumulate`",
                "lower --lr, or set --accumulate 4 or --batch auto",
            ),
            (
                "set `hints.num_heads` to override",
                "set --num-heads to override",
            ),
            (
                "failed to open `cache`, `a` or `start./x`",
                "failed to open `cache`, `a` or `start./x`",
            ),
            ("an odd ` and `optim.lr`", "an odd ` and --lr"),
        ] {
            assert_eq!(with_flags(message), wanted);
        }
    }

    #[test]
    fn every_flag_of_a_setting_is_one_of_train_s() {
        let program = Cli::command();
        let train = program.find_subcommand("train").unwrap();
        let flags: Vec<String> = train
            .get_arguments()
            .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
            .collect();
        for (setting, flag) in FLAGS {
            let name = flag.split(' ').next().unwrap().to_owned();
            assert!(flags.contains(&name), "{setting}: {flag}");
        }
    }

    #[test]
    fn an_error_of_the_settings_names_the_flag_beside_the_setting() {
        let mut config = Preset::Demo.config();
        config.train.batch = 0;
        let error = Error::from(config.validate().unwrap_err()).context("cannot train");
        let text = describe_error(&error);
        assert!(
            text.starts_with("cannot train: train.batch = 0: "),
            "{text}"
        );
        assert!(text.ends_with(" (--batch)"), "{text}");
    }
}

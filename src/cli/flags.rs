//! The flags of settings: the library's messages name settings, in backquotes, and here they become flags.

use anyhow::Error;

use crate::config::ConfigError;
use crate::interop::MissingHints;

/// Settings and their flags. A value stands between them with ` = ` in the library and with a space on the command line.
const FLAGS: [(&str, &str); 23] = [
    ("auto_accumulate", "--batch auto"),
    ("cache", "--cache"),
    ("config", "--config"),
    ("device", "--device"),
    ("folder", "--run"),
    ("init", "--init-from"),
    ("precision", "--precision"),
    ("sampler", "--sampler"),
    ("model.base_width", "--base-width"),
    ("model.height", "--size"),
    ("model.width", "--size"),
    ("optim.clip_norm", "--clip-norm"),
    ("optim.lr", "--lr"),
    ("sample.images", "--sample-images"),
    ("train.accumulate", "--accumulate"),
    ("train.batch", "--batch"),
    ("train.keep", "--keep"),
    ("train.on_bad_step", "--on-bad-step"),
    ("train.sample_limit_secs", "--sample-limit"),
    ("train.sample_steps", "--sample-steps"),
    ("train.save_every_steps", "--save-every"),
    ("train.steps", "--steps"),
    ("train.checkpoint_blocks", "--checkpoint-blocks"),
];

/// A message of the library with flags for the settings that it names.
pub(super) fn with_flags(message: &str) -> String {
    let replace = |text: String, (setting, flag): &(&str, &str)| {
        let with_value = text.replace(&format!("`{setting}` = "), &format!("{flag} "));
        with_value.replace(&format!("`{setting}`"), flag)
    };
    FLAGS.iter().fold(message.to_owned(), replace)
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
    match cause.downcast_ref::<ConfigError>() {
        Some(config) => match FLAGS.iter().find(|(setting, _)| *setting == config.setting) {
            Some((_, flag)) => format!("{config} ({flag})"),
            None => config.to_string(),
        },
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn settings_become_flags_with_their_values() {
        assert_eq!(
            with_flags("lower `optim.lr`, or set `train.accumulate` = 4 or `auto_accumulate`"),
            "lower --lr, or set --accumulate 4 or --batch auto"
        );
        assert_eq!(with_flags("tensor `train.other`"), "tensor `train.other`");
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

//! The end of `ddpm train --help`: examples, exit codes, and the settings of each preset.

use clap::ValueEnum;

use crate::config::{ModelConfig, Preset, RunConfig};

/// Examples of `ddpm train`.
pub(in crate::cli) const EXAMPLES: &str = "Examples:
  ddpm train                              the demo
  ddpm train --data photos                the 128-px model on your images (needs a GPU)
  ddpm train --preset demo --data photos  a small 32-px model on your images
  ddpm train --run runs/NAME              resume a run
  ddpm train --run latest                 resume the newest in runs/
  ddpm train --run runs/NAME --steps N    resume it and train until step N";

const EXIT_CODES: &str = "Exit codes:
  0    all steps are done
  1    error
  2    usage error: wrong flags or values
  124  --time-limit: saved and stopped
  130  Ctrl-C (SIGINT): the step is finished, saved and stopped; a second signal exits at once
  143  SIGTERM: the same
SIGUSR1 saves and samples now, and training continues.";

/// A column of a table: the name of a flag, and its value in a preset; `None` if the preset's network has no such
/// setting.
type Column = (&'static str, fn(&RunConfig) -> Option<String>);

const NETWORK: [Column; 7] = [
    ("model", |c| Some(c.model.kind().name())),
    ("size", |c| Some(size(c.model.chw()))),
    ("base-width", |c| Some(base_width(&c.model).to_string())),
    ("multipliers", |c| multipliers(&c.model).map(|m| list(&m))),
    ("blocks", |c| blocks(&c.model).map(|n| n.to_string())),
    ("norm-groups", |c| {
        norm_groups(&c.model).map(|n| n.to_string())
    }),
    ("dropout", |c| Some(dropout(&c.model).to_string())),
];

const TRAINING: [Column; 8] = [
    ("steps", |c| Some(c.train.steps.to_string())),
    ("batch", |c| Some(c.train.batch.to_string())),
    ("optimizer", |c| Some(name(c.optim.optimizer))),
    ("lr", |c| Some(format!("{:e}", c.optim.lr))),
    ("clip-norm", |c| {
        c.optim.clip_norm.map(|norm| norm.to_string())
    }),
    ("ema", |c| Some(c.optim.ema.to_string())),
    ("flip", |c| Some(c.data.flip.to_string())),
    ("save-every", |c| Some(c.train.save_every_steps.to_string())),
];

const DIFFUSION: [Column; 6] = [
    ("schedule", |c| Some(name(c.diffusion.schedule))),
    ("timesteps", |c| Some(c.diffusion.timesteps.to_string())),
    ("prediction", |c| Some(name(c.diffusion.prediction))),
    ("loss", |c| Some(name(c.diffusion.loss))),
    ("sigma", |c| Some(name(c.sample.sigma))),
    ("clip-x0", |c| Some(c.sample.clip_x0.to_string())),
];

/// All that follows the flags in `ddpm train --help`.
pub(in crate::cli) fn long_help() -> String {
    let presets: Vec<_> = (Preset::value_variants().iter())
        .map(|preset| (preset.name(), preset.config()))
        .collect();
    let tables = [
        table(&presets, &NETWORK),
        table(&presets, &TRAINING),
        table(&presets, &DIFFUSION),
    ];
    format!(
        "{EXAMPLES}\n\n{EXIT_CODES}\n\nSettings of each preset (-: not a setting of its network, or off):\n{}",
        tables.join("\n")
    )
}

/// A line for each preset, in columns as wide as their widest value.
fn table(presets: &[(String, RunConfig)], columns: &[Column]) -> String {
    let head = std::iter::once("preset").chain(columns.iter().map(|(flag, _)| *flag));
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for (name, config) in presets {
        let value = |(_, value): &Column| value(config).unwrap_or_else(|| "-".to_owned());
        let values = columns.iter().map(value);
        rows.push(std::iter::once(name.clone()).chain(values).collect());
    }
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=columns.len()).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, w)| format!("{cell:w$}"));
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// The spelling of a value on the command line.
fn name(value: impl ValueEnum) -> String {
    let spelling = value.to_possible_value();
    spelling.map_or_else(String::new, |v| v.get_name().to_owned())
}

fn size([_, height, width]: [i64; 3]) -> String {
    if height == width {
        height.to_string()
    } else {
        format!("{height}x{width}")
    }
}

fn list(values: &[i64]) -> String {
    let values: Vec<String> = values.iter().map(i64::to_string).collect();
    values.join(",")
}

fn base_width(model: &ModelConfig) -> i64 {
    match model {
        ModelConfig::Unet(m) => m.base_width,
        ModelConfig::UnetAttention(m) => m.base_width,
        ModelConfig::Lucidrains(m) => m.base_width,
        ModelConfig::UnetConcat(m) => m.base_width,
        ModelConfig::Gau(m) => m.base_width,
    }
}

fn multipliers(model: &ModelConfig) -> Option<Vec<i64>> {
    match model {
        ModelConfig::Unet(m) => Some(m.multipliers.clone()),
        ModelConfig::UnetAttention(m) => Some(m.widths.iter().map(|w| w / m.base_width).collect()),
        ModelConfig::Lucidrains(m) => Some(m.multipliers.clone()),
        ModelConfig::UnetConcat(m) => Some(m.multipliers.clone()),
        ModelConfig::Gau(_) => None,
    }
}

fn blocks(model: &ModelConfig) -> Option<i64> {
    match model {
        ModelConfig::Unet(m) => Some(m.blocks),
        ModelConfig::UnetAttention(m) => Some(m.blocks),
        ModelConfig::UnetConcat(m) => Some(m.blocks),
        ModelConfig::Lucidrains(_) | ModelConfig::Gau(_) => None,
    }
}

fn norm_groups(model: &ModelConfig) -> Option<i64> {
    match model {
        ModelConfig::Unet(m) => Some(m.norm_groups),
        ModelConfig::UnetAttention(m) => Some(m.norm_groups),
        ModelConfig::UnetConcat(m) => Some(m.norm_groups),
        ModelConfig::Lucidrains(_) | ModelConfig::Gau(_) => None,
    }
}

fn dropout(model: &ModelConfig) -> f64 {
    match model {
        ModelConfig::Unet(m) => m.dropout,
        ModelConfig::UnetAttention(m) => m.dropout,
        ModelConfig::Lucidrains(m) => m.dropout,
        ModelConfig::UnetConcat(m) => m.dropout,
        ModelConfig::Gau(m) => m.dropout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_has_a_line_in_each_table() {
        let help = long_help();
        for preset in Preset::value_variants() {
            let start = format!("  {} ", preset.name());
            let lines: Vec<&str> = help.lines().filter(|l| l.starts_with(&start)).collect();
            assert_eq!(lines.len(), 3, "{start}");
            let steps = preset.config().train.steps.to_string();
            assert!(lines[1].split_whitespace().any(|word| word == steps));
        }
        // A terminal of usual width shows each line whole.
        assert!(help.lines().all(|line| line.chars().count() <= 100));
    }
}

//! Which samplers are compared, at how many steps and with which spacings.

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParserFactory};

use crate::config::Sigma;
use crate::pretrained::{Pretrained, Sampling};
use crate::sample::{ChosenSampler, SamplerKind, SamplerOptions, Spacing};

/// A sampler with settings of its own, as `ddim:eta=0.5`; or all of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AskedSampler {
    All,
    One(Box<SamplerOptions>),
}

/// A spacing, that of the sampler, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedSpacing {
    All,
    Default,
    One(Spacing),
}

/// What is asked for: all samplers at all numbers of steps with all spacings.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) samplers: &'a [AskedSampler],
    pub(super) steps: &'a [usize],
    pub(super) spacings: &'a [AskedSpacing],
    pub(super) clip_x0: Option<bool>,
}

/// A sampler, its steps and their spacing.
#[derive(Debug)]
pub(super) struct Combination {
    /// "unipc:order=3"
    pub(super) sampler: String,
    pub(super) spacing: Spacing,
    pub(super) options: SamplerOptions,
    pub(super) steps: usize,
    /// Evaluations of the network for an image.
    pub(super) evaluations: usize,
    pub(super) is_deterministic: bool,
}

impl Asked<'_> {
    /// All combinations, and why some are left out.
    ///
    /// # Errors
    /// One that is impossible, unless it comes of `all`; no combination at all.
    pub(super) fn combinations(
        &self,
        network: &Pretrained,
    ) -> Result<(Vec<Combination>, Vec<String>)> {
        let is_of_all = self.samplers.contains(&AskedSampler::All)
            || self.spacings.contains(&AskedSpacing::All);
        let mut found = Vec::new();
        // Reasons, each with what it is the reason for.
        let mut left_out: Vec<(String, Vec<String>)> = Vec::new();
        for options in self.options() {
            let named = shown(&options);
            match choose(network, &options) {
                Ok(chosen) => found.push(Combination {
                    sampler: named,
                    spacing: options.spacing.unwrap_or(options.kind.default_spacing()),
                    steps: chosen.steps.len(),
                    evaluations: chosen.sampler.evaluations(chosen.steps.len()),
                    is_deterministic: chosen.sampler.is_deterministic(),
                    options,
                }),
                Err(error) if is_of_all => {
                    let reason = format!("{error:#}");
                    match left_out.iter_mut().find(|(known, _)| *known == reason) {
                        Some((_, names)) if names.contains(&named) => {}
                        Some((_, names)) => names.push(named),
                        None => left_out.push((reason, vec![named])),
                    }
                }
                Err(error) => return Err(error.context(named)),
            }
        }
        let left_out: Vec<String> = (left_out.into_iter())
            .map(|(reason, names)| format!("left out: {}: {reason}", names.join(", ")))
            .collect();
        if found.is_empty() {
            bail!("no sampler is left to compare; {}", left_out.join("; "));
        }
        Ok((found, left_out))
    }

    /// Each once, in the order in which they were named.
    fn options(&self) -> Vec<SamplerOptions> {
        let samplers = self.samplers.iter().flat_map(|asked| match asked {
            AskedSampler::One(options) => vec![(**options).clone()],
            AskedSampler::All => every_sampler().map(SamplerOptions::new).collect(),
        });
        let spacings: Vec<Option<Spacing>> = (self.spacings.iter())
            .flat_map(|asked| match asked {
                AskedSpacing::Default => vec![None],
                AskedSpacing::One(spacing) => vec![Some(*spacing)],
                AskedSpacing::All => Spacing::value_variants()
                    .iter()
                    .copied()
                    .map(Some)
                    .collect(),
            })
            .collect();
        let mut all: Vec<SamplerOptions> = Vec::new();
        for sampler in samplers {
            for spacing in &spacings {
                for steps in self.steps {
                    let options = SamplerOptions {
                        steps: Some(*steps),
                        spacing: Some(spacing.unwrap_or(sampler.kind.default_spacing())),
                        clip_x0: self.clip_x0,
                        ..sampler.clone()
                    };
                    if !all.contains(&options) {
                        all.push(options);
                    }
                }
            }
        }
        all
    }
}

impl Combination {
    /// "ddim, 10 steps, log-snr"
    pub(super) fn name(&self) -> String {
        format!(
            "{}, {} steps, {}",
            self.sampler,
            self.steps,
            spacing_name(self.spacing)
        )
    }

    pub(super) fn sampling<'a>(&self, network: &'a Pretrained) -> Sampling<'a> {
        network
            .sampler(self.options.kind)
            .options(self.options.clone())
    }
}

/// All that images can be drawn with; ddcm takes its noise from codebooks.
fn every_sampler() -> impl Iterator<Item = SamplerKind> {
    let all = SamplerKind::value_variants().iter().copied();
    all.filter(|kind| *kind != SamplerKind::Ddcm)
}

fn choose(network: &Pretrained, options: &SamplerOptions) -> Result<ChosenSampler> {
    if options.kind == SamplerKind::Ddcm {
        bail!(
            "it takes its noise from codebooks, and is for `ddpm encode`; want one of the others"
        );
    }
    network
        .sampler(options.kind)
        .options(options.clone())
        .chosen()
}

/// The name of a spacing on the command line.
pub(super) fn spacing_name(spacing: Spacing) -> String {
    let value = spacing.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The sampler as it is asked for.
fn shown(options: &SamplerOptions) -> String {
    let sigma = options.sigma.and_then(|sigma| sigma.to_possible_value());
    let settings = [
        options.eta.map(|eta| format!("eta={eta}")),
        options.order.map(|order| format!("order={order}")),
        sigma.map(|sigma| format!("sigma={}", sigma.get_name())),
    ];
    let words = std::iter::once(options.kind.name()).chain(settings.into_iter().flatten());
    words.collect::<Vec<_>>().join(":")
}

/// A sampler of the command line: `all`, `NAME`, `NAME:eta=0.5`, `NAME:order=3` or `NAME:sigma=posterior`.
pub(super) fn asked_sampler(word: &str) -> Result<AskedSampler> {
    if word == "all" {
        return Ok(AskedSampler::All);
    }
    let mut parts = word.split(':');
    let name = parts.next().unwrap_or_default();
    let names = || {
        every_sampler()
            .map(SamplerKind::name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let kind = SamplerKind::from_str(name, false)
        .map_err(|_| anyhow!("no sampler is called {name:?}; want all, {}", names()))?;
    let mut options = SamplerOptions::new(kind);
    for part in parts {
        let wanted = || {
            anyhow!("{part:?}: want eta=NUMBER, order=NUMBER or sigma=beta, posterior or learned")
        };
        let (setting, value) = part.split_once('=').ok_or_else(wanted)?;
        match setting {
            "eta" => options.eta = Some(value.parse().map_err(|_| wanted())?),
            "order" => options.order = Some(value.parse().map_err(|_| wanted())?),
            "sigma" => options.sigma = Some(Sigma::from_str(value, false).map_err(|_| wanted())?),
            _ => return Err(wanted()),
        }
    }
    Ok(AskedSampler::One(Box::new(options)))
}

impl ValueParserFactory for AskedSpacing {
    type Parser = clap::builder::MapValueParser<PossibleValuesParser, fn(String) -> AskedSpacing>;

    fn value_parser() -> Self::Parser {
        let own = Spacing::value_variants()
            .iter()
            .filter_map(Spacing::to_possible_value);
        let all = PossibleValue::new("all").help("All of them");
        let default = PossibleValue::new("default").help("That of `ddpm sample` for each sampler");
        let asked: fn(String) -> AskedSpacing =
            |word| match (word.as_str(), Spacing::from_str(&word, false)) {
                (_, Ok(spacing)) => AskedSpacing::One(spacing),
                ("all", _) => AskedSpacing::All,
                _ => AskedSpacing::Default,
            };
        PossibleValuesParser::new(own.chain([all, default])).map(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_named_with_their_settings() {
        for word in [
            "ddim",
            "ddim:eta=0.5",
            "unipc:order=3",
            "ddpm:sigma=posterior",
        ] {
            let AskedSampler::One(options) = asked_sampler(word).unwrap() else {
                panic!("{word} is one sampler");
            };
            assert_eq!(shown(&options), word);
        }
        assert_eq!(asked_sampler("all").unwrap(), AskedSampler::All);
        for (word, said) in [
            ("euler", "want all, ddpm, ddim"),
            ("ddim:eta", "want eta=NUMBER"),
            ("ddim:eta=x", "want eta=NUMBER"),
            ("ddpm:noise=1", "want eta=NUMBER"),
        ] {
            let error = asked_sampler(word).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}

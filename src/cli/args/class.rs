//! The classes of images, and guidance.

mod asked;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::{Kind, Tensor};

pub(in crate::cli) use asked::name as class_name;
use asked::{choices, double_meanings, names_of, parse, untrained};

use super::run::run_or_latest;
use crate::cli::findings;
use crate::cli::out::say;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::interop::Request;
use crate::pretrained::{Guided, Pretrained};
use crate::sample::{Classes, Guidance};
use crate::text;

/// Classes and guidance, for commands that sample.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Class and guidance")]
pub(in crate::cli) struct ClassArgs {
    #[command(flatten)]
    pub(in crate::cli) class: ClassArg,
    #[command(flatten)]
    pub(in crate::cli) guidance: GuidanceArgs,
}

/// Classes alone.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct ClassArg {
    /// Class, by name or number, for class-conditional networks
    ///
    /// A name comes before a number; name:X and number:N are one of the two alone. Commands that sample take all in
    /// turn without it, or several in turn (cat,dog,3), all, data: each as often as among the images that the network
    /// was trained on, or none: the network is not told any. These three are never a class; one of that name is
    /// name:none. invert and upscale take several in turn, interpolate one or two, and encode one; they need it.
    #[arg(long, value_name = "CLASS,…|all|data|none")]
    class: Option<String>,
}

/// Guidance alone, for commands with a class of their own.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct GuidanceArgs {
    /// Guidance: above 1, images are more like their class, and more like each other; 1 is the network as it is [default: 1]
    ///
    /// The output becomes without + S (with - without), with and without the class. Papers that count from 0 write
    /// w = S - 1. It takes two evaluations of the network a step, in one batch.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Guide at these time steps only, for example 200:800 of 1000; the others take one evaluation
    #[arg(long, value_name = "FROM:TO", requires = "guidance")]
    guidance_interval: Option<Interval>,
    /// Bring the contrast back that guidance adds: 0 for not at all, to 1; 0.7 is usual
    #[arg(
        long,
        value_name = "SHARE",
        requires = "guidance",
        allow_negative_numbers = true
    )]
    guidance_rescale: Option<f64>,
    /// Guide with this network instead of the same one without a class: a smaller or an earlier one (autoguidance)
    ///
    /// It must make images of the same size, by the same schedule. Networks without classes can be guided so, too.
    #[arg(long, value_name = "CKPT", requires = "guidance", value_parser = run_or_latest())]
    guide_with: Option<PathBuf>,
}

/// Two time steps, both included.
#[derive(Debug, Clone, Copy)]
struct Interval(i64, i64);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Interval, String> {
        let ends = text.split_once(':');
        let ends = ends.and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        let (first, last) = ends.ok_or("want two time steps, FROM:TO, for example 200:800")?;
        Ok(Interval(first, last))
    }
}

impl ClassArg {
    /// The classes asked for; without any, each as often as among the training images, where that is known, for sets that
    /// are compared with such images.
    ///
    /// # Errors
    /// A name that the network does not have.
    pub(in crate::cli) fn classes_beside_data(&self, config: &RunConfig) -> Result<Classes> {
        let conditional = config.conditional.as_ref();
        let counts = conditional.map(|conditional| conditional.images.clone());
        match (&self.class, counts.filter(|counts| !counts.is_empty())) {
            (None, Some(counts)) => Ok(Classes::AsOften(counts)),
            _ => self.classes(config),
        }
    }

    /// True if one is asked for.
    pub(in crate::cli) fn given(&self) -> bool {
        self.class.is_some()
    }

    /// The classes asked for, by the names or numbers of this network's.
    ///
    /// # Errors
    /// A name that it does not have.
    pub(in crate::cli) fn classes(&self, config: &RunConfig) -> Result<Classes> {
        match self.class.as_deref() {
            None => Ok(Classes::All),
            Some(asked) => parse(asked, config),
        }
    }

    /// The class asked for, by a command of images of one class; `None` for a network without classes.
    ///
    /// # Errors
    /// Several classes, or none where there are some to choose from; a class that the network does not have.
    pub(in crate::cli) fn one(&self, guided: &Guided) -> Result<Option<i64>> {
        let classes = self.chosen(guided)?;
        ensure!(classes.len() < 2, "--class: this command takes one class");
        Ok(classes.first().copied())
    }

    /// The classes asked for, one or more; none for a network without.
    ///
    /// # Errors
    /// As [`one`](ClassArg::one), but for several.
    pub(in crate::cli) fn chosen(&self, guided: &Guided) -> Result<Vec<i64>> {
        let config = guided.network().config();
        let known = config.model.classes();
        if let (None, Some(known)) = (&self.class, known) {
            bail!(
                "this network is class-conditional: choose a class with --class {}",
                choices(names_of(config), known)
            );
        }
        let classes = self.classes(config)?;
        let number = match &classes {
            Classes::These(these) => these.len() as u64,
            Classes::All | Classes::AsOften(_) | Classes::None => 1,
        };
        ensure!(
            !matches!(classes, Classes::All | Classes::AsOften(_)) || known.is_none(),
            "--class {}: this command takes the classes that you name",
            self.class.as_deref().unwrap_or_default()
        );
        let labels = guided.labels(&classes, number)?;
        self.tell(config, &classes, number);
        let labels = labels.map(Vec::<i64>::try_from);
        Ok(labels.transpose()?.unwrap_or_default())
    }

    /// Says what may be meant otherwise, and which classes of `images` images were never trained on.
    pub(in crate::cli) fn tell(&self, config: &RunConfig, classes: &Classes, images: u64) {
        let asked = self.class.as_deref();
        let told = asked.map_or(vec![], |asked| double_meanings(asked, config));
        let untrained = untrained(classes, images, config);
        told.iter().chain(&untrained).for_each(|line| say(line));
    }
}

impl GuidanceArgs {
    /// Guidance as asked for.
    pub(in crate::cli) fn asked(&self) -> Guidance {
        Guidance {
            scale: self.guidance.unwrap_or(1.0),
            interval: self
                .guidance_interval
                .map(|Interval(first, last)| (first, last)),
            rescale: self.guidance_rescale.unwrap_or(0.0),
        }
    }

    /// Says if guidance is for none of the time steps that are visited, of which `times` are all, the least noisy
    /// first.
    pub(in crate::cli) fn tell_visited(&self, times: &[i64]) {
        if let Some(line) = unvisited(&self.asked(), times) {
            say(&line);
        }
    }

    /// Files that guidance reads.
    pub(in crate::cli) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.guide_with.iter()
    }

    /// Refuses --guide-with, for a file that can be about one network only.
    ///
    /// # Errors
    /// It is given.
    pub(in crate::cli) fn refuse_other(&self, why: &str) -> Result<()> {
        ensure!(
            self.guide_with.is_none(),
            "--guide-with: {why}; leave it out"
        );
        Ok(())
    }

    /// Loads what --guide-with names.
    ///
    /// # Errors
    /// A file that is no network.
    pub(in crate::cli) fn load(&self, chosen: &Chosen) -> Result<Option<Pretrained>> {
        let Some(path) = &self.guide_with else {
            return Ok(None);
        };
        let cannot = || format!("--guide-with {}", text::path(path));
        let mut network =
            findings::load(path, &Request::default(), chosen.device).with_context(cannot)?;
        network.set_precision(chosen.precision);
        Ok(Some(network))
    }

    /// The network under guidance, `guide` being what was loaded; `tells` which.
    ///
    /// # Errors
    /// Guidance that this network cannot have.
    pub(in crate::cli) fn guided<'a>(
        &self,
        network: &'a Pretrained,
        guide: Option<&'a Pretrained>,
        tells: bool,
    ) -> Result<Guided<'a>> {
        self.told(Guided::new(network, self.asked(), guide)?, tells)
    }

    /// As [`guided`](GuidanceArgs::guided), for a network that makes images larger.
    ///
    /// # Errors
    /// As [`guided`](GuidanceArgs::guided).
    pub(in crate::cli) fn guided_upscaling<'a>(
        &self,
        network: &'a Pretrained,
        guide: Option<&'a Pretrained>,
    ) -> Result<Guided<'a>> {
        self.told(Guided::upscaling(network, self.asked(), guide)?, true)
    }

    fn told<'a>(&self, guided: Guided<'a>, tells: bool) -> Result<Guided<'a>> {
        if tells && !guided.guidance().is_none() {
            let scale = guided.guidance().scale;
            say(&format!("guidance {scale} (w = {})", tidy(scale - 1.0)));
        }
        Ok(guided)
    }
}

/// What is said of an interval that none of these time steps lies in.
fn unvisited(guidance: &Guidance, times: &[i64]) -> Option<String> {
    let (first, last) = guidance.interval?;
    if times.iter().any(|t| guidance.is_for(*t)) {
        return None;
    }
    let visited: Vec<String> = times.iter().rev().map(ToString::to_string).collect();
    Some(format!(
        "warning: --guidance-interval {first}:{last}: nothing is guided, as none of the time steps that are visited lies in \
         it: {}",
        text::listed(&visited)
    ))
}

/// Without the digits that only binary fractions have: 0.1, and not 0.10000000000000009.
fn tidy(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// What the network says of images that are all of one class.
pub(in crate::cli) fn of_class(
    guided: &Guided,
    class: Option<i64>,
    x: &Tensor,
    t: &Tensor,
) -> Tensor {
    let all = |class: i64| Tensor::full([x.size()[0]], class, (Kind::Int64, x.device()));
    guided.predict(x, t, class.map(all).as_ref())
}

/// Classes for `images` images, in turn, `[images]` i64 on the CPU; `None` of none.
pub(in crate::cli) fn in_turn(classes: &[i64], images: usize) -> Option<Tensor> {
    let classes: Vec<i64> = classes.iter().copied().cycle().take(images).collect();
    (!classes.is_empty()).then(|| Tensor::from_slice(&classes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_two_time_steps() {
        assert!(matches!("200:800".parse(), Ok(Interval(200, 800))));
        for text in ["200", "200:", ":", "a:b", "1:2:3"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_between_the_visited_steps_is_told() {
        let told = |ends| {
            let guidance = Guidance {
                interval: Some(ends),
                ..Guidance::of_scale(2.0)
            };
            unvisited(&guidance, &[0, 9, 19])
        };
        let said = "warning: --guidance-interval 1:8: nothing is guided, as none of the time steps that are visited lies in \
                    it: 19, 9, 0";
        assert_eq!(told((1, 8)).as_deref(), Some(said));
        assert_eq!(told((1, 9)), None);
        assert_eq!(unvisited(&Guidance::of_scale(2.0), &[0]), None);
    }
}

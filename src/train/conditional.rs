//! The classes of a run: from the labels of its images to what the network is told.

use anyhow::{Context, Result, bail, ensure};

use super::{Observer, Start};
use crate::config::{ConditionalConfig, LABEL_DROPOUT, RunConfig};
use crate::data::{Labels, Loaded};
use crate::text::{listed, plural, printable};

/// What a run begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The weights of its seed.
    Seed,
    /// Weights from elsewhere.
    Weights,
    /// Its own checkpoint.
    Checkpoint,
}

impl From {
    pub(super) fn of(start: &Start) -> From {
        match (&start.resume, &start.init) {
            (Some(_), _) => From::Checkpoint,
            (None, Some(_)) => From::Weights,
            (None, None) => From::Seed,
        }
    }
}

/// Settles the classes of a run, and gives each image its own. A run that is not conditional is told what it could be.
///
/// A new run takes the classes of its images; one that goes on must find the same.
///
/// # Errors
/// A conditional run of images without labels; other classes than the network's; an image without a label, for a network
/// that must always have a class.
pub(super) fn settle(
    config: &mut RunConfig,
    data: &mut Loaded,
    from: From,
    observer: &dyn Observer,
) -> Result<()> {
    let wanted = config.conditional.is_some() || config.model.classes().is_some();
    let labels = match (&data.labels, wanted) {
        (_, true) => data.labels.clone(),
        (Some(_), false) => {
            if from != From::Checkpoint {
                observer.message(
                    "note: the network is not told the classes; `conditional` trains one that can be asked for them",
                );
            }
            return Ok(());
        }
        (None, false) => return Ok(()),
    };
    let mut labels = labels.with_context(|| {
        let why = data.why_no_labels.as_ref();
        format!(
            "{}: these images have no labels{}, and a class-conditional network needs them: sort them into folders, one a \
             class, or choose what says them (`data.labels`)",
            data.origin,
            why.map_or(String::new(), |why| format!(", as {why}"))
        )
    })?;
    if from == From::Weights {
        take_over(config, &mut labels, observer);
    }
    settle_classes(config, &labels, from)?;
    check_held_out(config, data, observer)?;
    let conditional = config.conditional.as_ref().context("it is conditional")?;
    observer.message(&told(conditional));
    data.store.set_classes(numbers(config, data, &labels)?);
    Ok(())
}

/// Numbers the labels as the weights have them, if their classes are the same; else the network learns others in their place.
fn take_over(config: &mut RunConfig, labels: &mut Labels, observer: &dyn Observer) {
    let Some(theirs) = config
        .conditional
        .as_mut()
        .filter(|c| !c.classes.is_empty())
    else {
        return;
    };
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    if sorted(&theirs.classes) == sorted(&labels.names) {
        *labels = labels.clone().among(&theirs.classes).0;
    } else {
        if theirs.classes.len() == labels.names.len() {
            observer.message(&format!(
                "note: the weights are of other classes, which these replace: {} instead of {}",
                listed(&labels.names),
                listed(&theirs.classes)
            ));
        }
        theirs.classes.clear();
        theirs.images.clear();
    }
}

/// Says at once what evaluations will make of images held out without labels.
///
/// # Errors
/// They are to be measured, and the network must always have a class.
fn check_held_out(config: &RunConfig, data: &Loaded, observer: &dyn Observer) -> Result<()> {
    let measured = config.evaluation.as_ref();
    let measured = measured.is_some_and(|wanted| wanted.metrics.iter().any(|m| !m.samples()));
    let Some(held_out) = data.held_out.as_ref().filter(|_| measured) else {
        return Ok(());
    };
    let without = match &held_out.labels {
        None => held_out.len() as u64,
        Some(labels) => labels.unlabelled(),
    };
    ensure!(
        without == 0 || config.model.null_class().is_some(),
        "{} held out without a label, and this network must always have a class: a file of labels (`data.labels`) has to \
         name those held out, too; or measure swd or fid (`evaluation.metrics`)",
        plural(without, "image")
    );
    if without > 0 {
        observer.message(&format!(
            "warning: {} held out without a label: loss and bpd are measured as of no class; a file of labels \
             (`data.labels`) has to name those held out, too",
            plural(without, "image")
        ));
    }
    Ok(())
}

/// Writes the classes into the settings of a new run, or compares them with those of one that goes on.
fn settle_classes(config: &mut RunConfig, labels: &Labels, from: From) -> Result<()> {
    let count = labels.names.len() as i64;
    match config.model.classes() {
        Some(known) => ensure!(
            known == count,
            "the images are of {}, and the network has {known}; want images of the same classes",
            plural(count as u64, "class")
        ),
        None => {
            let dropout = (config.conditional.as_ref()).and_then(|c| c.label_dropout);
            let null_class = dropout != Some(0.0);
            match from {
                // The structure stays that of the weights, which grow.
                From::Weights => config.model.set_classes(Some(count), null_class),
                _ => config.model.make_conditional(count, null_class),
            }
        }
    }
    let usual = match config.model.null_class() {
        Some(_) => LABEL_DROPOUT,
        None => 0.0,
    };
    let conditional = config.conditional.get_or_insert_default();
    conditional.label_dropout.get_or_insert(usual);
    if conditional.classes.is_empty() {
        conditional.classes.clone_from(&labels.names);
    }
    let differs = conditional
        .classes
        .iter()
        .zip(&labels.names)
        .find(|(a, b)| a != b);
    if let Some((before, now)) = differs {
        bail!(
            "the images are of other classes than those of this run: {} instead of {}",
            printable(now),
            printable(before)
        );
    }
    conditional.images = labels.counts();
    Ok(config.validate().map(|_| ())?)
}

/// The class of each image, as the network is told it.
fn numbers(config: &RunConfig, data: &Loaded, labels: &Labels) -> Result<Vec<i64>> {
    let none = config.model.null_class();
    let number = |(place, class): (usize, &Option<u32>)| match (class, none) {
        (Some(class), _) => Ok(i64::from(*class)),
        (None, Some(none)) => Ok(none),
        (None, None) => {
            let name = data.manifest.name(place).unwrap_or_default();
            bail!(
                "{name} has no label, and this network must always have a class; label it, take it out, or train with a \
                 `conditional.label_dropout` above 0"
            )
        }
    };
    labels.of.iter().enumerate().map(number).collect()
}

fn told(conditional: &ConditionalConfig) -> String {
    let share = 100.0 * conditional.label_dropout.unwrap_or_default();
    // Without the digits that only binary fractions have.
    let percent = (share * 1e6).round() / 1e6;
    format!(
        "class-conditional; at each step the network is not told the classes of {percent} % of the images"
    )
}

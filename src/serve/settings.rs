//! Settings in PNG files: from a job to a file, and from a file to the form of the page.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::draw::Drawn;
use super::wish::{Class, MOST_IMAGES, Task, Wish};
use crate::checkpoint::Weights;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::pretrained::{Pretrained, name_of, network_settings};
use crate::report::{
    GuidanceSettings, ImageSettings, InterpolationSettings, OfClass, StartSettings,
};
use crate::sample::SamplerKind;
use crate::text::{self, shell};

/// What the images of a job were made with.
///
/// # Errors
/// Weights that are not f32.
pub(super) fn of_job(
    network: &Pretrained,
    device: &Chosen,
    wish: &Wish,
    drawn: &Drawn,
) -> Result<ImageSettings> {
    let config = network.config();
    let is_guided = wish.is_guided();
    Ok(ImageSettings {
        ddpm: env!("CARGO_PKG_VERSION").to_owned(),
        command: command(network, wish),
        network: network_settings(network)?,
        seed: Some(wish.seed),
        sampler: drawn.sampler.clone(),
        classes: config.model.classes().map(|_| match wish.class {
            Class::All => "all".to_owned(),
            Class::None => "none".to_owned(),
            Class::Number(class) => name(class, config),
        }),
        guidance: is_guided.then(|| GuidanceSettings {
            scale: wish.guidance,
            ..GuidanceSettings::default()
        }),
        start: start(wish.task),
        interpolation: match wish.task {
            Task::Interpolate { to_seed } => Some(InterpolationSettings {
                rows: 1,
                count: wish.number,
                latent: true,
                to_seed: Some(to_seed),
                ..InterpolationSettings::default()
            }),
            _ => None,
        },
        batch: Some(wish.batch()),
        device: device.kind().to_owned(),
        precision: device.precision.to_string(),
        environment: Some(device.environment.clone()),
        ..ImageSettings::default()
    })
}

/// The settings for the file of one image.
pub(super) fn of_image(
    all: &ImageSettings,
    number: u64,
    wish: &Wish,
    config: &RunConfig,
) -> ImageSettings {
    let known = config.model.classes();
    let class = match wish.class {
        Class::Number(class) => Some(class),
        Class::All => known.map(|known| number as i64 % known),
        Class::None => None,
    };
    ImageSettings {
        image: Some(number),
        classes: None,
        class: known.and(class).map(|number| OfClass {
            number,
            name: name(number, config),
        }),
        ..all.clone()
    }
}

fn name(class: i64, config: &RunConfig) -> String {
    let conditional = config.conditional.as_ref();
    let names = conditional.map_or(&[][..], |conditional| &conditional.classes);
    let name = names.get(class as usize).cloned();
    name.unwrap_or_else(|| class.to_string())
}

fn start(task: Task) -> Option<StartSettings> {
    let image = || "from the page of ddpm serve".to_owned();
    match task {
        Task::Sample | Task::Interpolate { .. } => None,
        Task::Invert { .. } => Some(StartSettings {
            image: image(),
            ..StartSettings::default()
        }),
        Task::Vary { strength, .. } => Some(StartSettings {
            image: image(),
            strength: Some(strength),
            ..StartSettings::default()
        }),
        Task::Fill { jump, passes, .. } => Some(StartSettings {
            image: image(),
            mask: Some(image()),
            jump: Some(jump as u64),
            resample: Some(passes as u64),
            ..StartSettings::default()
        }),
    }
}

/// The command that makes the same images; none where it would need the page's files.
fn command(network: &Pretrained, wish: &Wish) -> Option<String> {
    let Task::Sample = wish.task else {
        return None;
    };
    let mut command = format!(
        "ddpm sample {} --sampler {} --seed {} -n {}",
        shell(&network.path),
        wish.sampler.name(),
        wish.seed,
        wish.number
    );
    if let Some(steps) = wish.steps {
        command += &format!(" --steps {steps}");
    }
    match wish.class {
        Class::All => {}
        Class::None => command += " --class none",
        Class::Number(class) => command += &format!(" --class number:{class}"),
    }
    if wish.is_guided() {
        command += &format!(" --guidance {}", wish.guidance);
    }
    if network.which == Weights::Raw {
        command += " --raw";
    }
    Some(command)
}

/// What a PNG file of this program says, as far as the form has a place for it; `None` if that is no such text. It may
/// be anything: whoever made the file chose it.
pub(super) fn for_form(text: &str) -> Option<Value> {
    let settings = ImageSettings::from_json(text).ok()?;
    let kind = SamplerKind::from_str(&settings.sampler.name, false).ok();
    let number = number(&settings);
    let class = match (&settings.class, settings.classes.as_deref()) {
        (Some(class), _) => json!({ "number": class.number }),
        (None, Some("none")) => "none".into(),
        (None, Some("all")) => "all".into(),
        (None, Some(name)) => json!({ "name": safe(name) }),
        (None, None) => Value::Null,
    };
    let (start, interpolation) = (settings.start.as_ref(), settings.interpolation.as_ref());
    let to_seed = interpolation.and_then(|between| between.to_seed);
    let task = match start {
        Some(start) if start.mask.is_some() => "fill",
        Some(start) if start.strength.is_some() => "vary",
        Some(_) => "invert",
        None if to_seed.is_some() => "interpolate",
        None => "sample",
    };
    let left_out = left_out(&settings, kind, task == "invert");
    let number = number.filter(|_| task != "invert");
    Some(json!({
        "file": safe(&settings.network.file),
        "step": settings.network.step,
        "raw": settings.network.weights == "raw",
        "seed": settings.seed.map(|seed| seed.to_string()),
        "sampler": kind.map(SamplerKind::name),
        "steps": Some(settings.sampler.steps).filter(|steps| *steps > 0),
        "number": number.map(|number| number.clamp(1, MOST_IMAGES)),
        "class": class,
        "guidance": settings.guidance.map(|guidance| guidance.scale),
        "task": task,
        "strength": start.and_then(|start| start.strength),
        "jump": start.and_then(|start| start.jump),
        "passes": start.and_then(|start| start.resample),
        "to_seed": to_seed.map(|seed| seed.to_string()),
        "sigma": settings.sampler.sigma.as_deref().map(safe),
        "clip_x0": settings.sampler.clip_x0,
        "left_out": left_out,
    }))
}

/// The settings that the form has no place for and that are not what it takes without one, in words. Those whose usual value
/// depends on the network (`sigma`, `clip_x0`) are left to the page, which knows the network that is chosen.
fn left_out(settings: &ImageSettings, kind: Option<SamplerKind>, inverts: bool) -> Vec<String> {
    let sampler = &settings.sampler;
    let usual_spacing = kind.map(|kind| name_of(&kind.default_spacing()));
    let usual_eta = match kind {
        Some(SamplerKind::Analytic) => 1.0,
        _ => 0.0,
    };
    let mut left_out = Vec::new();
    let mut say = |what: String| left_out.push(what);
    let is_known = kind.is_some_and(|kind| kind != SamplerKind::Ddcm);
    if !is_known && !sampler.name.is_empty() {
        say(format!("the sampler {}", safe(&sampler.name)));
    }
    if let Some(eta) = sampler.eta.filter(|eta| *eta != usual_eta) {
        say(format!("eta {eta}"));
    }
    if let Some(order) = sampler.order.filter(|order| *order != 2) {
        say(format!("order {order}"));
    }
    let spacing = sampler.spacing.as_ref();
    let is_usual = |spacing: &String| inverts || usual_spacing.as_ref() == Some(spacing);
    if let Some(spacing) = spacing.filter(|spacing| !is_usual(spacing)) {
        say(format!("spacing {}", safe(spacing)));
    }
    if sampler.stride.is_some() || sampler.times.is_some() {
        say("the time steps that were chosen".to_owned());
    }
    if let Some(guidance) = &settings.guidance {
        if guidance.interval.is_some() {
            say("the time steps that are guided".to_owned());
        }
        if guidance.rescale != 0.0 {
            say(format!("guidance rescaled by {}", guidance.rescale));
        }
        if let Some(with) = &guidance.with {
            say(format!("guidance with {}", safe(&with.file)));
        }
    }
    if let Some(noise) = &settings.noise {
        say(format!("the noise: {}", safe(noise)));
    }
    if let Some(start) = &settings.start {
        say(format!(
            "the image that it began with ({})",
            safe(&start.image)
        ));
    }
    if (settings.interpolation.as_ref()).is_some_and(|between| between.to_seed.is_none()) {
        say("what was interpolated (`ddpm interpolate`)".to_owned());
    }
    if !settings.then.is_empty() {
        say("networks that made it larger (`--then`)".to_owned());
    }
    if let Some(number) = number(settings).filter(|number| *number > MOST_IMAGES) {
        say(format!(
            "{number} images, of which the page makes at most {MOST_IMAGES} at a time"
        ));
    }
    left_out
}

/// How many images the form is to ask for.
fn number(settings: &ImageSettings) -> Option<u64> {
    match &settings.interpolation {
        // One of them alone is another one.
        Some(between) if between.to_seed.is_some() => Some(between.count),
        _ => (settings.images).or(settings.image.map(|image| image.saturating_add(1))),
    }
}

/// Text of a file, short and without what steers a terminal or turns the direction of text.
fn safe(text: &str) -> String {
    text::printable(&text::shown(text))
}

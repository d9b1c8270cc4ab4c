//! Settings in PNG files: from a job to a file, and from a file to the form of the page.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};
use tch::Device;

use super::draw::Drawn;
use super::wish::{Class, MOST_IMAGES, Task, Wish};
use crate::checkpoint::Weights;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::pretrained::Pretrained;
use crate::report::{
    GuidanceSettings, ImageSettings, InterpolationSettings, NetworkSettings, OfClass,
    SamplerSettings, StartSettings,
};
use crate::sample::{Sampler, SamplerKind};
use crate::text::shell;

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
    let file = network.path.file_name().unwrap_or_default();
    Ok(ImageSettings {
        ddpm: env!("CARGO_PKG_VERSION").to_owned(),
        command: command(network, wish),
        network: NetworkSettings {
            file: file.to_string_lossy().into_owned(),
            step: Some(network.meta.step).filter(|step| *step > 0),
            weights: network.which.to_string().to_lowercase(),
            fingerprint: network.fingerprint()?.to_hex().to_string(),
        },
        seed: Some(wish.seed),
        sampler: of_sampler(drawn),
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
        device: match device.device {
            Device::Cuda(_) => "cuda".to_owned(),
            _ => "cpu".to_owned(),
        },
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

fn of_sampler(drawn: &Drawn) -> SamplerSettings {
    let chosen = &drawn.chosen;
    let mut settings = SamplerSettings {
        name: chosen.kind.name(),
        steps: chosen.steps.len() as u64,
        clip_x0: chosen.clip_x0,
        ..SamplerSettings::default()
    };
    match &chosen.sampler {
        Sampler::Ddpm(ddpm) => {
            let sigma = ddpm.sigma.to_possible_value();
            settings.sigma = sigma.map(|value| value.get_name().to_owned());
        }
        Sampler::Ddim(ddim) => settings.eta = Some(ddim.eta),
        Sampler::UniPc(_) => settings.order = Some(2),
        Sampler::DpmSolver(_) | Sampler::Heun => {}
    }
    settings
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
    let number = settings.images.or(settings.image.map(|image| image + 1));
    let class = match (&settings.class, settings.classes.as_deref()) {
        (Some(class), _) => json!({ "number": class.number }),
        (None, Some("none")) => "none".into(),
        (None, Some("all")) => "all".into(),
        (None, Some(name)) => json!({ "name": crate::text::printable(&crate::text::shown(name)) }),
        (None, None) => Value::Null,
    };
    let interpolation = settings.interpolation.as_ref();
    Some(json!({
        "file": crate::text::printable(&crate::text::shown(&settings.network.file)),
        "step": settings.network.step,
        "raw": settings.network.weights == "raw",
        "seed": settings.seed.map(|seed| seed.to_string()),
        "sampler": kind.map(SamplerKind::name),
        "steps": Some(settings.sampler.steps).filter(|steps| *steps > 0),
        "number": number.map(|number| number.clamp(1, MOST_IMAGES)),
        "class": class,
        "guidance": settings.guidance.map(|guidance| guidance.scale),
        "strength": settings.start.as_ref().and_then(|start| start.strength),
        "to_seed": interpolation.and_then(|of| of.to_seed).map(|seed| seed.to_string()),
    }))
}

//! Hugging Face diffusers' `UNet2DModel`: its folders, settings and weights, in both directions.
//!
//! - `folder`, `weights`: the files that belong together
//! - `config`, `to_config`: the network, `config.json`
//! - `scheduler`, `to_scheduler`, `betas`: the schedule and the sampler, `scheduler_config.json`
//! - `class_script`: what `DDPMPipeline` lacks for classes
//! - `params`: names and shapes that a network of these settings has
//! - `json`, `knobs`: an untrusted JSON file, and one value of it
//!
//! Our parameters carry diffusers' names, so the layout is the identity, but for the older names of
//! the attention weights and their older shapes.

use anyhow::{Error, Result, anyhow, bail, ensure};

use super::Settings;
use super::null_class;
use super::settings::spelled;
use crate::checkpoint::{Family, Origin};
use crate::config::{
    AttentionUNetConfig, DiffusionConfig, MAX_SIDE, ModelConfig, SampleConfig, Sigma, sides_wanted,
};
use crate::interop::{Entry, Form, Hints, Keys, Report};
use crate::text::shown;

mod betas;
mod class_script;
mod config;
mod folder;
mod json;
mod knobs;
mod params;
mod scheduler;
mod to_config;
mod to_scheduler;
mod weights;

#[cfg(test)]
mod tests;

pub(crate) use class_script::class_script;
pub(crate) use folder::{Folder, find};
pub(crate) use json::read_json;
pub(crate) use params::parameters;
pub(crate) use to_config::to_config;
pub(crate) use to_scheduler::to_scheduler_config;

/// Most names of one kind that an error lists.
const MOST_LISTED: usize = 20;

/// The version of diffusers that written files imitate.
const VERSION: &str = "0.42.1";

/// True for keys and shapes of a `UNet2DModel`, or of our U-Net with attention, which has the same names.
pub(crate) fn matches(keys: &Keys) -> bool {
    keys.has("conv_in.weight")
        && keys.has("time_embedding.linear_1.weight")
        && keys.has("down_blocks.0.resnets.0.norm1.weight")
        && keys.any("up_blocks.0.resnets.0.")
        && keys.has("conv_norm_out.weight")
        && keys.has("conv_out.weight")
}

/// The error for weights that [`matches`] but lack `config.json`.
pub(crate) fn no_config() -> Error {
    anyhow!(
        "these are the weights of a diffusers {}, and they do not say how many attention heads, norm \
         groups and other settings go with them; put the config.json of the same U-Net beside the file \
         (and scheduler_config.json, if there is one), or give the folder of the pipeline",
        config::CLASS
    )
}

/// Network, schedule and sampler of weights with `keys`, from the texts of `config.json` and, where
/// there is one, `scheduler_config.json`.
///
/// # Errors
/// Settings not supported here, hints that contradict the files, and keys or shapes that do not fit the
/// settings, each named.
pub(crate) fn infer(
    config_json: &str,
    scheduler_json: Option<&str>,
    keys: &Keys,
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    refuse_idle_hints(hints)?;
    let (mut model, size_known) = config::parse(config_json)?;
    check_fit(&model, keys)?;
    set_size(&mut model, size_known, hints, report)?;
    if let Some(dropout) = hints.dropout {
        report.fact("dropout", dropout, "--dropout");
        model.dropout = dropout;
    }
    note(&model, report);
    null_class::split(&mut model, hints, report)?;
    let learned = model.learned_variance;
    let (diffusion, sample) = match scheduler_json {
        Some(text) => scheduler::parse(text, learned, hints, report)?,
        None => scheduler::from_hints(learned, hints, report),
    };
    let origin = Origin {
        old_attention_names: old_attention_names(keys),
        ..Origin::new(Family::Diffusers)
    };
    Ok(Settings {
        model: ModelConfig::UnetAttention(model),
        diffusion,
        sample,
        origin,
    })
}

/// Hints about settings that `config.json` always contains, or that diffusers does not have.
fn refuse_idle_hints(hints: &Hints) -> Result<()> {
    let idle = [
        ("known", hints.known.is_some()),
        ("num_heads", hints.num_heads.is_some()),
        ("num_heads_upsample", hints.num_heads_upsample.is_some()),
        ("head_channels", hints.head_channels.is_some()),
        ("attention_order", hints.attention_order.is_some()),
        ("blocks", hints.blocks.is_some()),
        ("rescale_timesteps", hints.rescale_timesteps == Some(true)),
    ];
    for (setting, given) in idle {
        ensure!(
            !given,
            "{setting} is no hint for a diffusers model: {} has all of these settings; leave {setting} out",
            config::FILE
        );
    }
    Ok(())
}

fn set_size(
    model: &mut AttentionUNetConfig,
    known: bool,
    hints: &Hints,
    report: &mut Report,
) -> Result<()> {
    let in_file = (model.height, model.width);
    let (height, width) = match hints.image_size {
        Some(size) if known && size != in_file => {
            report.assume(format!(
                "images are {}x{} as in image_size, not {}x{} as in {}: the network accepts both",
                size.0,
                size.1,
                in_file.0,
                in_file.1,
                config::FILE
            ));
            size
        }
        _ if known => in_file,
        ref hint => report.need(
            hint,
            "--image-size HxW",
            "height and width of an image; sample_size in config.json is null",
            in_file,
        ),
    };
    let factor = 1 << (model.widths.len() - 1);
    ensure!(
        [height, width]
            .iter()
            .all(|side| (1..=MAX_SIDE).contains(side) && side % factor == 0),
        "image_size = {height}x{width}: for each side {}",
        sides_wanted(factor)
    );
    (model.height, model.width) = (height, width);
    Ok(())
}

fn note(m: &AttentionUNetConfig, report: &mut Report) {
    let mut fact = |what: &str, value: String| report.fact(what, value, config::FILE);
    fact("image", format!("{}x{}x{}", m.channels, m.height, m.width));
    fact("widths", format!("{:?}", m.widths));
    fact("blocks per level", m.blocks.to_string());
    fact("attention down", format!("{:?}", m.attention_down));
    fact("attention up", format!("{:?}", m.attention_up));
    fact("middle attention", m.mid_attention.to_string());
    fact(
        "attention heads",
        m.head_channels
            .map_or("1".to_owned(), |each| format!("of {each} channels")),
    );
    fact(
        "norms",
        format!("{} groups, eps {:e}", m.norm_groups, m.norm_eps),
    );
    fact("resampling", spelled(&m.resample));
    fact("scale and shift", m.scale_shift.to_string());
    fact("learned variance", m.learned_variance.to_string());
}

/// True if the attention weights are called query, key, value and proj_attn.
fn old_attention_names(keys: &Keys) -> bool {
    keys.iter()
        .any(|(key, _)| key.ends_with(".proj_attn.weight") && key.contains(".attentions."))
}

/// Their tensors and ours, one to one.
pub(crate) fn layout(m: &AttentionUNetConfig, origin: &Origin) -> Vec<Entry> {
    parameters(m)
        .into_iter()
        .map(|(ours, _)| {
            let theirs = if origin.old_attention_names {
                old_name(&ours)
            } else {
                ours.clone()
            };
            Entry::same(theirs, ours)
        })
        .collect()
}

/// [`layout`] of a file with `keys`: its attention weights `[C, C]` may be 1×1 convolutions `[C, C, 1, 1]`.
pub(crate) fn layout_for(m: &AttentionUNetConfig, keys: &Keys) -> Vec<Entry> {
    let origin = Origin {
        old_attention_names: old_attention_names(keys),
        ..Origin::new(Family::Diffusers)
    };
    let mut entries = layout(m, &origin);
    for entry in &mut entries {
        let weight = entry.theirs.contains(".attentions.") && entry.theirs.ends_with(".weight");
        let ones = (1..=2).find(|&ones| {
            let shape = keys.shape(&entry.theirs, 2 + ones);
            shape.is_ok_and(|shape| shape[2..].iter().all(|&n| n == 1))
        });
        if let (true, Some(ones)) = (weight, ones) {
            entry.form = Form::Pointwise { ones };
        }
    }
    entries
}

fn old_name(ours: &str) -> String {
    if !ours.contains(".attentions.") {
        return ours.to_owned();
    }
    ours.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
}

/// Compares keys and shapes with those of a network of these settings, before one is built.
///
/// # Errors
/// Every missing, unexpected and misshaped key.
pub(crate) fn check_fit(m: &AttentionUNetConfig, keys: &Keys) -> Result<()> {
    let shapes: std::collections::HashMap<_, _> = keys.iter().collect();
    let mut wanted = std::collections::HashSet::new();
    let (mut missing, mut misshaped) = (vec![], vec![]);
    for (entry, (_, mut shape)) in layout_for(m, keys).into_iter().zip(parameters(m)) {
        if let Form::Pointwise { ones } = entry.form {
            shape.extend(std::iter::repeat_n(1, ones));
        }
        match shapes.get(entry.theirs.as_str()) {
            None => missing.push(entry.theirs.clone()),
            Some(seen) if *seen != shape => {
                misshaped.push(format!("{} {seen:?}, want {shape:?}", entry.theirs));
            }
            Some(_) => {}
        }
        wanted.insert(entry.theirs);
    }
    let unexpected: Vec<_> = shapes
        .keys()
        .filter(|key| !wanted.contains(**key))
        .map(|key| (*key).to_owned())
        .collect();
    refuse_misfit(missing, unexpected, misshaped)
}

fn refuse_misfit(
    mut missing: Vec<String>,
    mut unexpected: Vec<String>,
    mut misshaped: Vec<String>,
) -> Result<()> {
    let mut story = String::new();
    for (what, names) in [
        ("missing", &mut missing),
        ("unexpected", &mut unexpected),
        ("wrong shape", &mut misshaped),
    ] {
        names.sort();
        for name in names.iter().take(MOST_LISTED) {
            story.push_str(&format!("\n  {what}: {}", shown(name)));
        }
        if names.len() > MOST_LISTED {
            let more = names.len() - MOST_LISTED;
            story.push_str(&format!("\n  {what}: … and {more} more"));
        }
    }
    if !story.is_empty() {
        bail!(
            "the weights are not those of the network in {}:{story}",
            config::FILE
        );
    }
    Ok(())
}

/// The small files of a folder that `DDPMPipeline.from_pretrained` loads: paths in it, and texts. The
/// weights belong in `unet/diffusion_pytorch_model.safetensors`, under the names of [`layout`].
///
/// # Errors
/// A network or a setting that diffusers does not have.
pub(crate) fn pipeline_files(
    model: &ModelConfig,
    diffusion: &DiffusionConfig,
    sample: &SampleConfig,
) -> Result<Vec<(&'static str, String)>> {
    let model = match model {
        ModelConfig::UnetAttention(model) => model,
        other => bail!(
            "diffusers has no network like this one ({}): only the U-Net with attention \
             (kind = \"unet-attention\") can be written as a {}",
            other.kind().name(),
            config::CLASS
        ),
    };
    ensure!(
        model.learned_variance || sample.sigma != Sigma::Learned,
        "sample.sigma = learned: this network predicts no variance; want beta or posterior"
    );
    let mut sample = sample.clone();
    if model.learned_variance {
        // DDPMScheduler fails on twice the channels with any other kind of variance.
        sample.sigma = Sigma::Learned;
    }
    let index = serde_json::json!({
        "_class_name": "DDPMPipeline",
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", config::CLASS],
    });
    let text =
        |json: serde_json::Value| Ok::<_, Error>(serde_json::to_string_pretty(&json)? + "\n");
    Ok(vec![
        ("model_index.json", text(index)?),
        ("unet/config.json", text(to_config(model)?)?),
        (
            "scheduler/scheduler_config.json",
            text(to_scheduler_config(diffusion, &sample)?)?,
        ),
    ])
}

/// The differences between a pipeline of [`pipeline_files`] and this program, one sentence each.
pub(crate) fn pipeline_notes(model: &ModelConfig, sample: &SampleConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if sample.last_noise {
        notes.push(
            "DDPMPipeline adds no noise at the last step; sample.last_noise = true does here"
                .into(),
        );
    }
    if model.condition_channels().is_some() {
        notes.push(
            "DDPMPipeline gives the network no image to make larger, and fails; call the UNet2DModel with x_t and the small \
             image, brought to its size by bicubic interpolation with antialias, joined along the channels"
                .into(),
        );
    }
    if model.classes().is_some() {
        notes.push(
            format!(
                "DDPMPipeline passes no class to the network and fails; {} in the folder samples with classes",
                class_script::NAME
            ),
        );
    }
    if model.learned_variance() && sample.sigma != Sigma::Learned {
        notes.push(format!(
            "DDPMPipeline uses the learned variance; sample.sigma = {} does not",
            spelled(&sample.sigma)
        ));
    }
    notes
}

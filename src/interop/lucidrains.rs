//! lucidrains' `denoising-diffusion-pytorch` from PyPI, version 1.9 and later.
//!
//! Its files say almost everything: the network's shape is in the weights' shapes, the noise schedule
//! in the buffer `betas`, and what the network predicts in the buffer `loss_weight`. Only the size of
//! the images must be given. The network here has the package's own keys, so weights need no table.
//!
//! The package has two U-Nets: that of its main file, and that of `classifier_free_guidance.py`, which takes classes.
//!
//! - `table`: every key and shape that a network's settings imply
//! - `refused`: files that are recognised only to be refused
//! - `diffusion`: schedule and objective, and the package's buffers for them
//! - `trainer`: the other entries in a file of its `Trainer`

pub(super) mod diffusion;
mod refused;
mod table;
#[cfg(test)]
mod tests;
pub(super) mod trainer;

use anyhow::{Result, ensure};

use super::Settings;
use super::settings::spelled;
use crate::checkpoint::{Family, Origin};
use crate::config::{
    LucidrainsConfig, LucidrainsNorm, LucidrainsStructure, MAX_SIDE, ModelConfig, SampleConfig,
    Sigma, sides_wanted,
};
use crate::interop::{Entry, Hints, Keys, Report};

use diffusion::Buffers;

/// Widest axis that is accepted.
const MAX_WIDTH: i64 = 1 << 20;
/// Most levels that are accepted.
const MAX_LEVELS: usize = 16;
/// Groups of the group norms of 1.x; a setting there, but not stored.
const NORM_GROUPS: i64 = 8;
/// Trained keys and values of each attention head.
const MEMORIES: i64 = 4;

/// The embedding of "no class", which every network with classes has.
const NULL_CLASS: &str = "null_classes_emb";
/// Heads and their channels in the network with classes: fixed at the levels, by default in the middle.
const GUIDED_HEADS: (i64, i64) = (4, 32);

/// True for the keys of the package's U-Net, of any version; the prefix is stripped.
pub(super) fn matches(keys: &Keys) -> bool {
    let time = keys.any("time_mlp.") || keys.any("mlp.0.") || keys.any("mlp.1.");
    let parts = ["downs.0.0.", "ups.0.0.", "mid_block1.", "final_conv."];
    time && parts.iter().all(|part| keys.any(part))
}

/// Reads the settings off the U-Net's keys and the diffusion's buffers.
///
/// Every key must be there with exactly the shape that the settings imply, and no others.
///
/// # Errors
/// A version or a kind of network that is not supported, tensors that do not belong together, or a
/// hint that contradicts the file.
pub(super) fn infer(
    keys: &Keys,
    diffusion: &Buffers,
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    refused::refuse(keys, diffusion.version.as_deref())?;
    let model = network(keys, hints, report)?;
    table::check(keys, &model)?;
    if let Some(version) = &diffusion.version {
        report.fact("version", version, "version");
    }
    if model.classes.is_none() {
        report.assume("sinusoidal embedding of t with theta 10000: theta is not stored");
    }
    Ok(Settings {
        diffusion: diffusion::infer(diffusion, model.learned_variance, hints, report)?,
        sample: sampler(model.learned_variance, hints, report),
        model: ModelConfig::Lucidrains(model),
        origin: Origin {
            version: diffusion.version.clone(),
            ..Origin::new(Family::Lucidrains)
        },
    })
}

/// Every tensor of the U-Net, in the order of its `state_dict`; theirs is ours.
///
/// # Errors
/// A network with classes that the package does not have.
pub(super) fn layout(config: &LucidrainsConfig) -> Result<Vec<Entry>> {
    if config.classes.is_some() {
        let of_its_file = config.structure == LucidrainsStructure::ClassifierFreeGuidance;
        ensure!(
            of_its_file && config.null_class,
            "the package's network with classes (classifier_free_guidance) is another one than this, which {}",
            match of_its_file {
                true => "has no class that means \"no class\"",
                false => "grew its classes out of the network of the main file",
            }
        );
        let (heads, channels) = GUIDED_HEADS;
        let usual = |list: &[i64], value| list.iter().all(|&n| n == value);
        ensure!(
            usual(&config.heads, heads) && usual(&config.head_channels, channels),
            "the package's network with classes has {heads} heads of {channels} channels at every level, and this one \
             {:?} of {:?}",
            config.heads,
            config.head_channels
        );
    }
    let same = |(key, _): (String, Vec<i64>)| Entry::same(key.clone(), key);
    Ok(table::parameters(config).into_iter().map(same).collect())
}

/// One axis of a tensor's shape, within the limits of a network.
fn axis(keys: &Keys, key: &str, dims: usize, axis: usize) -> Result<i64> {
    let shape = keys.shape(key, dims)?;
    ensure!(
        shape.iter().all(|n| (1..=MAX_WIDTH).contains(n)),
        "tensor {key} is {shape:?}, want every axis from 1 to {MAX_WIDTH}"
    );
    Ok(shape[axis])
}

/// The network's settings, each reported with its source.
fn network(keys: &Keys, hints: &Hints, report: &mut Report) -> Result<LucidrainsConfig> {
    let (channels, learned_variance) = channels(keys, report)?;
    let base_width = axis(keys, "time_mlp.1.weight", 2, 1)?;
    ensure!(
        base_width >= 4 && base_width % 2 == 0,
        "time_mlp.1.weight takes {base_width} channels (`dim`), want an even number of at least 4"
    );
    report.fact("base width", base_width, "shape of time_mlp.1.weight");
    let init_width = axis(keys, "init_conv.weight", 4, 0)?;
    report.fact("first width", init_width, "shape of init_conv.weight");
    let structure = structure(keys, report);
    let multipliers = multipliers(keys, structure, base_width, report)?;
    let levels = multipliers.len();
    let attention = (0..levels)
        .map(|i| match structure {
            LucidrainsStructure::Main => attention(keys, &format!("downs.{i}.2")),
            LucidrainsStructure::ClassifierFreeGuidance => {
                guided_attention(keys, &format!("downs.{i}.2.fn.fn"))
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let config = LucidrainsConfig {
        height: 0,
        width: 0,
        channels,
        learned_variance,
        base_width,
        init_width,
        heads: attention.iter().map(|a| a.heads).collect(),
        head_channels: attention.iter().map(|a| a.channels).collect(),
        full_attention: attention.iter().map(|a| a.full).collect(),
        norm: norm(keys, base_width, init_width, &multipliers, report)?,
        structure,
        classes: classes(keys, structure, report)?,
        null_class: structure == LucidrainsStructure::ClassifierFreeGuidance,
        condition_channels: None,
        dropout: hints.dropout.unwrap_or(0.0),
        multipliers,
    };
    note_attention(&config, hints, report)?;
    if let Some(dropout) = hints.dropout {
        report.fact("dropout", dropout, "--dropout");
    } else {
        report.assume("dropout = 0, the package's default: it is not stored");
    }
    let (height, width) = image_size(levels, hints, report)?;
    Ok(LucidrainsConfig {
        height,
        width,
        ..config
    })
}

/// Channels of an image, and true if the variance is learned.
fn channels(keys: &Keys, report: &mut Report) -> Result<(i64, bool)> {
    let enter = axis(keys, "init_conv.weight", 4, 1)?;
    let leave = axis(keys, "final_conv.weight", 4, 0)?;
    ensure!(
        enter != 2 * leave,
        "init_conv.weight takes {enter} channels and final_conv.weight returns {leave}: a network with \
         `self_condition`, which is not supported; for weights of this program's that make images larger, give their settings \
         with `request.config`"
    );
    ensure!(
        enter == 1 || enter == 3,
        "init_conv.weight takes {enter} channels, want 3 (colour) or 1 (grey)"
    );
    ensure!(
        leave == enter || leave == 2 * enter,
        "final_conv.weight returns {leave} channels, want {enter}, or {} with `learned_variance`",
        2 * enter
    );
    let from = "shapes of init_conv.weight and final_conv.weight";
    report.fact("channels", enter, from);
    report.fact("learned variance", leave != enter, from);
    Ok((enter, leave != enter))
}

/// The file of the package whose network it is.
fn structure(keys: &Keys, report: &mut Report) -> LucidrainsStructure {
    if !keys.has(NULL_CLASS) {
        return LucidrainsStructure::Main;
    }
    report.fact("structure", "classifier-free-guidance", NULL_CLASS);
    LucidrainsStructure::ClassifierFreeGuidance
}

fn classes(
    keys: &Keys,
    structure: LucidrainsStructure,
    report: &mut Report,
) -> Result<Option<i64>> {
    if structure == LucidrainsStructure::Main {
        return Ok(None);
    }
    let table = "classes_emb.weight";
    let classes = axis(keys, table, 2, 0)?;
    report.fact("classes", classes, format!("shape of {table}"));
    report.fact("no class", format!("number {classes}"), NULL_CLASS);
    Ok(Some(classes))
}

/// The levels' widths as multiples of `base_width`.
fn multipliers(
    keys: &Keys,
    structure: LucidrainsStructure,
    base_width: i64,
    report: &mut Report,
) -> Result<Vec<i64>> {
    let levels = keys.count(|i| format!("downs.{i}."));
    ensure!(
        (1..=MAX_LEVELS).contains(&levels),
        "{levels} levels (downs.0, downs.1, …), want 1 to {MAX_LEVELS}"
    );
    let found = (0..levels)
        .map(|i| {
            let main = structure == LucidrainsStructure::Main;
            let inner = if main && i + 1 < levels { "3.1" } else { "3" };
            let key = format!("downs.{i}.{inner}.weight");
            let width = axis(keys, &key, 4, 0)?;
            ensure!(
                width % base_width == 0,
                "tensor {key} returns {width} channels, want a multiple of {base_width} (`dim`)"
            );
            Ok(width / base_width)
        })
        .collect::<Result<Vec<_>>>()?;
    report.fact(
        "multipliers",
        format!("{found:?}"),
        match structure {
            LucidrainsStructure::Main => {
                "shapes of downs.*.3.1.weight, and of the last downs.*.3.weight"
            }
            LucidrainsStructure::ClassifierFreeGuidance => "shapes of downs.*.3.weight",
        },
    );
    Ok(found)
}

/// One level's attention.
struct Attention {
    heads: i64,
    channels: i64,
    full: bool,
}

fn attention(keys: &Keys, path: &str) -> Result<Attention> {
    let full = keys.has(&format!("{path}.to_out.weight"));
    let key = format!("{path}.mem_kv");
    let heads = axis(keys, &key, 4, 1)?;
    let channels = axis(keys, &key, 4, if full { 3 } else { 2 })?;
    Ok(Attention {
        heads,
        channels,
        full,
    })
}

/// One level's attention in the network with classes, whose shapes show only heads times channels.
fn guided_attention(keys: &Keys, path: &str) -> Result<Attention> {
    let (heads, channels) = GUIDED_HEADS;
    for key in [
        format!("{path}.to_qkv.weight"),
        "mid_attn.fn.fn.to_qkv.weight".to_owned(),
    ] {
        let rows = axis(keys, &key, 4, 0)?;
        ensure!(
            rows == 3 * heads * channels,
            "{key} has {rows} rows, want {} for {heads} heads of {channels} channels: networks with other `attn_heads` \
             or `attn_dim_head` are not supported",
            3 * heads * channels
        );
    }
    Ok(Attention {
        heads,
        channels,
        full: false,
    })
}

fn note_attention(config: &LucidrainsConfig, hints: &Hints, report: &mut Report) -> Result<()> {
    let guided = config.structure == LucidrainsStructure::ClassifierFreeGuidance;
    let from = match guided {
        true => "shapes of downs.*.2.fn.fn.to_qkv.weight, and the package",
        false => "shapes of downs.*.2.mem_kv",
    };
    if guided {
        let (heads, channels) = GUIDED_HEADS;
        report.assume(format!(
            "{heads} heads of {channels} channels in the middle attention, the package's default: `attn_heads` and \
             `attn_dim_head` are not stored"
        ));
    }
    let lists = [
        ("num_heads", "heads", hints.num_heads, &config.heads),
        (
            "head_channels",
            "channels of a head",
            hints.head_channels,
            &config.head_channels,
        ),
    ];
    for (setting, what, hint, found) in lists {
        if let Some(hint) = hint {
            ensure!(
                found.iter().all(|&n| n == hint),
                "{setting} = {hint}: the network has {found:?}; leave {setting} out"
            );
        }
        report.fact(what, format!("{found:?}"), from);
    }
    if !guided {
        report.fact(
            "full attention",
            format!("{:?}", config.full_attention),
            "downs.*.2.to_out.weight instead of to_out.0.weight",
        );
    }
    Ok(())
}

fn norm(
    keys: &Keys,
    base_width: i64,
    init_width: i64,
    multipliers: &[i64],
    report: &mut Report,
) -> Result<LucidrainsNorm> {
    let first = "downs.0.0.block1.norm";
    if keys.has(&format!("{first}.g")) {
        report.fact("norm", "rms", format!("{first}.g"));
        return Ok(LucidrainsNorm::Rms);
    }
    keys.shape(&format!("{first}.weight"), 1)?;
    report.fact("norm", "group", format!("{first}.weight"));
    report.assume(format!(
        "{NORM_GROUPS} groups in the group norms, the package's default: \
         `resnet_block_groups` is not stored"
    ));
    let widths = multipliers.iter().map(|m| m * base_width);
    for width in [init_width].into_iter().chain(widths) {
        ensure!(
            width % NORM_GROUPS == 0,
            "a level has {width} channels, want multiples of {NORM_GROUPS}: networks with another \
             `resnet_block_groups` are not supported"
        );
    }
    Ok(LucidrainsNorm::Group)
}

fn image_size(levels: usize, hints: &Hints, report: &mut Report) -> Result<(i64, i64)> {
    let factor = 1 << (levels - 1);
    let (height, width) = report.need(
        &hints.image_size,
        "--image-size SIZE",
        &format!(
            "height and width of the images it was trained on, `image_size` of GaussianDiffusion; \
             multiples of {factor}"
        ),
        (factor, factor),
    );
    ensure!(
        [height, width]
            .iter()
            .all(|side| (1..=MAX_SIDE).contains(side) && side % factor == 0),
        "image_size = {height}x{width}: for each side {}",
        sides_wanted(factor)
    );
    Ok((height, width))
}

/// `p_sample_loop`: all T steps, predicted x_0 clipped, no noise at the last step.
fn sampler(learned_variance: bool, hints: &Hints, report: &mut Report) -> SampleConfig {
    report.assume(
        "sampled step by step over all T steps: `sampling_timesteps` and `ddim_sampling_eta` are \
         not stored",
    );
    let sigma = if learned_variance {
        Sigma::Learned
    } else {
        Sigma::Posterior
    };
    if let Some(sigma) = hints.sigma {
        report.fact("sigma", spelled(&sigma), "--sigma");
    }
    if let Some(clip) = hints.clip_x0 {
        report.fact("clip x0", clip, "--clip-x0");
    }
    SampleConfig {
        sigma: hints.sigma.unwrap_or(sigma),
        clip_x0: hints.clip_x0.unwrap_or(true),
        last_noise: false,
        images: 16,
        every_steps: 0,
    }
}

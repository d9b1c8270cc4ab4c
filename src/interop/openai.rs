//! Files of openai/improved-diffusion and openai/guided-diffusion: one `state_dict` each.
//!
//! The way down is one list of entries, the way up another. On the way up a resampling is part of the last entry of
//! a level, after the attention if there is one. Queries, keys and values are one weight, whose rows are in one of
//! two orders; the shapes show neither the order nor the number of heads.

use anyhow::{Result, bail, ensure};

use super::Settings;
use super::attention_unet::hints::{HintReader, Question, settings};
use super::attention_unet::layout::{check, entries, tensors};
use super::attention_unet::names::{AttentionNames, Grid, Names, Place, ResnetNames};
use super::attention_unet::shapes;
use super::null_class;
use super::settings::spelled;
use crate::checkpoint::AttentionOrder;
use crate::checkpoint::{Family, Origin};
use crate::config::{AttentionUNetConfig, Resample, Sigma};
use crate::interop::{Entry, Hints, Keys, QkvOrder, Report};

const CLASSES: &str = "label_emb.weight";

const RESNET: ResnetNames = ResnetNames {
    norm1: "in_layers.0",
    conv1: "in_layers.2",
    time: "emb_layers.1",
    norm2: "out_layers.0",
    conv2: "out_layers.3",
    shortcut: "skip_connection",
};

/// True if the keys are this family's.
pub(super) fn matches(keys: &Keys) -> bool {
    keys.has("time_embed.0.weight")
        && keys.has("input_blocks.0.0.weight")
        && keys.has("middle_block.0.in_layers.0.weight")
}

/// The settings behind a file's shapes and the hints.
///
/// # Errors
/// A tensor that is missing, too many or of an odd shape; an impossible hint.
pub(super) fn infer(keys: &Keys, hints: &Hints, report: &mut Report) -> Result<Settings> {
    let mut model = read(keys)?;
    shapes::note(&model, report);
    null_class::split(&mut model, hints, report)?;
    report.fact("resampling", spelled(&model.resample), "keys");
    let mut reader = HintReader::new(Family::Openai, &model, hints, report)?;
    heads(&mut model, &mut reader)?;
    let mut origin = Origin::new(Family::Openai);
    origin.attention_order = Some(attention_order(&model, &mut reader));
    reader.need_image_size(&mut model)?;
    let schedule = reader.need_schedule()?;
    let timesteps = reader.need_timesteps()?;
    model.time_scale = time_scale(timesteps, &mut reader);
    let prediction = reader.prediction("all released files predict the noise");
    let sigma = if model.learned_variance {
        reader.learned_sigma()
    } else {
        let why = "fixed large is its default without learn_sigma";
        reader.fixed_sigma(Some((Sigma::Beta, why)))?
    };
    let clip_x0 = reader.clip_x0(true);
    model.dropout = reader.dropout()?;
    reader.fact("norms", "32 groups, epsilon 1e-5");
    if model.resample == Resample::Conv {
        reader.fact("downsampling", "padded all around");
    }
    reader.fact("time embedding", "cosines first, frequency shift 0");
    Ok(settings(
        model,
        (timesteps.unwrap_or(1000), schedule, Vec::new()),
        prediction,
        (sigma, clip_x0),
        origin,
    ))
}

/// Every tensor of a file.
pub(super) fn layout(config: &AttentionUNetConfig, origin: &Origin) -> Vec<Entry> {
    entries(tensors(config, &names(origin.attention_order)))
}

/// The settings behind shapes and keys, checked against the whole file.
fn read(keys: &Keys) -> Result<AttentionUNetConfig> {
    let names = names(None);
    let grid = grid(keys)?;
    let conv = keys.any(&format!("input_blocks.{}.0.op.", grid.blocks + 1));
    let resample = if conv || grid.levels == 1 {
        Resample::Conv
    } else {
        Resample::Resnet
    };
    let mut model = shapes::read(keys, &names, grid, resample)?;
    model.cos_first = true;
    if keys.has(CLASSES) {
        model.classes = Some(shapes::size(keys, CLASSES, 2, 0)?);
    }
    check(keys, &tensors(&model, &names))?;
    Ok(model)
}

/// Levels and blocks: the resamplings cut the way up into levels (on the way down a resampling block looks like
/// any other).
fn grid(keys: &Keys) -> Result<Grid> {
    let length = list_length(keys, "input_blocks")?;
    let up = list_length(keys, "output_blocks")?;
    ensure!(
        up > 0,
        "no tensor name begins with output_blocks, as in guided-diffusion's classifiers; want a \
         denoising network"
    );
    let cuts: Vec<usize> = (0..up).filter(|&index| upsamples(keys, index)).collect();
    let blocks = cuts.first().copied().unwrap_or(up - 1);
    let levels = cuts.len() + 1;
    let entries = levels * (blocks + 1);
    let regular = cuts
        .iter()
        .enumerate()
        .all(|(u, &cut)| cut == u * (blocks + 1) + blocks);
    ensure!(
        blocks > 0 && regular && length == entries && up == entries,
        "input_blocks and output_blocks have {length} and {up} entries, with an upsampling in \
         output_blocks {cuts:?}; want the same number in both, and an upsampling after the same number of blocks in every \
         level but the last: the file is cut off or damaged"
    );
    Grid::new(levels, blocks, keys)
}

/// Entries of a list of blocks, which must have no gap.
fn list_length(keys: &Keys, list: &str) -> Result<usize> {
    let length = keys.count(|index| format!("{list}.{index}."));
    let here = keys.below(&format!("{list}."));
    for (key, _) in here.iter() {
        let index = key.split('.').next().and_then(|i| i.parse::<usize>().ok());
        if index.is_none_or(|index| index >= length) {
            bail!(
                "there is {list}.{key} but nothing in {list}.{length}: networks made with \
                 conv_resample=False, whose resampling has no weights, are not supported; any other \
                 file is damaged"
            );
        }
    }
    Ok(length)
}

fn upsamples(keys: &Keys, index: usize) -> bool {
    ["1.conv", "2.conv", "1.in_layers", "2.in_layers"]
        .iter()
        .any(|part| keys.any(&format!("output_blocks.{index}.{part}.")))
}

/// Sets the heads, given by their number or by their channels.
fn heads(model: &mut AttentionUNetConfig, reader: &mut HintReader) -> Result<()> {
    let number = reader.take(Question {
        field: |h| h.num_heads,
        flag: "--num-heads N",
        about: "",
    });
    let channels = reader.take(Question {
        field: |h| h.head_channels,
        flag: "--head-channels N",
        about: "",
    });
    let upsample = reader.take(Question {
        field: |h| h.num_heads_upsample,
        flag: "--num-heads-upsample N",
        about: "",
    });
    ensure!(
        channels.is_none() || (number.is_none() && upsample.is_none()),
        "head_channels determines the number of heads; leave num_heads and num_heads_upsample out"
    );
    if number.is_none() && channels.is_none() {
        reader.lacks(
            "--num-heads N or --head-channels N",
            "attention heads (num_heads, 4 by default), or channels per head (num_head_channels, often \
             64)",
        );
    }
    model.heads = number.unwrap_or(1);
    model.heads_up = upsample.filter(|&heads| number != Some(heads));
    model.head_channels = channels;
    check_heads(model)
}

/// Widths with attention; true on the way up.
fn attentions(model: &AttentionUNetConfig) -> Vec<(i64, bool)> {
    let level = |on: &[bool], up: bool| -> Vec<(i64, bool)> {
        let both = model.widths.iter().zip(on);
        both.filter(|&(_, &on)| on)
            .map(|(&width, _)| (width, up))
            .collect()
    };
    let mut all = level(&model.attention_down, false);
    all.extend(level(&model.attention_up, true));
    // There is always one in the middle.
    all.extend(model.widths.last().map(|&width| (width, false)));
    all
}

fn check_heads(model: &AttentionUNetConfig) -> Result<()> {
    for (width, up) in attentions(model) {
        let (setting, parts) = match (model.head_channels, model.heads_up) {
            (Some(channels), _) => ("head_channels", channels),
            (None, Some(heads)) if up => ("num_heads_upsample", heads),
            (None, _) => ("num_heads", model.heads),
        };
        ensure!(
            parts > 0 && width % parts == 0,
            "{setting} = {parts}: want a divisor of the {width} channels of an attention"
        );
    }
    Ok(())
}

fn attention_order(model: &AttentionUNetConfig, reader: &mut HintReader) -> AttentionOrder {
    let question = Question {
        field: |h| h.attention_order,
        flag: "--attention-order ORDER",
        about: "legacy (improved-diffusion always, guided-diffusion by default) or new \
                (use_new_attention_order)",
    };
    let hints = reader.hints();
    let known_heads = hints.num_heads.is_some() || hints.head_channels.is_some();
    let mut attentions = attentions(model).into_iter();
    let one_head = known_heads && attentions.all(|(width, up)| model.heads_of(width, up) == 1);
    if one_head && hints.attention_order.is_none() {
        reader.fact("attention order", "both are the same with one head");
        return AttentionOrder::Legacy;
    }
    reader.need(question, AttentionOrder::Legacy)
}

/// Factor on t; 1000 / T is 1 in most files.
fn time_scale(timesteps: Option<i64>, reader: &mut HintReader) -> f64 {
    let question = Question {
        field: |h| h.rescale_timesteps,
        flag: "--rescale-timesteps BOOL",
        about: "true if the network saw t · 1000 / T: improved-diffusion does by default, guided-diffusion \
                does not; no effect if T is 1000",
    };
    match timesteps {
        Some(1000) => 1.0,
        Some(timesteps) if reader.need(question, false) => 1000.0 / timesteps as f64,
        Some(_) => 1.0,
        None => {
            reader.need(question, false);
            1.0
        }
    }
}

fn names(order: Option<AttentionOrder>) -> Names {
    Names {
        module,
        resnet: RESNET,
        attention: AttentionNames::Fused {
            norm: "norm",
            qkv: "qkv",
            out: "proj_out",
            order: match order {
                Some(AttentionOrder::New) => QkvOrder::New,
                Some(AttentionOrder::Legacy) | None => QkvOrder::Legacy,
            },
        },
        interleaved_sines: false,
    }
}

fn module(place: Place, grid: Grid) -> String {
    let down = |level, block| 1 + level * (grid.blocks + 1) + block;
    let up = |level, block| grid.up(level) * (grid.blocks + 1) + block;
    match place {
        Place::ConvIn => "input_blocks.0.0".into(),
        Place::TimeIn => "time_embed.0".into(),
        Place::TimeOut => "time_embed.2".into(),
        Place::Classes => "label_emb".into(),
        Place::DownResnet { level, block } => format!("input_blocks.{}.0", down(level, block)),
        Place::DownAttention { level, block } => format!("input_blocks.{}.1", down(level, block)),
        Place::Downsample { level, resnet } => {
            let op = if resnet { "" } else { ".op" };
            format!("input_blocks.{}.0{op}", down(level, grid.blocks))
        }
        Place::MidResnet { block } => format!("middle_block.{}", 2 * block),
        Place::MidAttention => "middle_block.1".into(),
        Place::UpResnet { level, block } => format!("output_blocks.{}.0", up(level, block)),
        Place::UpAttention { level, block } => format!("output_blocks.{}.1", up(level, block)),
        Place::Upsample {
            level,
            resnet,
            after_attention,
        } => {
            let part = if after_attention { 2 } else { 1 };
            let conv = if resnet { "" } else { ".conv" };
            format!("output_blocks.{}.{part}{conv}", up(level, grid.blocks))
        }
        Place::NormOut => "out.0".into(),
        Place::ConvOut => "out.2".into(),
    }
}

pub(in crate::interop) mod describes;
#[cfg(test)]
mod nets;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_hints;

//! Files of pesser/pytorch_diffusion: Ho et al.'s own weights, converted from TensorFlow.
//!
//! A file is one `state_dict`. Its `up.{i}` counts levels as ours does, from the full resolution.
//! ermongroup/ddim descends from this code and uses the same names.

use anyhow::Result;

use super::Settings;
use super::attention_unet::hints::{HintReader, refuse_openai_hints, settings};
use super::attention_unet::layout::{check, entries, tensors};
use super::attention_unet::names::{AttentionNames, Grid, Names, Place, ResnetNames, ours};
use super::attention_unet::shapes;
use crate::checkpoint::{Family, Origin};
use crate::config::{AttentionUNetConfig, Resample};
use crate::interop::{Entry, Hints, Keys, Report};

const NAMES: Names = Names {
    module,
    resnet: ResnetNames {
        norm1: "norm1",
        conv1: "conv1",
        time: "temb_proj",
        norm2: "norm2",
        conv2: "conv2",
        shortcut: "nin_shortcut",
    },
    attention: AttentionNames::Separate {
        norm: "norm",
        qkv: ["q", "k", "v"],
        out: "proj_out",
    },
    interleaved_sines: false,
};

/// True if the keys are this family's.
pub(super) fn matches(keys: &Keys) -> bool {
    keys.has("temb.dense.0.weight")
        && keys.has("down.0.block.0.temb_proj.weight")
        && keys.has("mid.block_1.temb_proj.weight")
}

/// The settings behind a file's shapes and the hints.
///
/// # Errors
/// A tensor that is missing, too many or of an odd shape; an impossible hint.
pub(super) fn infer(keys: &Keys, hints: &Hints, report: &mut Report) -> Result<Settings> {
    refuse_openai_hints(hints, "pesser/pytorch_diffusion")?;
    let levels = keys.count(|level| format!("down.{level}."));
    let blocks = keys.count(|block| format!("down.0.block.{block}."));
    let grid = Grid::new(levels, blocks, keys)?;
    let read = shapes::read(keys, &NAMES, grid, Resample::ConvAsymmetric)?;
    let mut model = AttentionUNetConfig {
        norm_eps: 1e-6,
        freq_shift: 1,
        // The released code has neither: another number of rows is refused.
        learned_variance: false,
        scale_shift: false,
        ..read
    };
    check(keys, &tensors(&model, &NAMES))?;
    shapes::note(&model, report);
    let mut reader = HintReader::new(Family::Pesser, &model, hints, report)?;
    reader.need_image_size(&mut model)?;
    let timesteps = reader.family_timesteps(1000)?;
    let (schedule, betas) = reader.linear_betas(timesteps, true)?;
    let prediction = reader.prediction("Ho et al.'s networks all predict the noise");
    let sigma = reader.fixed_sigma(None)?;
    let clip_x0 = reader.clip_x0(true);
    model.dropout = reader.dropout()?;
    reader.fact("norms", "32 groups, epsilon 1e-6");
    reader.fact("heads", "1");
    reader.fact("downsampling", "padded on the right and at the bottom");
    reader.fact("time embedding", "sines first, frequency shift 1");
    Ok(settings(
        model,
        (timesteps, schedule, betas),
        prediction,
        (sigma, clip_x0),
        Origin::new(Family::Pesser),
    ))
}

/// Every tensor of a file.
pub(super) fn layout(config: &AttentionUNetConfig, _origin: &Origin) -> Vec<Entry> {
    entries(tensors(config, &NAMES))
}

fn module(place: Place, grid: Grid) -> String {
    match place {
        Place::TimeIn => "temb.dense.0".into(),
        Place::TimeOut => "temb.dense.1".into(),
        Place::DownResnet { level, block } => format!("down.{level}.block.{block}"),
        Place::DownAttention { level, block } => format!("down.{level}.attn.{block}"),
        Place::Downsample { level, .. } => format!("down.{level}.downsample.conv"),
        Place::MidResnet { block } => format!("mid.block_{}", block + 1),
        Place::MidAttention => "mid.attn_1".into(),
        Place::UpResnet { level, block } => format!("up.{level}.block.{block}"),
        Place::UpAttention { level, block } => format!("up.{level}.attn.{block}"),
        Place::Upsample { level, .. } => format!("up.{level}.upsample.conv"),
        Place::NormOut => "norm_out".into(),
        // The first two have our names; their code has no classes.
        Place::ConvIn | Place::ConvOut | Place::Classes => ours(place, grid),
    }
}

#[cfg(test)]
mod tests;

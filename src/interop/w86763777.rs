//! Files of w86763777/pytorch-ddpm: one of the `state_dict`s in a `ckpt.pt`.
//!
//! Blocks and resamplings of the way down, and of the way up, form one list, and an attention is part of the block
//! before it. The sinusoidal embedding is a frozen table with a row for every t, which shows T.

use anyhow::{Result, ensure};

use super::Settings;
use super::attention_unet::hints::{
    HintReader, check_timesteps, refuse_openai_hints, set_image_size, settings,
};
use super::attention_unet::layout::{TheirTensor, check, entries, tensors};
use super::attention_unet::names::{AttentionNames, Grid, Names, Place, ResnetNames, ours};
use super::attention_unet::shapes;
use crate::checkpoint::{Family, Origin};
use crate::config::{AttentionUNetConfig, Resample};
use crate::interop::{Entry, Form, Hints, Keys, Report};

const TABLE: &str = "time_embedding.timembedding.0.weight";

const NAMES: Names = Names {
    module,
    resnet: ResnetNames {
        norm1: "block1.0",
        conv1: "block1.2",
        time: "temb_proj.1",
        norm2: "block2.0",
        conv2: "block2.3",
        shortcut: "shortcut",
    },
    attention: AttentionNames::Separate {
        norm: "group_norm",
        qkv: ["proj_q", "proj_k", "proj_v"],
        out: "proj",
    },
    interleaved_sines: true,
};

/// True if the keys are this family's.
pub(super) fn matches(keys: &Keys) -> bool {
    keys.has(TABLE) && keys.has("head.weight") && keys.has("middleblocks.0.block1.0.weight")
}

/// The settings behind the shapes of `net_model` or `ema_model` and the hints. `x_t` is the shape of the
/// file's `x_T`, the noise its sample images start from: `[N, C, H, W]`.
///
/// # Errors
/// A tensor that is missing, too many or of an odd shape; an impossible hint.
pub(super) fn infer(
    keys: &Keys,
    x_t: Option<&[i64]>,
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    refuse_openai_hints(hints, "w86763777/pytorch-ddpm")?;
    let read = shapes::read(keys, &NAMES, grid(keys)?, Resample::Conv)?;
    let mut model = AttentionUNetConfig {
        // Their code has neither: another number of rows is refused.
        learned_variance: false,
        scale_shift: false,
        ..read
    };
    let timesteps = shapes::size(keys, TABLE, 2, 0)?;
    check_timesteps(timesteps, TABLE)?;
    check(keys, &whole(&model, timesteps))?;
    shapes::note(&model, report);
    report.fact("timesteps", timesteps, TABLE);
    let mut reader = HintReader::new(Family::W86763777, &model, hints, report)?;
    ensure!(
        hints.timesteps.is_none_or(|given| given == timesteps),
        "timesteps = {}: {TABLE} has {timesteps} rows; leave timesteps out",
        hints.timesteps.unwrap_or_default()
    );
    image_size(&mut model, x_t, &mut reader)?;
    let (schedule, betas) = reader.linear_betas(timesteps, false)?;
    let prediction = reader.prediction("epsilon is its default, and the file does not name it");
    let why = "fixedlarge is its default, and the file does not name it";
    let sigma = reader.fixed_sigma(Some((crate::config::Sigma::Beta, why)))?;
    let clip_x0 = reader.clip_x0(false);
    model.dropout = reader.dropout()?;
    if !clip_x0 {
        reader.fact(
            "why x_0 is not clipped",
            "its sampler computes the mean from x_0 before it clips that",
        );
    }
    reader.fact("norms", "32 groups, epsilon 1e-5");
    reader.fact("heads", "1");
    reader.fact("downsampling", "padded all around");
    reader.fact("time embedding", "frequency shift 0, columns reordered");
    Ok(settings(
        model,
        (timesteps, schedule, betas),
        prediction,
        (sigma, clip_x0),
        Origin::new(Family::W86763777),
    ))
}

/// Every tensor of a `net_model` or `ema_model`; the frozen table needs T.
pub(super) fn layout(config: &AttentionUNetConfig, _origin: &Origin, timesteps: i64) -> Vec<Entry> {
    entries(whole(config, timesteps))
}

/// The network's tensors and the frozen table before them.
fn whole(config: &AttentionUNetConfig, timesteps: i64) -> Vec<TheirTensor> {
    let dim = config.time_channels;
    let table = TheirTensor {
        entry: Entry {
            theirs: TABLE.to_owned(),
            ours: Vec::new(),
            form: Form::SineTable { timesteps, dim },
        },
        shape: vec![timesteps, dim],
    };
    std::iter::once(table)
        .chain(tensors(config, &NAMES))
        .collect()
}

/// Levels and blocks: a list of blocks is cut into levels by its resamplings.
fn grid(keys: &Keys) -> Result<Grid> {
    let length = keys.count(|index| format!("downblocks.{index}."));
    let cuts: Vec<usize> = (0..length)
        .filter(|index| keys.any(&format!("downblocks.{index}.main.")))
        .collect();
    let blocks = cuts.first().copied().unwrap_or(length);
    let levels = cuts.len() + 1;
    let regular = cuts
        .iter()
        .enumerate()
        .all(|(i, &cut)| cut == i * (blocks + 1) + blocks);
    ensure!(
        blocks > 0 && regular && length + 1 == levels * (blocks + 1),
        "downblocks has {length} entries with a resampling at {cuts:?}, want one after the same number of blocks in \
         every level but the last: the file is cut off or damaged"
    );
    Grid::new(levels, blocks, keys)
}

fn image_size(
    model: &mut AttentionUNetConfig,
    x_t: Option<&[i64]>,
    reader: &mut HintReader,
) -> Result<()> {
    let Some(shape) = x_t else {
        return reader.need_image_size(model);
    };
    let &[_, channels, height, width] = shape else {
        anyhow::bail!("x_T is {shape:?}, want four dimensions: images, channels, height, width");
    };
    ensure!(
        channels == model.channels,
        "x_T is {shape:?}, but the network has {} channels",
        model.channels
    );
    if let Some((h, w)) = reader.hints().image_size {
        ensure!(
            (h, w) == (height, width),
            "image_size = {h} × {w}: x_T in the file is {shape:?}; leave image_size out"
        );
    }
    set_image_size(model, (height, width), "x_T")?;
    reader.seen("image size", &format!("{height} × {width}"), "x_T");
    Ok(())
}

fn module(place: Place, grid: Grid) -> String {
    let down = |level, index| level * (grid.blocks + 1) + index;
    let up = |level, index| grid.up(level) * (grid.blocks + 2) + index;
    match place {
        Place::ConvIn => "head".into(),
        Place::TimeIn => "time_embedding.timembedding.1".into(),
        Place::TimeOut => "time_embedding.timembedding.3".into(),
        Place::DownResnet { level, block } => format!("downblocks.{}", down(level, block)),
        Place::DownAttention { level, block } => format!("downblocks.{}.attn", down(level, block)),
        Place::Downsample { level, .. } => {
            format!("downblocks.{}.main", down(level, grid.blocks))
        }
        Place::MidResnet { block } => format!("middleblocks.{block}"),
        Place::MidAttention => "middleblocks.0.attn".into(),
        Place::UpResnet { level, block } => format!("upblocks.{}", up(level, block)),
        Place::UpAttention { level, block } => format!("upblocks.{}.attn", up(level, block)),
        Place::Upsample { level, .. } => format!("upblocks.{}.main", up(level, grid.blocks + 1)),
        Place::NormOut => "tail.0".into(),
        Place::ConvOut => "tail.2".into(),
        // Their code has no classes.
        Place::Classes => ours(place, grid),
    }
}

#[cfg(test)]
mod tests;

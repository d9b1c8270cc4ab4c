//! Files of w86763777/pytorch-ddpm: one of the `state_dict`s in a `ckpt.pt`.
//!
//! Blocks and resamplings of a way stand in one list, and an attention is part of the block before it.
//! The sinusoidal embedding is a frozen table with a row for every t, which gives T away.

use anyhow::{Result, ensure};

use super::Settings;
use super::attention_unet::answers::{
    Answers, check_timesteps, refuse_openai_hints, set_image_size, settings,
};
use super::attention_unet::modules::{AttentionNames, Grid, Names, Place, ResnetNames, ours};
use super::attention_unet::plan::{Planned, check, entries, plan};
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

/// Whether the keys are this family's.
pub(super) fn matches(keys: &Keys) -> bool {
    keys.has(TABLE) && keys.has("head.weight") && keys.has("middleblocks.0.block1.0.weight")
}

/// The settings behind the shapes of `net_model` or `ema_model` and the hints. `x_t` is the shape of the
/// file's `x_T`, the noise its sample images start from: `[N, C, H, W]`.
///
/// # Errors
/// A tensor that is missing, too many or of an odd shape; a hint that cannot be.
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
    let mut answers = Answers::new(Family::W86763777, &model, hints, report)?;
    ensure!(
        hints.timesteps.is_none_or(|given| given == timesteps),
        "--timesteps says otherwise than {TABLE}, which has {timesteps} rows; leave the flag out"
    );
    image_size(&mut model, x_t, &mut answers)?;
    let (schedule, betas) = answers.linear_betas(timesteps, false)?;
    let prediction = answers.prediction("epsilon is its default, and the file does not say");
    let why = "fixedlarge is its default, and the file does not say";
    let sigma = answers.fixed_sigma(Some((crate::config::Sigma::Beta, why)))?;
    let clip_x0 = answers.clip_x0(false);
    model.dropout = answers.dropout()?;
    if !clip_x0 {
        answers.fact(
            "why nothing is clipped",
            "its sampler computes the mean from x_0 before it clips that",
        );
    }
    answers.fact("norms", "32 groups, epsilon 1e-5");
    answers.fact("heads", "1");
    answers.fact("downsampling", "padded all around");
    answers.fact("time embedding", "frequency shift 0, columns reordered");
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
fn whole(config: &AttentionUNetConfig, timesteps: i64) -> Vec<Planned> {
    let dim = config.time_channels;
    let table = Planned {
        entry: Entry {
            theirs: TABLE.to_owned(),
            ours: Vec::new(),
            form: Form::SineTable { timesteps, dim },
        },
        shape: vec![timesteps, dim],
    };
    std::iter::once(table).chain(plan(config, &NAMES)).collect()
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
        "downblocks has {length} entries with a resampling at {cuts:?}, want one after as many blocks in \
         every level but the last: the file is cut off or damaged"
    );
    Grid::new(levels, blocks, keys)
}

fn image_size(
    model: &mut AttentionUNetConfig,
    x_t: Option<&[i64]>,
    answers: &mut Answers,
) -> Result<()> {
    let Some(shape) = x_t else {
        return answers.need_image_size(model);
    };
    let &[_, channels, height, width] = shape else {
        anyhow::bail!("x_T is {shape:?}, want four dimensions: images, channels, height, width");
    };
    ensure!(
        channels == model.channels,
        "x_T is {shape:?}, but the network takes {} channels",
        model.channels
    );
    if let Some((h, w)) = answers.hints().image_size {
        ensure!(
            (h, w) == (height, width),
            "--image-size says {h} × {w}, but x_T in the file is {shape:?}; leave the flag out"
        );
    }
    set_image_size(model, (height, width), "x_T")?;
    answers.seen("image size", &format!("{height} × {width}"), "x_T");
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
        // Their code knows no classes.
        Place::Classes => ours(place, grid),
    }
}

#[cfg(test)]
mod tests;

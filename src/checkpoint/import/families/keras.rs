//! Keras-DDPM's weight files: `model.weights` and `model.ema.weights` of `ddpm.py`.
//!
//! Layers are named by kind and number in the order of creation, which is ours: in a block, the
//! shortcut if any, the time projection, two convolutions, the norm. A network built after others in
//! one process begins at higher numbers.
//!
//! Kernels do not tell how the blocks are split into levels: each width on the way up is the width
//! before on the way down, whatever the poolings. The file's list of layers does tell, because it
//! has the poolings between the norms.
//!
//! The maths of the conversion is `scripts/reference/keras_weights.py`.

use anyhow::{Result, bail, ensure};

use super::{Family, Origin, Settings};
use crate::checkpoint::import::hints::Hints;
use crate::checkpoint::import::keys::Keys;
use crate::checkpoint::import::report::Report;
use crate::config::{
    DiffusionConfig, LossKind, ModelConfig, Norm, Prediction, SampleConfig, ScheduleKind, Sigma,
    TimeEmbedding, UNetConfig,
};

mod numbers;
#[cfg(test)]
mod tests;
mod weights;

pub(super) use numbers::FirstNumbers;
pub(super) use weights::layout;
use weights::{check_shapes, weights};

/// Fixed in `ddpm.py`.
const NORM_GROUPS: i64 = 32;
/// Fixed in `ddpm.py`.
const NORM_EPS: f64 = 1e-6;
/// `min_pixel` of `ddpm.py`: a level with this side is not pooled.
const MIN_PIXEL: i64 = 4;

/// Whether these are weights of a Keras-DDPM network, one of those that are only recognised
/// included.
pub(super) fn matches(keys: &Keys) -> bool {
    let ends = |suffix: &str| keys.iter().any(|(key, _)| key.ends_with(suffix));
    keys.any("embedding") && ends("/embeddings:0") && ends("/kernel:0")
}

/// What the file describes; `layers` is its list of all its layers, empty if it has none.
///
/// # Errors
/// Another network than `ddpm.py`'s, weights that do not fit together, or hints that contradict the
/// file.
pub(super) fn infer(
    keys: &Keys,
    layers: &[String],
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    refuse_other_networks(keys)?;
    let first = FirstNumbers::of(keys)?;
    let found = Found::read(keys, first)?;
    let poolings = Poolings::of(layers);
    let blocks = infer_blocks(&found, poolings.as_ref(), hints, report)?;
    let model = UNetConfig {
        height: 0,
        width: 0,
        channels: found.channels,
        base_width: found.base_width,
        multipliers: found.multipliers(blocks),
        blocks,
        min_pixel: MIN_PIXEL,
        norm: Norm::Group,
        norm_groups: NORM_GROUPS,
        norm_eps: NORM_EPS,
        time_embedding: TimeEmbedding::Trainable,
        dropout: hints.dropout.unwrap_or(0.0),
    };
    check_shapes(keys, &weights(&model, found.timesteps, first))?;
    report_found(&found, &model, report);
    let model = with_size(model, poolings.as_ref(), hints, report)?;
    Ok(Settings {
        model: ModelConfig::Unet(model),
        diffusion: diffusion(&found, hints, report)?,
        sample: sample(hints, report),
        origin: Origin::new(Family::KerasDdpm),
    })
}

fn refuse_other_networks(keys: &Keys) -> Result<()> {
    if keys.any("gated_attention_unit") {
        bail!(
            "these are weights of the GAU network of Keras-DDPM's ddpm-gau.py, which is not supported yet; \
             ddpm.py's are"
        );
    }
    // ddpm2.py begins with the time embedding's two layers, E to 4 E and 4 E to 4 E. ddpm.py's first
    // two dense kernels never have 4 E rows both times: a block's time projection has E.
    let dense = |n: u64| keys.shape(&numbers::path("dense", n, "kernel:0"), 2).ok();
    let Ok(first) = numbers::first_of(keys, "dense") else {
        return Ok(());
    };
    if let (Some(&[e, wide]), Some(second)) = (dense(first), dense(first.saturating_add(1)))
        && e.checked_mul(4) == Some(wide)
        && *second == [wide, wide]
    {
        bail!("these are weights of ddpm2.py's network, which is not supported yet; ddpm.py's are");
    }
    Ok(())
}

/// What the shapes say.
struct Found {
    timesteps: i64,
    channels: i64,
    base_width: i64,
    /// Width of each block on the way down, at least one.
    down: Vec<i64>,
}

impl Found {
    fn read(keys: &Keys, first: FirstNumbers) -> Result<Found> {
        let table = keys.shape(
            &numbers::path("embedding", first.embedding, "embeddings:0"),
            2,
        )?;
        let conv = |n: usize| keys.shape(&first.conv2d(n), 4);
        let (timesteps, base_width) = (table[0], table[1]);
        let channels = conv(0)?[2];
        ensure!(
            channels == 1 || channels == 3,
            "pictures of {channels} channels, want 3 (BGR) or 1"
        );
        ensure!(
            base_width > 0 && base_width % NORM_GROUPS == 0,
            "base width {base_width}, want a multiple of the {NORM_GROUPS} norm groups of ddpm.py"
        );
        // One norm a block and one at the end; as many blocks up as down and one between.
        let norms = numbers::count(keys, "group_norm", "gamma:0");
        ensure!(
            norms >= 4 && norms.is_multiple_of(2),
            "{norms} group norms, want an even number of 4 or more, as ddpm.py's network has"
        );
        let down = (0..norms / 2 - 1).map(|block| Ok(conv(1 + 2 * block)?[3]));
        let down = down.collect::<Result<Vec<i64>>>()?;
        for (block, &width) in down.iter().enumerate() {
            ensure!(
                width > 0 && width % base_width == 0,
                "block {block} is {width} channels wide, want a multiple of the base width {base_width}"
            );
        }
        Ok(Found {
            timesteps,
            channels,
            base_width,
            down,
        })
    }

    /// The numbers of blocks a level that split the way down into levels of one width.
    fn possible_blocks(&self) -> Vec<i64> {
        let even = |blocks: &usize| {
            self.down.len().is_multiple_of(*blocks)
                && (self.down.chunks(*blocks)).all(|level| level.iter().all(|w| *w == level[0]))
        };
        let possible = (1..=self.down.len()).filter(even);
        possible.map(|blocks| blocks as i64).collect()
    }

    fn multipliers(&self, blocks: i64) -> Vec<i64> {
        let widths = self.down.iter().step_by(blocks.max(1) as usize);
        widths.map(|width| width / self.base_width).collect()
    }
}

/// Where the network halves its pictures, from the file's list of layers.
struct Poolings {
    /// How many norms, which each end a block, come before each pooling; at least one pooling.
    after: Vec<i64>,
}

impl Poolings {
    /// Finds them in a list of layers in the model's order; none if there are none in it.
    fn of(layers: &[String]) -> Option<Poolings> {
        let mut norms = 0;
        let mut after = Vec::new();
        for layer in layers {
            norms += i64::from(layer.starts_with("group_norm"));
            if layer.starts_with("average_pooling2d") {
                after.push(norms);
            }
        }
        (!after.is_empty()).then_some(Poolings { after })
    }

    /// Blocks before each pooling.
    ///
    /// # Errors
    /// They are not the same at each.
    fn blocks(&self) -> Result<i64> {
        let blocks = self.after[0];
        let even = (1..)
            .zip(&self.after)
            .all(|(n, &after)| after == n * blocks);
        ensure!(
            even,
            "it pools after the blocks {:?}, want the same number of blocks before each pooling",
            self.after
        );
        Ok(blocks)
    }
}

fn infer_blocks(
    found: &Found,
    poolings: Option<&Poolings>,
    hints: &Hints,
    report: &mut Report,
) -> Result<i64> {
    let possible = found.possible_blocks();
    let choices: Vec<String> = (possible.iter())
        .map(|&blocks| format!("{blocks} (multipliers {:?})", found.multipliers(blocks)))
        .collect();
    let choices = choices.join(", ");
    let stored = poolings.map(Poolings::blocks).transpose()?;
    let blocks = match (stored, &possible[..]) {
        (Some(stored), _) => {
            report.fact(
                "blocks",
                stored,
                "norms before the first pooling in layer_names",
            );
            stored
        }
        (None, [only]) => {
            report.fact("blocks", only, "widths of the convolutions");
            *only
        }
        (None, _) => {
            let about = format!(
                "residual blocks a level; the weights fit {choices}. ddpm.py as published has 2"
            );
            report.need(&hints.blocks, "--blocks N", &about, possible[0])
        }
    };
    ensure!(
        possible.contains(&blocks),
        "{blocks} blocks a level do not fit the weights; want one of: {choices}"
    );
    ensure!(
        hints.blocks.is_none_or(|hint| hint == blocks),
        "--blocks says {:?}, the file has {blocks} blocks a level; leave out --blocks",
        hints.blocks
    );
    Ok(blocks)
}

/// The model with its pictures' size, which no weight depends on.
fn with_size(
    model: UNetConfig,
    poolings: Option<&Poolings>,
    hints: &Hints,
    report: &mut Report,
) -> Result<UNetConfig> {
    let about = "side of the pictures it was trained on, which also says how often it pools \
                 (no level of 4 pixels is pooled); ddpm.py as published: 128";
    let (height, width) = report.need(&hints.image_size, "--image-size N", about, (128, 128));
    let model = UNetConfig {
        height,
        width,
        ..model
    };
    if hints.image_size.is_none() {
        return Ok(model);
    }
    ensure!(
        height == width && height > 0,
        "--image-size {height}×{width}: Keras-DDPM's pictures are square"
    );
    let pools = model.levels().iter().filter(|level| level.pools).count();
    let stored = poolings.map_or(pools, |poolings| poolings.after.len());
    ensure!(
        pools == stored,
        "--image-size {height}: this network would pool {pools} times, the file has {stored} poolings; \
         give the size it was trained on"
    );
    Ok(model)
}

fn report_found(found: &Found, model: &UNetConfig, report: &mut Report) {
    report.fact("timesteps", found.timesteps, "rows of the embedding");
    report.fact("base width", found.base_width, "columns of the embedding");
    let multipliers = format!("{:?}", model.multipliers);
    report.fact("multipliers", multipliers, "widths of the convolutions");
    report.fact(
        "colours",
        "BGR in the file, turned into RGB",
        "ddpm.py, which reads pictures with OpenCV",
    );
    report.fact(
        "averaging",
        "none stored: taken as they are",
        "ddpm.py, which corrects model.ema.weights before it saves them",
    );
    report.assume(format!(
        "norms have {NORM_GROUPS} groups, interleaved, and eps {NORM_EPS:e}: ddpm.py has them fixed"
    ));
}

fn diffusion(found: &Found, hints: &Hints, report: &mut Report) -> Result<DiffusionConfig> {
    ensure!(
        hints.timesteps.is_none_or(|t| t == found.timesteps),
        "--timesteps says {:?}, the embedding has {} rows; leave out --timesteps",
        hints.timesteps,
        found.timesteps
    );
    if hints.schedule.is_none() {
        report.assume("betas are 0.02 (t + 1) / T: ddpm.py has them fixed");
    }
    if hints.prediction.is_none() {
        report.assume(
            "it predicts the noise, and its loss is summed over the pixels: ddpm.py does so",
        );
    }
    Ok(DiffusionConfig {
        timesteps: found.timesteps,
        schedule: hints.schedule.unwrap_or(ScheduleKind::KerasDdpm),
        betas: Vec::new(),
        prediction: hints.prediction.unwrap_or(Prediction::Eps),
        loss: LossKind::Sum,
    })
}

fn sample(hints: &Hints, report: &mut Report) -> SampleConfig {
    if hints.sigma.is_none() {
        report.assume("reverse steps have sigma = sqrt(beta): ddpm.py's choice");
    }
    if hints.clip_x0.is_none() {
        report.assume(
            "x_0 is not clipped on the way, and the last step adds noise too: ddpm.py's way",
        );
    }
    SampleConfig {
        sigma: hints.sigma.unwrap_or(Sigma::Beta),
        clip_x0: hints.clip_x0.unwrap_or(false),
        last_noise: true,
        images: 16,
        every_steps: 0,
    }
}

//! The code bases whose files are known: how a file is recognised and what it is read as.

use anyhow::{Result, bail};

use super::hints::Hints;
use super::keys::Keys;
use super::layout::Entry;
use super::lucidrains::diffusion::Buffers;
use super::report::Report;
use super::settings::Settings;
use super::{diffusers, keras, lucidrains, openai, pesser, w86763777};
use crate::checkpoint::{Family, Origin};
use crate::config::{ModelConfig, RunConfig};

/// Extra values that some families store beside their weights.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// lucidrains' tables and version.
    pub(super) buffers: Buffers,
    /// w86763777: shape of the noise its sample grids start from.
    pub(super) x_t_shape: Option<Vec<i64>>,
    /// Keras: all layers in the model's order.
    pub(super) layers: Vec<String>,
}

impl Family {
    /// The family whose network has these keys.
    pub(super) fn of(keys: &Keys) -> Option<Family> {
        type Matches = fn(&Keys) -> bool;
        let families: [(Family, Matches); 7] = [
            (Family::Diffusers, diffusers::matches),
            (Family::Pesser, pesser::matches),
            (Family::W86763777, w86763777::matches),
            (Family::Openai, openai::matches),
            (Family::Lucidrains, lucidrains::matches),
            (Family::KerasDdpm, keras::matches),
            (Family::Ddpm, own_network),
        ];
        let found = families.into_iter().find(|(_, matches)| matches(keys));
        found.map(|(family, _)| family)
    }

    /// Network, schedule and sampler, from keys, shapes and hints.
    ///
    /// # Errors
    /// Keys and shapes that do not fit together, or a version that is not supported.
    pub(super) fn infer(
        self,
        keys: &Keys,
        extras: &Extras,
        hints: &Hints,
        report: &mut Report,
    ) -> Result<Settings> {
        match self {
            Family::Diffusers => Err(diffusers::no_config()),
            Family::Pesser => pesser::infer(keys, hints, report),
            Family::W86763777 => w86763777::infer(keys, extras.x_t_shape.as_deref(), hints, report),
            Family::Openai => openai::infer(keys, hints, report),
            Family::Lucidrains => lucidrains::infer(keys, &extras.buffers, hints, report),
            Family::KerasDdpm => keras::infer(keys, &extras.layers, hints, report),
            Family::Ddpm => bail!(
                "these are weights under this program's own names, without settings; give `request.config` = FILE.toml, the config.toml of their run"
            ),
        }
    }
}

impl Settings {
    /// The family's names and arrangement of the tensors of this network, in a file with `keys`, or in a new
    /// one if there are none.
    ///
    /// # Errors
    /// A family whose networks are of another kind, or whose program has no such classes.
    pub(super) fn layout(&self, keys: &Keys) -> Result<Vec<Entry>> {
        use ModelConfig::{Lucidrains, UnetAttention};
        let origin = &self.origin;
        Ok(match (origin.family, &self.model) {
            (Family::Ddpm, _) => keys.iter().map(|(key, _)| Entry::same(key, key)).collect(),
            (Family::Diffusers, UnetAttention(m)) if keys.is_empty() => {
                diffusers::layout(m, origin)
            }
            (Family::Diffusers, UnetAttention(m)) => diffusers::layout_for(m, keys),
            (Family::Pesser, UnetAttention(m)) => pesser::layout(m, origin),
            (Family::W86763777, UnetAttention(m)) => {
                w86763777::layout(m, origin, self.diffusion.timesteps)
            }
            (Family::Openai, UnetAttention(m)) => openai::layout(m, origin),
            (Family::Lucidrains, Lucidrains(m)) => lucidrains::layout(m)?,
            (Family::KerasDdpm, model) => keras::layout(model, self.diffusion.timesteps, keys)?,
            (family, other) => bail!("{family} has no network like {}", other.kind().name()),
        })
    }
}

/// True for names of our own: a U-Net of Keras-DDPM, or its Gated Attention Units, under our keys.
fn own_network(keys: &Keys) -> bool {
    let u_net = keys.has("down.0.0.conv1.weight")
        && (keys.has("mid.norm.weight") || keys.has("mid.norm1.weight"));
    u_net || (keys.has("patch_in.weight") && keys.has("layers.0.q_affine.weight"))
}

/// Weights under our own names, with settings given by the user.
pub(super) fn own(config: &RunConfig) -> Settings {
    Settings {
        model: config.model.clone(),
        diffusion: config.diffusion.clone(),
        sample: config.sample.clone(),
        origin: Origin::new(Family::Ddpm),
    }
}

//! Our weights in another program's layout, for its own code to load.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use tch::{Kind, Tensor};

use super::diffusers;
use super::keys::Keys;
use super::layout::Entry;
use super::lucidrains::trainer::file as lucidrains_file;
use super::openai;
use super::settings::Settings;
use crate::checkpoint::{Family, Meta, Origin};
use crate::config::ModelConfig;
use crate::formats::pt::write::Item;
use crate::formats::safetensors;
use crate::formats::state_dict::{tensor_item, write_pt};

/// A `state_dict` in order.
type StateDict = Vec<(String, Tensor)>;

/// Weights under a family's own names and in its own arrangement.
///
/// # Errors
/// A family whose code has no such network, with the layouts that the network can have.
pub fn in_layout(family: Family, meta: &Meta, weights: &[(String, Tensor)]) -> Result<StateDict> {
    if family == Family::Ddpm {
        let same = |(name, t): &(String, Tensor)| (name.clone(), t.shallow_clone());
        return Ok(weights.iter().map(same).collect());
    }
    let entries = entries(family, meta).map_err(|error| anyhow!("{error:#}; {}", advice(meta)))?;
    let ours: HashMap<&str, &Tensor> = weights.iter().map(|(k, t)| (k.as_str(), t)).collect();
    let entry = |entry: Entry| {
        let parts: Vec<Tensor> = entry
            .ours
            .iter()
            .map(|name| ours.get(name.as_str()).map(|t| t.shallow_clone()))
            .collect::<Option<_>>()
            .with_context(|| format!("no tensor {:?} for {}", entry.ours, entry.theirs))?;
        let theirs = entry.to_theirs(&parts)?.contiguous();
        Ok((entry.theirs, theirs))
    };
    entries.into_iter().map(entry).collect()
}

/// What to choose in place of a layout that this network cannot have.
fn advice(meta: &Meta) -> String {
    let can_be = |family: &Family| match family {
        Family::Ddpm => true,
        // Read, and not written.
        Family::KerasDdpm => false,
        family => entries(*family, meta).is_ok(),
    };
    let families = Family::value_variants().iter().filter(|f| can_be(f));
    let names = families.filter_map(ValueEnum::to_possible_value);
    let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
    format!("choose `request.layout` = {}", names.join(" or "))
}

/// A family's names and arrangement of the tensors of this network.
///
/// # Errors
/// A family whose code has no such network.
fn entries(family: Family, meta: &Meta) -> Result<Vec<Entry>> {
    ensure!(
        meta.config.upscale.is_none() || !matches!(family, Family::Lucidrains | Family::KerasDdpm),
        "no network of {family} is given a small image beside x_t, to make it larger"
    );
    let origin = match &meta.origin {
        Some(origin) if origin.family == family => origin.clone(),
        // Only diffusers' names may replace another family's: it refuses networks it cannot describe.
        _ if family == Family::Diffusers => Origin::new(family),
        // Every network of this kind is the package's, or refused below.
        None if family == Family::Lucidrains => Origin::new(family),
        None => match (&meta.config.model, family) {
            (ModelConfig::UnetAttention(model), Family::Openai) => {
                openai::describes::origin_for(model, meta.config.diffusion.timesteps)?
            }
            (ModelConfig::UnetAttention(_), _) | (_, Family::KerasDdpm) => {
                bail!(other_origin(family, Family::Ddpm))
            }
            (other, _) => bail!("{family} has no network like {}", other.kind().name()),
        },
        Some(origin) => bail!(other_origin(family, origin.family)),
    };
    let settings = Settings {
        model: meta.config.model.clone(),
        diffusion: meta.config.diffusion.clone(),
        sample: meta.config.sample.clone(),
        origin,
    };
    settings.layout(&Keys::default())
}

fn other_origin(family: Family, origin: Family) -> String {
    format!(
        "these weights came from {origin}, not from {family}, whose code may compute something else with them"
    )
}

/// Writes a PyTorch file as the family's own program saves it, whole or not at all.
///
/// Where that file holds raw and averaged weights, both are these.
///
/// # Errors
/// As [`in_layout`]; disk full and the like.
pub fn write_family_pt(
    path: &Path,
    family: Family,
    meta: &Meta,
    weights: &[(String, Tensor)],
) -> Result<()> {
    let state = in_layout(family, meta, weights)?;
    let root = match family {
        Family::Lucidrains => lucidrains_file(meta.step, &meta.config.diffusion, &state)?,
        Family::W86763777 => Item::Dict(vec![
            ("net_model".into(), tensors(&state)?),
            ("ema_model".into(), tensors(&state)?),
            ("step".into(), Item::Int(meta.step as i64)),
        ]),
        Family::KerasDdpm => {
            bail!("Keras' HDF5 files can be read, not written; choose `request.layout` = ddpm")
        }
        Family::Ddpm | Family::Diffusers | Family::Pesser | Family::Openai => tensors(&state)?,
    };
    write_pt(path, &root)
}

fn tensors(state: &StateDict) -> Result<Item<'static>> {
    let item = |(name, t): &(String, Tensor)| Ok((name.clone(), tensor_item(t)?));
    Ok(Item::OrderedDict(
        state.iter().map(item).collect::<Result<_>>()?,
    ))
}

/// Writes a folder that `DDPMPipeline.from_pretrained` loads, whole or not at all; returns the differences
/// between that pipeline and this program, one sentence each.
///
/// # Errors
/// A network or schedule that diffusers cannot describe, named; a folder that is not empty.
pub fn write_pipeline(
    dir: &Path,
    meta: &Meta,
    weights: &[(String, Tensor)],
) -> Result<Vec<String>> {
    let config = &meta.config;
    let files = diffusers::pipeline_files(&config.model, &config.diffusion, &config.sample);
    let mut files =
        files.map_err(|error| anyhow!("{error:#}; a .safetensors or .pt file can hold it"))?;
    if config.upscale.is_none() {
        files.extend(diffusers::class_script(&config.model, &config.diffusion));
    }
    let state = in_layout(Family::Diffusers, &without_old_names(meta), weights)?;
    let used = dir.exists() && fs_err::read_dir(dir)?.next().is_some();
    ensure!(
        !used,
        "{} is there already; choose a new folder",
        dir.display()
    );
    // Where `dir` is a link, the folder that it points to is replaced.
    let dir = &fs_err::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let parent = crate::fs::folder_of(dir);
    fs_err::create_dir_all(parent)?;
    let made = tempfile::Builder::new()
        .prefix(".ddpm-export-")
        .tempdir_in(parent)?;
    for (path, text) in files {
        let path = made.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap_or(made.path()))?;
        crate::fs::write_bytes(&path, text.as_bytes())?;
    }
    safetensors::write(
        &made.path().join("unet/diffusion_pytorch_model.safetensors"),
        ("format".to_owned(), "pt".to_owned()),
        &state,
    )?;
    set_readable(made.path())?;
    if dir.exists() {
        fs_err::remove_dir(dir)?;
    }
    fs_err::rename(made.keep(), dir)?;
    Ok(diffusers::pipeline_notes(&config.model, &config.sample))
}

/// Temporary folders are private; the exported one gets the permissions of any new folder.
fn set_readable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs_err::set_permissions(
        dir,
        std::fs::Permissions::from_mode(0o755),
    )?)
}

/// diffusers warns about old attention names, so a new folder has the new ones.
fn without_old_names(meta: &Meta) -> Meta {
    Meta {
        origin: None,
        ..meta.clone()
    }
}

/// Plain weights in a family's layout as a safetensors file.
///
/// # Errors
/// As [`in_layout`]; disk full and the like.
pub fn write_family_safetensors(
    path: &Path,
    family: Family,
    meta: &Meta,
    weights: &[(String, Tensor)],
) -> Result<()> {
    let state = in_layout(family, meta, weights)?;
    debug_assert!(state.iter().all(|(_, t)| t.kind() == Kind::Float));
    safetensors::write(path, ("format".to_owned(), "pt".to_owned()), &state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Contents;
    use crate::config::{ModelKind, Preset};
    use crate::model::Model;

    /// Small networks of each kind without classes, with some, and with some that they grew.
    fn networks() -> Vec<ModelConfig> {
        let kinds = ModelKind::value_variants().iter();
        let mut plain: Vec<ModelConfig> = kinds.map(|kind| kind.config([3, 16, 16])).collect();
        for model in &mut plain {
            match model {
                ModelConfig::Unet(m) => (m.base_width, m.norm_groups) = (8, 4),
                ModelConfig::UnetAttention(m) => {
                    (m.base_width, m.norm_groups, m.widths) = (8, 4, vec![8; m.widths.len()]);
                    (m.time_channels, m.time_width) = (8, 32);
                }
                ModelConfig::Lucidrains(m) => (m.base_width, m.init_width) = (8, 8),
                ModelConfig::UnetConcat(m) => (m.base_width, m.norm_groups) = (8, 4),
                ModelConfig::Gau(m) => (m.base_width, m.units, m.layers) = (16, 32, 1),
            }
        }
        let with = |model: &ModelConfig, change: &dyn Fn(&mut ModelConfig)| {
            let mut model = model.clone();
            change(&mut model);
            model
        };
        let changes: [&dyn Fn(&mut ModelConfig); 4] = [
            &|_| (),
            &|m| m.make_conditional(3, true),
            &|m| m.make_conditional(3, false),
            &|m| m.set_classes(Some(3), true),
        ];
        let each = |model| changes.map(|change| with(model, change));
        plain.iter().flat_map(each).collect()
    }

    #[test]
    fn advice_names_layouts_that_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x.pt");
        let mut refused = 0;
        for model in networks() {
            let mut config = Preset::Demo.config();
            config.model = model;
            let mut meta = Meta::new(Contents::EmaWeights, &config);
            let net = Model::new(&config.model, config.diffusion.timesteps, 0);
            let params = net.params().into_iter();
            let weights: Vec<_> = params.map(|p| (p.name, p.tensor.detach())).collect();
            let attends = matches!(config.model, ModelConfig::UnetAttention(_));
            let pesser = attends.then(|| Origin::new(Family::Pesser));
            for origin in [None, pesser] {
                meta.origin = origin;
                for family in Family::value_variants() {
                    let Err(error) = in_layout(*family, &meta, &weights) else {
                        continue;
                    };
                    refused += 1;
                    let error = error.to_string();
                    let (_, names) = error.split_once("choose `request.layout` = ").unwrap();
                    for name in names.split(" or ") {
                        let family = Family::from_str(name, false).unwrap();
                        let written = write_family_pt(&to, family, &meta, &weights);
                        written.unwrap_or_else(|wrong| panic!("{error}: {wrong:#}"));
                    }
                }
            }
        }
        assert!(refused > 60, "{refused}");
    }

    #[test]
    fn a_folder_that_cannot_be_is_a_file_instead() {
        let meta = Meta::new(Contents::EmaWeights, &Preset::Demo.config());
        let dir = tempfile::tempdir().unwrap();
        let error = write_pipeline(&dir.path().join("x"), &meta, &[]).unwrap_err();
        let said = "a .safetensors or .pt file can hold it";
        assert!(error.to_string().contains(said), "{error}");
    }
}

//! A foreign file, understood: which network it holds, and its tensors on the way into ours.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use super::averages;
use super::diffusers::{self, Folder};
use super::hints::Hints;
use super::layout::Entry;
use super::lucidrains::diffusion::Buffers;
use super::registry::{self, Extras};
use super::report::{MissingHints, Report};
use super::settings::Settings;
use super::upscale;
use super::uses::Uses;
use super::view::{View, objects_in, slot_at};
use super::views;
use crate::checkpoint::{Contents, Family, Meta, Weights};
use crate::config::{RunConfig, UpscaleConfig};
use crate::formats::finite::check_finite;
use crate::formats::weights_file::{Node, TensorSlot, WeightsFile};
use crate::model::{Model, load_state_dict};
use crate::text::{printable, shown};

/// What the user says about a foreign file.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Answers to what it leaves open.
    pub hints: Hints,
    /// Raw weights instead of averaged ones, where it has both.
    pub raw: bool,
    /// Where in the file the weights are, if there are several.
    pub key: Option<String>,
    /// Settings of weights under our own names.
    pub config: Option<RunConfig>,
    /// What plays a part in what is done with the file.
    pub uses: Uses,
}

/// A foreign file, understood but not loaded.
#[derive(Debug)]
pub struct Foreign {
    /// What was found, assumed and is missing.
    pub report: Report,
    /// The code base.
    pub family: Family,
    path: PathBuf,
    file: WeightsFile,
    settings: Settings,
    entries: Vec<Entry>,
    slots: HashMap<String, TensorSlot>,
    /// What the file calls each of them, for messages.
    names: HashMap<String, String>,
    contents: Contents,
    step: u64,
    base: Option<RunConfig>,
    /// What its images are made larger by, if they are.
    upscale: Option<UpscaleConfig>,
}

impl Request {
    /// The set of weights it is for.
    pub fn which(&self) -> Weights {
        if self.raw { Weights::Raw } else { Weights::Ema }
    }
}

impl Foreign {
    /// Recognises a file or folder by what is in it. Hints may still be missing; the report says so.
    ///
    /// # Errors
    /// Unreadable, of no known family, or of one whose network or version is not supported; keys or
    /// shapes that do not fit together.
    pub fn examine(path: &Path, request: &Request) -> Result<Foreign> {
        let cannot = || format!("cannot import {}", path.display());
        let folder = diffusers::find(path, request.raw).with_context(cannot)?;
        ensure!(
            folder.is_some() || !path.is_dir(),
            "{} is a folder without checkpoints or weights that are known here; name a run folder or a file",
            path.display()
        );
        let file = match &folder {
            Some(folder) if folder.sharded => {
                WeightsFile::open_shards(&folder.weights).with_context(cannot)?
            }
            Some(folder) => WeightsFile::open(&folder.weights).with_context(cannot)?,
            None => WeightsFile::open(path)?,
        };
        Foreign::assemble(path, file, folder.as_ref(), request).with_context(cannot)
    }

    /// Recognises the open file and gives each of its tensors a place in the network.
    fn assemble(
        path: &Path,
        file: WeightsFile,
        folder: Option<&Folder>,
        request: &Request,
    ) -> Result<Foreign> {
        let mut found = match folder {
            Some(folder) => Recognised::in_folder(folder, &file, request)?,
            None => Recognised::in_file(&file, request)?,
        };
        found.heed(request)?;
        let upscale = match &found.base {
            Some(_) => None,
            None => upscale::of(&found.settings, &request.hints, &mut found.report)?,
        };
        let Recognised { view, settings, .. } = &found;
        let entries = settings.layout(&view.keys)?;
        fit(&entries, view).map_err(|error| beside_objects(error, view))?;
        let slots = entries.iter().filter_map(|e| {
            let slot = view.slot(&e.theirs)?;
            Some((e.theirs.clone(), slot.clone()))
        });
        let names = entries.iter();
        let names = names.map(|e| (e.theirs.clone(), view.name(&e.theirs)));
        Ok(Foreign {
            path: path.to_owned(),
            slots: slots.collect(),
            names: names.collect(),
            // The chosen set of weights is the only one that is kept: nobody must ask for it again.
            contents: match view.is_average() {
                true => Contents::EmaWeights,
                false => Contents::Weights,
            },
            family: settings.origin.family,
            step: found.step,
            base: found.base,
            upscale,
            settings: found.settings,
            report: found.report,
            entries,
            file,
        })
    }

    /// The open file.
    pub(super) fn into_file(self) -> WeightsFile {
        self.file
    }

    /// All settings, in the form that a run of ours has: what the file does not concern (optimizer, data,
    /// length) is a preset's.
    ///
    /// # Errors
    /// Missing hints, all of them listed; settings that cannot work.
    pub fn config(&self) -> Result<RunConfig> {
        if !self.report.missing.is_empty() {
            bail!(MissingHints {
                path: self.path.clone(),
                report: self.report.clone(),
            });
        }
        let preset = self.settings.model.kind().preset();
        let mut config = self.base.clone().unwrap_or_else(|| preset.config());
        let (images, every_steps) = (config.sample.images, config.sample.every_steps);
        config.model = self.settings.model.clone();
        config.diffusion = self.settings.diffusion.clone();
        config.sample = self.settings.sample.clone();
        (config.sample.images, config.sample.every_steps) = (images, every_steps);
        if self.base.is_none() {
            config.upscale.clone_from(&self.upscale);
        }
        config
            .validate()
            .with_context(|| format!("{} describes what cannot work", self.path.display()))?;
        Ok(config)
    }

    /// What the imported file will say of itself.
    ///
    /// # Errors
    /// As [`config`](Foreign::config).
    pub fn meta(&self) -> Result<Meta> {
        Ok(Meta {
            step: self.step,
            origin: Some(self.settings.origin.clone()),
            ..Meta::new(self.contents, &self.config()?)
        })
    }

    /// The network with the file's weights, on CPU.
    ///
    /// # Errors
    /// As [`config`](Foreign::config); tensors that are damaged, not finite or of another shape than the settings ask
    /// for.
    pub fn network(&self) -> Result<Model> {
        let config = self.config()?;
        let held: i128 = self.slots.values().map(|s| numel(&s.shape)).sum();
        let least = config.model.least_parameters();
        ensure!(
            least <= held,
            "{} describes a network of more than {least} values, and holds {held}",
            self.path.display()
        );
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        self.load_into(&net)
            .with_context(|| format!("cannot import {}", self.path.display()))?;
        Ok(net)
    }

    /// The tensors as the file has them.
    fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        let read = |entry: &Entry| {
            let slot = &self.slots[&entry.theirs];
            Ok((entry.theirs.clone(), self.file.tensor(&entry.theirs, slot)?))
        };
        self.entries.iter().map(read).collect()
    }

    /// Copies tensor by tensor, so that no second copy of the whole is held.
    fn load_into(&self, net: &Model) -> Result<()> {
        let params = net.params();
        if self.family == Family::Ddpm {
            // Nothing was inferred from these keys, so all that do not fit are named.
            let state = self.state_dict()?;
            for (name, tensor) in &state {
                check_finite(name, tensor)?;
            }
            return Ok(load_state_dict(&params, &state)?);
        }
        let mut open: HashMap<&str, &Tensor> = params
            .iter()
            .map(|p| (p.name.as_str(), &p.tensor))
            .collect();
        for entry in &self.entries {
            let slot = self
                .slots
                .get(&entry.theirs)
                .with_context(|| format!("no tensor {}", entry.theirs))?;
            let theirs = self.file.tensor(&entry.theirs, slot)?;
            ensure!(
                theirs.is_floating_point(),
                "tensor {} is {:?}, want floating-point numbers",
                entry.theirs,
                theirs.kind()
            );
            check_finite(&self.names[&entry.theirs], &theirs)?;
            let ours = entry.to_ours(&theirs)?;
            ensure!(
                ours.len() == entry.ours.len(),
                "tensor {} holds {} of ours",
                entry.theirs,
                ours.len()
            );
            for (name, value) in entry.ours.iter().zip(ours) {
                let target = open
                    .remove(name.as_str())
                    .with_context(|| format!("no place for tensor {} ({name})", entry.theirs))?;
                ensure!(
                    target.size() == value.size(),
                    "tensor {} is {:?}, which makes {name} {:?}; want {:?}",
                    entry.theirs,
                    theirs.size(),
                    value.size(),
                    target.size()
                );
                no_grad(|| target.shallow_clone().copy_(&value));
            }
        }
        let mut missing: Vec<&str> = open.into_keys().collect();
        missing.sort_unstable();
        ensure!(missing.is_empty(), "no tensor for {}", missing.join(", "));
        Ok(())
    }
}

/// What recognition found in an open file.
struct Recognised<'f> {
    view: View<'f>,
    settings: Settings,
    report: Report,
    /// Training steps behind the weights; 0 if the file does not say.
    step: u64,
    /// The user's settings of weights under our own names.
    base: Option<RunConfig>,
}

impl<'f> Recognised<'f> {
    /// A single file: keys and shapes tell the family and the network.
    fn in_file(file: &'f WeightsFile, request: &Request) -> Result<Recognised<'f>> {
        let mut report = Report::default();
        report.fact("container", file.container, "its first bytes");
        let view = choose(file, views::find(&file.root), request, &mut report)?;
        if let Some(average) = averages::beside(view.family, &file.path)
            && !request.raw
        {
            report.assume(format!(
                "these are the weights that are wanted: their average is in another file, {}",
                printable(&average)
            ));
        }
        let family = match &request.config {
            Some(_) => Family::Ddpm,
            None => view.family,
        };
        report.fact("family", family, "key names");
        let settings = match &request.config {
            Some(config) => registry::own(config),
            None => {
                let extras = extras(file, &view)?;
                let settings = family.infer(&view.keys, &extras, &request.hints, &mut report);
                settings.map_err(|error| beside_objects(error, &view))?
            }
        };
        Ok(Recognised {
            step: step(&file.root),
            base: request.config.clone(),
            view,
            settings,
            report,
        })
    }

    /// The weights of a diffusers folder, whose JSON files describe the network and the schedule.
    fn in_folder(
        folder: &Folder,
        file: &'f WeightsFile,
        request: &Request,
    ) -> Result<Recognised<'f>> {
        ensure!(
            request.config.is_none(),
            "`request.config` is for weights under this program's own names; config.json describes this network; leave \
             `request.config` out"
        );
        let mut report = Report::default();
        report.fact("container", file.container, file.path.display().to_string());
        if let Some(note) = &folder.note {
            report.assume(note);
        }
        let mut views = views::find(&file.root);
        views.retain(|view| view.family == Family::Diffusers);
        let view = match (views.is_empty(), &request.key) {
            // What is missing in it is told below.
            (true, None) => View::whole(Family::Diffusers, &file.root)?,
            _ => choose(file, views, request, &mut report)?,
        };
        report.fact("family", Family::Diffusers, "config.json");
        let config = diffusers::read_json(&folder.config)?;
        let scheduler = folder.scheduler.as_deref().map(diffusers::read_json);
        let scheduler = scheduler.transpose()?;
        let settings = diffusers::infer(
            &config,
            scheduler.as_deref(),
            &view.keys,
            &request.hints,
            &mut report,
        );
        let settings = settings.map_err(|error| beside_objects(error, &view))?;
        Ok(Recognised {
            step: step(&file.root),
            base: None,
            view,
            settings,
            report,
        })
    }
}

impl Recognised<'_> {
    /// What the caller does with the file decides what is asked; the sampler's settings are the caller's own.
    fn heed(&mut self, request: &Request) -> Result<()> {
        let (settings, report) = (&mut self.settings, &mut self.report);
        request.hints.refuse_idle(settings.origin.family)?;
        request.uses.trim(settings, &request.hints, report);
        report.replaced =
            (request.uses).replace(&request.hints, &mut settings.sample, &settings.model)?;
        Ok(())
    }
}

/// The view to read; the report says which, and what averages there are.
fn choose<'f>(
    file: &'f WeightsFile,
    views: Vec<View<'f>>,
    request: &Request,
    report: &mut Report,
) -> Result<View<'f>> {
    if views.is_empty()
        && let Some(objects) = objects_in(&file.root)
    {
        bail!("it holds no weights of a known network; {objects}");
    }
    let average = views.iter().find(|view| view.is_average());
    let average = average.map(|view| view.path.clone());
    let view = views::choose(views, request.which(), request.key.as_deref())?;
    if !view.path.is_empty() {
        report.fact("weights at", printable(&shown(&view.path)), "its keys");
    }
    if view.is_average() {
        report.fact("average", "taken (EMA weights)", "its keys");
    } else if let Some(average) = average {
        let average = printable(&shown(&average));
        report.fact(
            "average",
            format!("passed over, at {average}"),
            "--raw or --key",
        );
    } else if !request.raw && request.key.is_none() {
        for average in averages::all_in(&file.root) {
            report.assume(format!(
                "the raw weights are wanted: what stands at {average} is no whole average of this network, and is \
                 passed over"
            ));
        }
    }
    Ok(view)
}

/// An error about the tensors of a view, with the objects among them, which may be what is missing.
fn beside_objects(error: anyhow::Error, view: &View) -> anyhow::Error {
    match view.objects() {
        Some(objects) => error.context(objects),
        None => error,
    }
}

/// Every tensor of the layout is there, and no other.
fn fit(entries: &[Entry], view: &View) -> Result<()> {
    let wanted: HashSet<&str> = entries.iter().map(|e| e.theirs.as_str()).collect();
    let list = |keys: Vec<&str>| {
        let more = keys.len().saturating_sub(8);
        let mut text: String = keys
            .iter()
            .take(8)
            .map(|k| format!("\n  {}", shown(k)))
            .collect();
        if more > 0 {
            text += &format!("\n  … and {more} more");
        }
        text
    };
    let mut missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|k| view.slot(k).is_none())
        .collect();
    missing.sort_unstable();
    ensure!(
        missing.is_empty(),
        "its shapes describe a network that also has these tensors, and it has not:{}",
        list(missing)
    );
    let unexpected: Vec<&str> = view
        .keys
        .iter()
        .map(|(k, _)| k)
        .filter(|k| !wanted.contains(k))
        .collect();
    ensure!(
        unexpected.is_empty(),
        "it holds tensors of a part that is not known here:{}",
        list(unexpected)
    );
    Ok(())
}

fn numel(shape: &[i64]) -> i128 {
    shape.iter().map(|&n| i128::from(n)).product()
}

fn step(root: &Node) -> u64 {
    ["step", "global_step"]
        .iter()
        .find_map(|key| match root.get(key) {
            Some(Node::Int(step)) => u64::try_from(*step).ok(),
            _ => None,
        })
        .unwrap_or(0)
}

/// What some families keep beside their weights.
fn extras(file: &WeightsFile, view: &View) -> Result<Extras> {
    let version = match file.root.get("version") {
        Some(Node::Text(version)) => Some(version.clone()),
        _ => None,
    };
    let x_t_shape = match file.root.get("x_T") {
        Some(Node::Tensor(slot)) => Some(slot.shape.clone()),
        _ => None,
    };
    // lucidrains keeps its tables one level above the network.
    let above = view.prefix.strip_suffix("model.").map(|p| p.to_owned());
    let table = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(above) = &above else { return Ok(None) };
        let Some(slot) = slot_at(view.group, &format!("{above}{name}")) else {
            return Ok(None);
        };
        ensure!(
            slot.shape.len() == 1 && slot.shape[0] <= 100_000,
            "tensor {name} is {:?}, want one number a time step",
            slot.shape
        );
        let values = file.tensor(name, slot)?.to_kind(Kind::Float);
        Ok(Some(Vec::try_from(values.to_device(Device::Cpu))?))
    };
    Ok(Extras {
        buffers: Buffers {
            betas: table("betas")?,
            loss_weight: table("loss_weight")?,
            version,
        },
        x_t_shape,
        layers: file.layers().to_vec(),
    })
}

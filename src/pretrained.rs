//! A trained network with its settings, from any file or run folder.
//!
//! Nothing here prints: what is worth telling of a file stands in [`Pretrained::report`] and [`Pretrained::damaged`].

mod guided;
mod made_with;
mod sampled_set;
mod sampling;
mod upscaler;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ndarray::{Array1, Array4};
use tch::{Device, Tensor};

pub use guided::Guided;
pub(crate) use made_with::{name_of, network_settings, sampler_settings};
pub use sampled_set::SampledSet;
pub use sampling::Sampling;
pub use upscaler::Upscaler;

use crate::checkpoint::{
    Calibration, Checkpoint, Damaged, Meta, Weights, find, fingerprint, is_ours, read_checkpoint,
};
use crate::config::{MapLayout, RunConfig};
use crate::device::{self, DeviceChoice, Precision};
use crate::diffusion::Schedule;
use crate::formats::finite::check_finite;
use crate::interop::{Foreign, Report, Request};
use crate::memory::{Shortage, catch_shortage};
use crate::model::{Model, load_state_dict};
use crate::native::KeptFilters;
use crate::report::bytes;
use crate::sample::SamplerKind;
use crate::text::shell;

/// A network with the weights and settings of a file, on a device.
///
/// ```no_run
/// use ddpm::Pretrained;
/// use ddpm::sample::SamplerKind;
///
/// let pretrained = Pretrained::load("runs/NAME")?;
/// let images = pretrained.sample(16, 7)?; // [16, H, W, C]
/// let sooner = pretrained.sampler(SamplerKind::DpmPp2m).steps(20).sample(16, 7)?;
/// # assert_eq!(images.shape(), sooner.shape());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Pretrained {
    /// Settings, training steps done, and where the weights came from.
    pub meta: Meta,
    /// The file or folder that was read.
    pub path: PathBuf,
    /// The set of weights that was asked for.
    pub which: Weights,
    /// What was found in a file of another program, and what was assumed.
    pub report: Option<Report>,
    /// What the request chose in place of what a file of ours says, a sentence each; a file of another program has them
    /// in its report.
    pub replaced: Vec<String>,
    /// Newer checkpoints of the run folder, which cannot be read and were passed over.
    pub damaged: Vec<Damaged>,
    /// The run folder or file that was given.
    given: PathBuf,
    net: Model,
    device: Device,
    kept: KeptFilters,
}

impl Pretrained {
    /// Loads EMA weights onto the GPU if CUDA is usable, else for the CPU, in the precision that suits the device.
    ///
    /// `path` is a run folder (its newest checkpoint), a checkpoint, or a file or folder of another program that says all
    /// that is needed; [`Pretrained::load_with`] takes hints for one that does not.
    ///
    /// # Errors
    /// As [`Pretrained::load_with`].
    pub fn load(path: impl AsRef<Path>) -> Result<Pretrained> {
        let chosen = device::choose(DeviceChoice::Auto, Precision::Auto, false)?;
        let mut pretrained = Pretrained::load_with(path, &Request::default(), chosen.device)?;
        pretrained.set_precision(chosen.precision);
        Ok(pretrained)
    }

    /// Loads the weights that `request` asks for onto `device`, to compute in f32.
    ///
    /// # Errors
    /// A file that cannot be read or is of no known kind; one that leaves something open
    /// ([`MissingHints`](crate::interop::MissingHints), with what was found); settings that its tensors do not fit;
    /// hints for a file that holds what they say; a tensor with values that are NaN or infinite
    /// ([`NotFinite`](crate::formats::NotFinite)).
    pub fn load_with(
        path: impl AsRef<Path>,
        request: &Request,
        device: Device,
    ) -> Result<Pretrained> {
        let path = path.as_ref();
        let mut pretrained = match ours(path)? {
            Some((path, damaged)) => Pretrained {
                damaged,
                ..Pretrained::from_ours(path, request)?
            },
            None => Pretrained::from_foreign(path, request)?,
        };
        pretrained.given = path.to_owned();
        let layout = pretrained.config().train.layout;
        pretrained.net.set_layout(layout.unwrap_or(MapLayout::Nchw));
        let plain_blocks = pretrained.config().train.plain_blocks;
        pretrained
            .net
            .set_plain_blocks(plain_blocks.unwrap_or(true));
        let net = &mut pretrained.net;
        if let Err(Shortage(said)) = catch_shortage(|| net.move_to(device))? {
            let weights: usize = net.params().iter().map(|p| p.tensor.numel()).sum();
            bail!(
                "out of memory: no room for the weights of {}, {} in f32 ({said}); end what else uses the device, or choose another",
                path.display(),
                bytes(4 * weights as u64)
            );
        }
        pretrained.device = device;
        Ok(pretrained)
    }

    fn from_ours(path: PathBuf, request: &Request) -> Result<Pretrained> {
        let cannot = || format!("cannot use {}", path.display());
        let mut checkpoint = read_checkpoint(&path)?;
        refuse_oversized(&checkpoint).with_context(cannot)?;
        let config = &mut checkpoint.meta.config;
        let replaced = heed(request, config).with_context(cannot)?;
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let weights = checkpoint.weights(request.which()).with_context(cannot)?;
        load_state_dict(&net.params(), &weights).with_context(cannot)?;
        for (name, tensor) in &weights {
            check_finite(name, tensor).with_context(cannot)?;
        }
        Ok(Pretrained {
            replaced,
            ..Pretrained::new(checkpoint.meta, path, request, net)
        })
    }

    fn from_foreign(path: &Path, request: &Request) -> Result<Pretrained> {
        let foreign = Foreign::examine(path, request)?;
        let (meta, net) = (foreign.meta()?, foreign.network()?);
        Ok(Pretrained {
            report: Some(foreign.report),
            ..Pretrained::new(meta, path.to_owned(), request, net)
        })
    }

    fn new(meta: Meta, path: PathBuf, request: &Request, net: Model) -> Pretrained {
        Pretrained {
            meta,
            given: path.clone(),
            path,
            which: request.which(),
            report: None,
            replaced: Vec::new(),
            damaged: Vec::new(),
            net,
            device: Device::Cpu,
            kept: KeptFilters::new(),
        }
    }

    /// All settings of the network and of how it was trained.
    pub fn config(&self) -> &RunConfig {
        &self.meta.config
    }

    /// The noise schedule that it was trained on.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(&self.meta.config.diffusion)
    }

    /// Where the network lives.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Computes in this precision from here on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.net.set_precision(precision);
    }

    /// Refuses a network that makes images larger, where images are to be made from noise alone.
    ///
    /// # Errors
    /// It is one.
    pub fn refuse_upscaling(&self) -> Result<()> {
        let Some(upscale) = &self.config().upscale else {
            return Ok(());
        };
        bail!(
            "{} makes images {} times as large and needs some to begin with; that is for `ddpm upscale`, `ddpm sample OTHER \
             --then {0}` and `ddpm evaluate psnr`, loss and bpd alone",
            shell(&self.given),
            upscale.factor
        )
    }

    /// Samples `number` images with DDPM over all time steps, as the network's settings say. Image `i` depends on
    /// `(seed, i)` only.
    ///
    /// # Shapes
    /// Returns `[number, H, W, C]`, 0 to 255.
    ///
    /// # Errors
    /// As [`Sampling::sample`].
    pub fn sample(&self, number: u64, seed: u64) -> Result<Array4<u8>> {
        self.sampler(SamplerKind::Ddpm).sample(number, seed)
    }

    /// Sampling with another sampler, to be chosen further.
    pub fn sampler(&self, kind: SamplerKind) -> Sampling<'_> {
        Sampling::new(self, kind)
    }

    /// The bare network's output, without dropout and gradients.
    ///
    /// # Shapes
    /// - `x_t`: `[N, C, H, W]` f32; `t`: `[N]` i64, 0-based
    /// - `classes`: `[N]` i64 for a class-conditional network, else `None`
    /// - returns `[N, C, H, W]`, or `[N, 2C, H, W]` with learned variances
    ///
    /// # Panics
    /// With other shapes, `t` outside `0..T`, or classes for a network without them, and the other way round.
    pub fn predict(&self, x_t: &Tensor, t: &Tensor, classes: Option<&Tensor>) -> Tensor {
        self.net.predict(x_t, t, classes, &self.kept)
    }

    /// As [`predict`](Pretrained::predict), with gradients: they lead back to `x_t` if that requires one.
    ///
    /// # Shapes
    /// As [`predict`](Pretrained::predict); where [`takes_any_t`](crate::config::ModelConfig::takes_any_t), `t` may
    /// also be `[N]` f32.
    ///
    /// # Panics
    /// As [`predict`](Pretrained::predict).
    pub fn differentiable(&self, x_t: &Tensor, t: &Tensor, classes: Option<&Tensor>) -> Tensor {
        self.net.forward(x_t, t, classes, false)
    }

    /// The network's identity: a hash of its settings and weights.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub fn fingerprint(&self) -> Result<blake3::Hash> {
        fingerprint(&self.meta.config, &self.state_dict())
    }

    /// The weights under our keys, in the network's order: the network's own tensors, to read.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        self.net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect()
    }

    /// `E[eps_hat²]` at each time step, which `ddpm calibrate` measured and wrote beside the checkpoint.
    ///
    /// # Errors
    /// No such file, or one of another network.
    pub fn measured(&self) -> Result<Array1<f64>> {
        let path = Calibration::path_beside(&self.path, self.which);
        let timesteps = self.meta.config.diffusion.timesteps as usize;
        let found = Calibration::read(&path, &self.fingerprint()?, timesteps);
        let found = found.with_context(|| {
            let checkpoint = shell(&self.given);
            let raw = match self.which {
                Weights::Ema => "",
                Weights::Raw => " --raw",
            };
            format!(
                "the sampler analytic needs measurements; make them with: ddpm calibrate {checkpoint} --data DIR{raw}"
            )
        })?;
        Ok(found.mean_sq_eps)
    }
}

/// The file of ours that an argument means, with newer ones of a run folder that cannot be read; `None` for anything
/// else that is there.
///
/// # Errors
/// No such file; a run folder without a checkpoint that can be read.
pub fn ours(argument: &Path) -> Result<Option<(PathBuf, Vec<Damaged>)>> {
    // A run may have lost its settings: its checkpoints hold them too.
    let is_run = |file: &str| argument.join(file).exists();
    if argument.is_dir() && !is_run("config.toml") && !is_run("checkpoints/latest") {
        return Ok(None);
    }
    let (path, damaged) = find(argument)?;
    Ok(is_ours(&path)?.then_some((path, damaged)))
}

/// Refuses what is for other programs' files, and lets the sampler's settings of the request win over those of
/// `config`.
fn heed(request: &Request, config: &mut RunConfig) -> Result<Vec<String>> {
    request.hints.refuse_for_ours(config)?;
    for (name, given) in [
        ("key", request.key.is_some()),
        ("config", request.config.is_some()),
    ] {
        ensure!(
            !given,
            "`request.{name}` is for other programs' files, and this is a file of this program, which holds all its \
             settings; leave it out"
        );
    }
    (request.uses).replace(&request.hints, &mut config.sample, &config.model)
}

/// Settings in a file may describe a network far larger than its tensors; that is found before memory
/// is taken for it.
fn refuse_oversized(checkpoint: &Checkpoint) -> Result<()> {
    let held: i128 = checkpoint
        .tensors
        .iter()
        .map(|(_, t)| t.numel() as i128)
        .sum();
    let least = checkpoint.meta.config.model.least_parameters();
    ensure!(
        least <= held,
        "its settings describe a network of more than {least} values, and it holds {held}"
    );
    Ok(())
}

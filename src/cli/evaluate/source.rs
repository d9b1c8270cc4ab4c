//! The sets of images that measures compare: folders, arrays, and networks whose images are sampled as they are measured.

mod arrays;
mod folder;
mod loaded;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ndarray::Array3;
use tch::Device;

use super::ranks::Ranks;
use arrays::ArraySource;
pub(in crate::cli) use folder::FolderSource;
use folder::tell_of_skipped;
use loaded::LoadedSource;

use crate::checkpoint::Weights;
use crate::cli::args::class::ClassArgs;
use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::foreign::ForeignArgs;
use crate::cli::args::group::GroupArgs;
use crate::cli::args::load::weights_line;
use crate::cli::args::sampler::SamplerArgs;
use crate::cli::args::values::Size;
use crate::cli::findings;
use crate::cli::out::say;
use crate::cli::progress::{DecodeProgress, SampleProgress};
use crate::config::{RunConfig, Sources};
use crate::data::{self, ImageFolder, ImageSpec};
use crate::device::Chosen;
use crate::evaluate::ImageSet;
use crate::evaluate::moments::Statistics;
use crate::formats::npz;
use crate::pretrained::{self, Pretrained, SampledSet, Sampling};
use crate::sample::{Classes, SamplerKind};
use crate::text;

/// Images of a folder or file that are passed on at a time.
const BATCH: u64 = 64;

/// The array of images in an .npz file.
const IMAGES_ARRAY: &str = "arr_0";

/// How images are made of a network, and what those of a folder are made to.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Images sampled from a network [default: 1000]; of folders all are taken
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    number: Option<u64>,
    /// Seed of all that is drawn
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Images per batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(super) batch: u64,
    /// Bring the images of folders to this size: 64, or 48x64 (height x width) [default: beside a network as its training
    /// images, else as they are]
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    size: Option<Size>,
    /// Use the raw weights of a network instead of their EMA
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    class: ClassArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    pub(super) compute: ComputeArgs,
    #[command(flatten)]
    pub(super) group: GroupArgs,
    #[command(flatten)]
    foreign: ForeignArgs,
}

/// A network whose images are sampled.
pub(super) struct NetworkSource {
    pub(super) network: Pretrained,
    guide: Option<Pretrained>,
    classes: Classes,
}

/// A set of images, opened but not read.
pub(super) enum Source {
    Network(Box<NetworkSource>),
    Folder(Box<FolderSource>),
    /// A data set in memory.
    Loaded(Box<LoadedSource>),
    /// An .npz file of images.
    Arrays(ArraySource),
    /// An .npz file of statistics, which holds no images.
    Statistics(PathBuf, Box<Statistics>),
}

impl SourceArgs {
    /// Two sets to compare, as [`open`](SourceArgs::open) opens them.
    ///
    /// # Errors
    /// As `open`.
    pub(super) fn open_both(&self, a: &Path, b: &Path, chosen: &Chosen) -> Result<[Source; 2]> {
        let both = self.open(&[a, b], chosen)?;
        Ok(both
            .try_into()
            .unwrap_or_else(|_| unreachable!("a source for each path")))
    }

    /// Loads the networks among `paths`, and opens the folders in the form of the networks' images.
    ///
    /// # Errors
    /// What is neither a network nor a folder of images; networks of different sizes; a folder of images of several sizes
    /// with nothing to say which one is wanted.
    pub(super) fn open(&self, paths: &[&Path], chosen: &Chosen) -> Result<Vec<Source>> {
        let mut networks = Vec::new();
        let mut kinds = Vec::new();
        for path in paths {
            let kind = kind_of(path)?;
            networks.push(match kind {
                SourceKind::Network => Some(Box::new(self.load(path, chosen)?)),
                _ => None,
            });
            kinds.push(kind);
        }
        let samples = networks.iter().any(Option::is_some);
        if !samples && (self.number.is_some() || self.raw || self.class.class.given()) {
            say(
                "note: no network is among the sets, so -n, --raw and --class play no part: all images are taken",
            );
        }
        let spec = self.spec(
            networks
                .iter()
                .flatten()
                .map(|source| source.network.config()),
        )?;
        let mut sources = Vec::new();
        for ((path, kind), network) in paths.iter().zip(kinds).zip(networks) {
            sources.push(match (kind, network) {
                (_, Some(network)) => Source::Network(network),
                (SourceKind::Statistics, _) => {
                    Source::Statistics(path.to_path_buf(), Box::new(Statistics::read(path)?))
                }
                (SourceKind::Arrays, _) => Source::Arrays(ArraySource::open(path)?),
                _ => Source::Folder(Box::new(FolderSource::open(path, spec)?)),
            });
        }
        Ok(sources)
    }

    /// Images that are sampled.
    fn number(&self) -> u64 {
        self.number.unwrap_or(1000)
    }

    fn load(&self, path: &Path, chosen: &Chosen) -> Result<NetworkSource> {
        let uses = self.sampler.uses(SamplerKind::Ddpm);
        let request = self.foreign.request(self.raw, self.sampler.hints(), uses)?;
        let mut network = findings::load(path, &request, chosen.device)?;
        network.set_precision(chosen.precision);
        let which = if self.raw { Weights::Raw } else { Weights::Ema };
        let weights = weights_line(&network, which, path);
        say(&format!("{weights} on {}", chosen.description));
        // Which of two, and found wrong before the hours of sampling.
        (self.classes_of(network, chosen)).with_context(|| text::path(path))
    }

    /// The network with its classes and what guides it.
    ///
    /// # Errors
    /// Classes, guidance or a sampler that it cannot have.
    fn classes_of(&self, network: Pretrained, chosen: &Chosen) -> Result<NetworkSource> {
        let source = NetworkSource {
            classes: self.class.class.classes_beside_data(network.config())?,
            guide: self.class.guidance.load(chosen)?,
            network,
        };
        let (network, guide) = (&source.network, source.guide.as_ref());
        let guided = self.class.guidance.guided(network, guide, true)?;
        guided.labels(&source.classes, 1)?;
        if let Classes::AsOften(_) = source.classes {
            say(
                "classes as often as among the images that the network was trained on; --class all takes as many of each",
            );
        }
        let class = &self.class.class;
        class.tell(network.config(), &source.classes, self.number());
        let sampler = self.sampling(&source).chosen()?;
        self.class.guidance.tell_visited(&sampler.steps.times);
        Ok(source)
    }

    fn sampling<'a>(&self, source: &'a NetworkSource) -> Sampling<'a> {
        let options = self.sampler.options(SamplerKind::Ddpm);
        let sampling = source.network.sampler(options.kind).options(options);
        let sampling = sampling.classes(source.classes.clone());
        let sampling = sampling.guidance(self.class.guidance.asked());
        match &source.guide {
            Some(guide) => sampling.guide_with(guide),
            None => sampling,
        }
        .batch(self.batch)
    }

    /// The form of a folder's images; `None` for their own.
    fn spec<'a>(&self, configs: impl Iterator<Item = &'a RunConfig>) -> Result<Option<ImageSpec>> {
        let mut spec: Option<ImageSpec> = None;
        for config in configs {
            let own = ImageSpec::of(config.model.chw(), &config.data);
            ensure!(
                spec.is_none_or(|spec| spec == own),
                "the two networks make images of different sizes or from differently prepared images, which cannot be \
                 compared"
            );
            spec = Some(own);
        }
        match (self.size, spec) {
            (Some(_), Some(_)) => bail!(
                "--size: beside a network, folders are read as its training images; leave it out"
            ),
            (Some(Size { height, width }), None) => {
                let spec = ImageSpec::rgb(height.max(0) as usize, width.max(0) as usize);
                spec.check().context("--size")?;
                Ok(Some(spec))
            }
            (None, spec) => Ok(spec),
        }
    }
}

/// A folder whose images are brought to the form of those of `like`.
///
/// # Errors
/// What is no folder of images, or holds a network.
pub(super) fn folder_like(dir: &Path, like: &Source, flag: &str) -> Result<Source> {
    let spec = match like {
        Source::Network(network) => {
            let config = network.network.config();
            ImageSpec::of(config.model.chw(), &config.data)
        }
        Source::Folder(folder) => *folder.spec(),
        Source::Loaded(_) | Source::Arrays(_) | Source::Statistics(..) => {
            like.chw().map(|[channels, height, width]| ImageSpec {
                channels,
                ..ImageSpec::rgb(height, width)
            })?
        }
    };
    ensure!(
        !matches!(kind_of(dir)?, SourceKind::Network),
        "{flag} {} holds a network, and a folder of images is wanted",
        text::path(dir)
    );
    Ok(Source::Folder(Box::new(FolderSource::open(
        dir,
        Some(spec),
    )?)))
}

/// The training images of a network, without those that its run held out; best without more than a pass over a folder.
pub(super) fn training_images(config: &RunConfig) -> Result<Source> {
    let cannot = "the training images of the network; name their folder with --data DIR";
    match config.data.folder.as_ref().and_then(Sources::one) {
        Some(folder) if config.data.hold_out.is_none() => {
            let opened = FolderSource::open(
                folder,
                Some(ImageSpec::of(config.model.chw(), &config.data)),
            );
            Ok(Source::Folder(Box::new(opened.context(cannot)?)))
        }
        _ => {
            let bar = DecodeProgress::new();
            let progress = |done, total| bar.set(done, total);
            let seed = config.train.seed;
            let device = Device::Cpu;
            let loaded = data::load(&config.data, &config.model, seed, None, device, &progress);
            bar.finish();
            let loaded = loaded.context(cannot)?;
            tell_of_skipped(&loaded.skipped);
            loaded.notices().iter().for_each(|line| say(line));
            Ok(Source::Loaded(Box::new(LoadedSource(loaded))))
        }
    }
}

/// What a path holds.
enum SourceKind {
    Network,
    Folder,
    Statistics,
    Arrays,
}

/// What a path holds, by its content.
///
/// # Errors
/// Nothing is there.
fn kind_of(path: &Path) -> Result<SourceKind> {
    ensure!(
        path.exists(),
        "there is no {}: want a folder of images, a network (run folder, checkpoint, or a file that `ddpm import` takes), \
         or an .npz file",
        text::path(path)
    );
    if path.is_file() {
        let Ok(arrays) = npz::open(path) else {
            // A network's file may be an archive, too, but not of images.
            let holds_images = ImageFolder::open(path, ImageSpec::rgb(1, 1)).is_ok();
            return Ok(match holds_images {
                true => SourceKind::Folder,
                false => SourceKind::Network,
            });
        };
        return Ok(match arrays.has("mu") {
            true => SourceKind::Statistics,
            false if arrays.has(IMAGES_ARRAY) => SourceKind::Arrays,
            false if path.extension().is_some_and(|ending| ending == "npz") => bail!(
                "{} holds neither images (arr_0, uint8 [N, H, W, C]) nor statistics (mu and sigma)",
                text::path(path)
            ),
            false => SourceKind::Network,
        });
    }
    // A folder of diffusers says what it is.
    let of_diffusers = ["model_index.json", "config.json"];
    let is_foreign = of_diffusers.iter().any(|name| path.join(name).is_file());
    Ok(match is_foreign || pretrained::ours(path)?.is_some() {
        true => SourceKind::Network,
        false => SourceKind::Folder,
    })
}

impl NetworkSource {
    /// Names the weights of the network, and of what it is guided with.
    fn fingerprint(&self) -> Result<String> {
        let mut named = self.network.fingerprint()?.to_hex().to_string();
        if let Some(guide) = &self.guide {
            named += &format!(", guided with {}", guide.fingerprint()?.to_hex());
        }
        Ok(named)
    }
}

impl Source {
    /// Channels, height and width of images in memory or in a file.
    ///
    /// # Errors
    /// Statistics, which are of no images any more.
    fn chw(&self) -> Result<[usize; 3]> {
        let chw = match self {
            Source::Network(network) => network.network.config().model.chw(),
            Source::Folder(folder) => folder.chw(),
            Source::Loaded(loaded) => loaded.chw(),
            Source::Arrays(arrays) => arrays.chw(),
            Source::Statistics(path, _) => bail!(
                "{} holds statistics, and this needs images",
                text::path(path)
            ),
        };
        Ok(chw.map(|n| n as usize))
    }

    /// Passes the images of the set, which `ranks` share, with a progress bar; says afterwards what could not be read.
    ///
    /// # Errors
    /// Those of the set and of `work`, a lost rank, and ranks with other images.
    pub(super) fn with_images<T>(
        &self,
        args: &SourceArgs,
        ranks: &Ranks,
        work: impl FnOnce(&dyn ImageSet) -> Result<T>,
    ) -> Result<T> {
        match self {
            Source::Network(network) => {
                ranks.same("weights", || network.fingerprint())?;
                let (rank, size) = ranks.place();
                let sampling = args.sampling(network).part(rank, size);
                let evaluations = sampling.chosen()?.steps.len() as u64;
                let own = (rank as u64..args.number().div_ceil(args.batch)).step_by(size);
                let steps = evaluations * own.count() as u64;
                let bar = SampleProgress::new("sampling", steps);
                let set = SampledSet {
                    sampling,
                    number: args.number(),
                    seed: args.seed,
                    on_step: &|| bar.step(),
                };
                let done = ranks.with_shared(&set, true, work);
                bar.finish();
                done
            }
            Source::Folder(folder) => ranks.with_shared(&**folder, false, work),
            Source::Arrays(arrays) => ranks.with_shared(arrays, false, work),
            Source::Statistics(path, _) => bail!(
                "{} holds statistics, and this needs images",
                text::path(path)
            ),
            Source::Loaded(loaded) => ranks.with_shared(&**loaded, false, work),
        }
    }

    /// Those of `ranks` that pass its images on: all if they are sampled, the leading process alone if they are only read,
    /// and `None` for a rank that has no part in it.
    pub(super) fn sampled_by<'a>(&self, ranks: &'a Ranks) -> Option<&'a Ranks> {
        match self {
            Source::Network(_) => Some(ranks),
            _ => ranks.leads().then_some(&Ranks::ALONE),
        }
    }

    /// Name of image `place`, after a pass.
    pub(super) fn name(&self, place: usize) -> String {
        match self {
            Source::Network(_) | Source::Arrays(_) | Source::Statistics(..) => number(place),
            Source::Folder(folder) => folder.name(place),
            Source::Loaded(loaded) => loaded.name(place),
        }
    }

    /// Image `place` of a folder or of made images, `[H, W, C]`, after a pass.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(super) fn image(&self, place: usize) -> Result<Array3<u8>> {
        match self {
            Source::Network(_) | Source::Arrays(_) | Source::Statistics(..) => {
                bail!("its images cannot be read one by one; name a folder")
            }
            Source::Folder(folder) => folder.image(place),
            Source::Loaded(loaded) => loaded.image(place),
        }
    }
}

fn number(place: usize) -> String {
    format!("image {place}")
}

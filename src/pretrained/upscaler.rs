//! Makes images larger with a network of super-resolution: of any size, tile by tile where they are larger than its own.

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::{Guided, Pretrained};
use crate::diffusion::{LowResolution, beside, with_noise};
use crate::rng::condition_noise;
use crate::sample::{
    ChosenSampler, Images, NoiseSource, OnStep, SamplerKind, StartFrom, Tiles, sample_batch,
};
use crate::text::plural;

/// Share of a tile that its neighbours have too.
const OVERLAP: i64 = 4;

/// A network that makes images larger, with a sampler.
///
/// ```no_run
/// use ddpm::Pretrained;
/// use ddpm::pretrained::{Guided, Upscaler};
/// use ddpm::sample::{Guidance, SamplerKind, SamplerOptions};
/// use ddpm::tch::{Device, Kind, Tensor};
///
/// let network = Pretrained::load("runs/UPSCALER")?;
/// let options = SamplerOptions::new(SamplerKind::DpmPp2m);
/// let sampler = options.choose(network.config(), || network.measured())?;
/// let upscaler = Upscaler::new(Guided::upscaling(&network, Guidance::NONE, None)?, sampler)?;
/// let low = Tensor::zeros([1, 3, 32, 48], (Kind::Float, Device::Cpu));
/// let large = upscaler.upscale(&low, None, 7, &[0], &mut |_| ())?; // [1, 3, 128, 192] for a factor of 4
/// # let _ = large;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Upscaler<'a> {
    guided: Guided<'a>,
    sampler: ChosenSampler,
    low_resolution: LowResolution,
    factor: i64,
    tile: [i64; 2],
    batch: usize,
    noise: f64,
}

impl<'a> Upscaler<'a> {
    /// Images are seen in tiles of the network's own size, 16 at a time, without noise.
    ///
    /// # Errors
    /// A network that makes images from noise alone; a sampler whose noise is from codebooks.
    pub fn new(guided: Guided<'a>, sampler: ChosenSampler) -> Result<Upscaler<'a>> {
        let config = guided.network().config();
        let upscale = config.upscale.as_ref().with_context(|| {
            format!(
                "{} makes images from noise alone, and cannot make given ones larger; want a network that was trained with \
                 `upscale`",
                guided.network().path.display()
            )
        })?;
        ensure!(
            sampler.kind != SamplerKind::Ddcm,
            "the sampler ddcm takes its noise from codebooks, which have the network's own size; choose another"
        );
        let [_, height, width] = config.model.chw();
        Ok(Upscaler {
            low_resolution: LowResolution::new(upscale),
            factor: upscale.factor,
            tile: [height, width],
            guided,
            sampler,
            batch: 16,
            noise: 0.0,
        })
    }

    /// Tiles of at most `side` pixels in the large image, instead of the network's own size. Larger ones see more at once;
    /// whether the network makes more of them is another matter.
    ///
    /// # Errors
    /// Sides that the network cannot have, or smaller ones than its own.
    pub fn with_tile(mut self, side: i64) -> Result<Upscaler<'a>> {
        let multiple = self.multiple();
        let own = self.own();
        ensure!(
            side >= own[0].max(own[1]) && side % multiple == 0 && side <= MOST,
            "tiles of {side} pixels: want a multiple of {multiple} from {} to {MOST}; the network's own size is {}x{}",
            own[0].max(own[1]),
            own[1],
            own[0]
        );
        self.tile = [side; 2];
        Ok(self)
    }

    /// At most so many tiles in one evaluation of the network.
    pub fn with_batch(mut self, tiles: u64) -> Upscaler<'a> {
        self.batch = tiles.max(1) as usize;
        self
    }

    /// Noise on the images that are made larger, as a share: of images that another network has made, it hides what they
    /// have unlike those that this one was trained on. As in training, up to `upscale.noise`.
    ///
    /// # Errors
    /// Less than 0, or 1 and more.
    pub fn with_noise(mut self, share: f64) -> Result<Upscaler<'a>> {
        ensure!(
            (0.0..1.0).contains(&share),
            "noise {share} on the image: want 0 or more, and less than 1"
        );
        self.noise = share;
        Ok(self)
    }

    /// How many times as high and wide images become.
    pub fn factor(&self) -> i64 {
        self.factor
    }

    /// The network, with its guidance.
    pub fn guided(&self) -> &Guided<'a> {
        &self.guided
    }

    /// The sampler, with the time steps that it visits.
    pub fn sampler(&self) -> &ChosenSampler {
        &self.sampler
    }

    /// Noise on the images that are made larger.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// Images as small as those that the network makes larger, as in training.
    ///
    /// # Shapes
    /// As [`LowResolution::shrink`].
    pub fn shrink(&self, x_0: &Tensor) -> Tensor {
        self.low_resolution.shrink(x_0)
    }

    /// Height and width of the tiles in which an image of `low` pixels (height, width) is made, in the large image, and
    /// how many there are.
    pub fn tiles(&self, low: [i64; 2]) -> ([i64; 2], usize) {
        let tile = self.tile_for(low);
        let tiles = self.cut(self.size_in_whole_tiles(low), tile, Device::Cpu);
        (tile, tiles.len())
    }

    /// The images `factor` times as high and wide. Of image `i`, noise depends on `(seed, i)` alone.
    ///
    /// # Shapes
    /// - `low`: `[N, C, h, w]` f32 in [-1, 1]
    /// - `numbers`: `[N]`, which may be any
    /// - `labels`: `[N]` i64, for class-conditional networks
    /// - returns `[N, C, factor h, factor w]` f32 on the CPU, clipped to [-1, 1]
    ///
    /// # Errors
    /// Other colours than the network's; values that are not finite.
    pub fn upscale(
        &self,
        low: &Tensor,
        labels: Option<&Tensor>,
        seed: u64,
        numbers: &[u64],
        on_step: &mut OnStep,
    ) -> Result<Tensor> {
        let network = self.network();
        let (config, device) = (network.config(), network.device());
        let (_, c, h, w) = low.size4()?;
        let channels = config.model.chw()[0];
        ensure!(
            c == channels,
            "images of {}, and the network makes those of {channels}; want the same",
            plural(c as u64, "channel")
        );
        let size = self.size_in_whole_tiles([h, w]);
        let condition = self.condition(&low.to_device(device), size, seed, numbers);
        let tiles = self.cut(size, self.tile_for([h, w]), device);
        let labels = labels.map(|labels| labels.to_device(device));
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            let input = beside(x_t, Some(&condition));
            tiles.blend(&input, self.batch, &|tiles, of| {
                let labels = labels.as_ref().map(|labels| labels.index_select(0, of));
                let t = t.index_select(0, of);
                self.guided.predict(tiles, &t, labels.as_ref())
            })
        };
        let process = self.sampler.process(&denoiser, &config.diffusion);
        let all = 0..numbers.len() as u64;
        let wanted = Images {
            noise: NoiseSource::Numbered(seed, numbers.to_vec()),
            numbers: all.clone(),
            batch: all.end,
            chw: [c, size[0], size[1]],
            device,
        };
        let (sampler, start) = (&self.sampler.sampler, &StartFrom::Noise);
        let made = sample_batch(&process, sampler, start, &wanted, &all, on_step)?;
        let (h, w) = (h * self.factor, w * self.factor);
        Ok(made.narrow(2, 0, h).narrow(3, 0, w).contiguous())
    }

    /// What the network is given beside x_t, `[N, C, size]`: edges are continued where an image is smaller than a tile.
    fn condition(&self, low: &Tensor, size: [i64; 2], seed: u64, numbers: &[u64]) -> Tensor {
        let (_, c, h, w) = low.size4().expect("four dimensions");
        let (right, below) = (size[1] / self.factor - w, size[0] / self.factor - h);
        let mut low = low.replication_pad2d([0, right, 0, below]);
        if self.noise > 0.0 {
            let chw = [c, h + below, w + right];
            let noise = condition_noise(seed, 0, numbers.iter().copied(), chw, low.device());
            let share = Tensor::full([noise.size()[0]], self.noise, (Kind::Float, low.device()));
            low = with_noise(&low, &share, &noise);
        }
        self.low_resolution.enlarge(&low)
    }

    fn cut(&self, size: [i64; 2], tile: [i64; 2], device: Device) -> Tiles {
        Tiles::new(size, tile, tile[0].min(tile[1]) / OVERLAP, device)
    }

    /// Height and width of the large image, or of a tile if that is more.
    fn size_in_whole_tiles(&self, low: [i64; 2]) -> [i64; 2] {
        let tile = self.tile_for(low);
        [0, 1].map(|side| (low[side] * self.factor).max(tile[side]))
    }

    /// Tiles as large as they may be, but not larger than the image needs, nor smaller than the network's own.
    fn tile_for(&self, low: [i64; 2]) -> [i64; 2] {
        let (own, multiple) = (self.own(), self.multiple());
        [0, 1].map(|side| {
            let large = (low[side] * self.factor) as u64;
            let whole = large.next_multiple_of(multiple as u64) as i64;
            whole.clamp(own[side], self.tile[side].max(own[side]))
        })
    }

    fn own(&self) -> [i64; 2] {
        let [_, height, width] = self.network().config().model.chw();
        [height, width]
    }

    /// What sides are multiples of: by what the network halves images, and by what it makes them larger.
    fn multiple(&self) -> i64 {
        let halvings = self.network().config().model.size_factor();
        let sides = (1..=self.factor).map(|times| times * halvings);
        let mut fitting = sides.filter(|side| side % self.factor == 0);
        fitting.next().expect("their product is a multiple of both")
    }

    fn network(&self) -> &'a Pretrained {
        self.guided.network()
    }
}

/// Longest side of a tile, in pixels.
const MOST: i64 = 8192;

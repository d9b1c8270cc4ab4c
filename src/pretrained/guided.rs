//! A network under classes and guidance, in the form that samplers call.

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::Pretrained;
use crate::config::{ModelConfig, Prediction};
use crate::diffusion::Forward;
use crate::sample::{Classes, Guidance, time_step};
use crate::text::printable;

/// A network, its guidance, and what it is guided with.
#[derive(Debug)]
pub struct Guided<'a> {
    network: &'a Pretrained,
    guidance: Guidance,
    weaker: Weaker<'a>,
}

/// What outputs are pushed away from.
#[derive(Debug)]
enum Weaker<'a> {
    /// Nothing: there is no guidance.
    None,
    /// The network without a class.
    Unconditional(i64),
    /// Another network.
    Other(&'a Pretrained, Option<ToPrediction>),
}

impl<'a> Guided<'a> {
    /// The network as it is.
    fn none(network: &'a Pretrained) -> Guided<'a> {
        Guided {
            network,
            guidance: Guidance::NONE,
            weaker: Weaker::None,
        }
    }

    /// The network, guided with `other`, or without that by its own output for no class.
    ///
    /// # Errors
    /// A network that makes images larger; guidance out of range; none to be had: a network that was not trained without a class now and then; another
    /// network of other images or another schedule, or one that is not used as `guidance` is none.
    pub fn new(
        network: &'a Pretrained,
        guidance: Guidance,
        other: Option<&'a Pretrained>,
    ) -> Result<Guided<'a>> {
        network.refuse_upscaling()?;
        Guided::upscaling(network, guidance, other)
    }

    /// As [`new`](Guided::new), for a network that makes images larger, too.
    ///
    /// # Errors
    /// As [`new`](Guided::new), but for that.
    pub fn upscaling(
        network: &'a Pretrained,
        guidance: Guidance,
        other: Option<&'a Pretrained>,
    ) -> Result<Guided<'a>> {
        let config = network.config();
        guidance.check(config.diffusion.timesteps)?;
        if guidance.is_none() {
            ensure!(
                other.is_none(),
                "`sampler.guide_with` does nothing without guidance; choose a `sampler.guidance` above 1"
            );
            return Ok(Guided::none(network));
        }
        let weaker = match other {
            Some(other) => {
                refuse_other_kind(network, other)?;
                Weaker::Other(other, ToPrediction::between(other, network))
            }
            None => Weaker::Unconditional(without_class(&config.model)?),
        };
        Ok(Guided {
            network,
            guidance,
            weaker,
        })
    }

    /// The network.
    pub fn network(&self) -> &'a Pretrained {
        self.network
    }

    /// The other network that it is guided with.
    pub fn other(&self) -> Option<&'a Pretrained> {
        match &self.weaker {
            Weaker::Other(other, _) => Some(other),
            Weaker::None | Weaker::Unconditional(_) => None,
        }
    }

    /// Guidance.
    pub fn guidance(&self) -> &Guidance {
        &self.guidance
    }

    /// The class of each of `number` images, `[number]` i64 on the CPU; `None` for a network without classes.
    ///
    /// # Errors
    /// Those of [`Classes::of_images`], for this network or what it is guided with; no class, where guidance is away from that.
    pub fn labels(&self, classes: &Classes, number: u64) -> Result<Option<Tensor>> {
        let labels = classes.of_images(&self.network.config().model, number)?;
        if let Weaker::Other(other, _) = &self.weaker
            && other.config().model.classes().is_some()
        {
            (classes.of_images(&other.config().model, 1))
                .context("`sampler.guide_with`: for that network")?;
        }
        ensure!(
            !(matches!(self.weaker, Weaker::Unconditional(_)) && *classes == Classes::None),
            "`sampler.guidance`: there is nothing to guide without a class; leave it out, or name a class"
        );
        Ok(labels)
    }

    /// The denoiser for images of these classes, `[N]` i64 on the network's device; none for a network without.
    pub fn denoiser(&self, classes: Option<Tensor>) -> impl Fn(&Tensor, &Tensor) -> Tensor + '_ {
        move |x_t: &Tensor, t: &Tensor| self.predict(x_t, t, classes.as_ref())
    }

    /// The guided output of the network.
    ///
    /// # Shapes
    /// As [`Pretrained::predict`]; all images are at the same time step. Another network that makes images from noise alone
    /// is not given what is beside x_t.
    ///
    /// # Panics
    /// As [`Pretrained::predict`].
    pub fn predict(&self, x_t: &Tensor, t: &Tensor, classes: Option<&Tensor>) -> Tensor {
        let bare = || self.network.predict(x_t, t, classes);
        // Only an interval has to know where it is.
        let is_for = self.guidance.interval.is_none() || self.guidance.is_for(time_step(t));
        if !is_for {
            return bare();
        }
        let channels = self.network.config().model.chw()[0];
        let (strong, weak) = match (&self.weaker, classes) {
            (Weaker::None, _) => return bare(),
            (Weaker::Unconditional(none), Some(classes)) => {
                let twice = |x: &Tensor| Tensor::cat(&[x, x], 0);
                let none = classes.full_like(*none);
                let classes = Tensor::cat(&[classes, &none], 0);
                let both = self.network.predict(&twice(x_t), &twice(t), Some(&classes));
                let mut halves = both.chunk(2, 0);
                (halves.remove(0), halves.remove(0))
            }
            (Weaker::Unconditional(_), None) => unreachable!("a network with classes gets some"),
            (Weaker::Other(other, to_ours), _) => {
                let model = &other.config().model;
                let classes = model.classes().and(classes);
                let weak = other.predict(&x_t.narrow(1, 0, model.input_channels()), t, classes);
                let weak = weak.narrow(1, 0, channels);
                let weak = match to_ours {
                    Some(to_ours) => to_ours.convert(&x_t.narrow(1, 0, channels), t, &weak),
                    None => weak,
                };
                (bare(), weak)
            }
        };
        let variance = strong.size()[1] - channels;
        let pushed = self
            .guidance
            .push(&strong.narrow(1, 0, channels), &weak.narrow(1, 0, channels));
        match variance {
            0 => pushed,
            // A variance is not a direction.
            more => Tensor::cat(&[pushed, strong.narrow(1, channels, more)], 1),
        }
    }
}

/// The number that stands for no class.
fn without_class(model: &ModelConfig) -> Result<i64> {
    let Some(none) = model.null_class() else {
        let why = match model.classes() {
            Some(_) => "this network was never trained without a class",
            None => "this network is not class-conditional",
        };
        bail!(
            "`sampler.guidance`: {why}, so it has nothing to be guided away from; name a smaller or earlier network with \
             `sampler.guide_with`, or train one with labels (`conditional`) and a `conditional.label_dropout` above 0"
        );
    };
    Ok(none)
}

fn refuse_other_kind(network: &Pretrained, other: &Pretrained) -> Result<()> {
    let (ours, theirs) = (network.config(), other.config());
    ensure!(
        ours.model.chw() == theirs.model.chw(),
        "`sampler.guide_with`: that network makes images of {:?} (channels, height, width), and this one of {:?}; want the \
         same",
        theirs.model.chw(),
        ours.model.chw()
    );
    ensure!(
        theirs.upscale.is_none()
            || theirs.upscale.as_ref().map(|u| u.factor) == ours.upscale.as_ref().map(|u| u.factor),
        "`sampler.guide_with`: that network makes images larger, and this one not in the same way; want another network"
    );
    let same = network.schedule().alphas_cumprod == other.schedule().alphas_cumprod;
    ensure!(
        same,
        "`sampler.guide_with`: that network was trained on another noise schedule; want the same one"
    );
    let (ours, theirs) = (ours.model.classes(), theirs.model.classes());
    ensure!(
        theirs.is_none() || ours == theirs,
        "`sampler.guide_with`: that network has {} classes, and this one {}; want the same, or a network without classes",
        theirs.unwrap_or(0),
        ours.map_or("none".to_owned(), |classes| classes.to_string())
    );
    let names = |network: &Pretrained| {
        let conditional = network.config().conditional.clone();
        conditional.map_or(vec![], |conditional| conditional.classes)
    };
    let (ours, theirs) = (names(network), names(other));
    if let Some((class, (ours, theirs))) = ours
        .iter()
        .zip(&theirs)
        .enumerate()
        .find(|(_, (a, b))| a != b)
    {
        bail!(
            "`sampler.guide_with`: class {class} of that network is {}, and of this one {}; want the same classes",
            printable(theirs),
            printable(ours)
        );
    }
    Ok(())
}

/// From what one network predicts to what another does.
#[derive(Debug)]
struct ToPrediction {
    from: Prediction,
    to: Prediction,
    forward: Forward,
}

impl ToPrediction {
    /// `None` if both predict the same.
    fn between(from: &Pretrained, to: &Pretrained) -> Option<ToPrediction> {
        let of = |network: &Pretrained| network.config().diffusion.prediction;
        (of(from) != of(to)).then(|| ToPrediction {
            from: of(from),
            to: of(to),
            forward: Forward::new(&to.schedule(), to.device()),
        })
    }

    fn convert(&self, x_t: &Tensor, t: &Tensor, out: &Tensor) -> Tensor {
        let forward = &self.forward;
        let x_0 = forward.x_0_hat(self.from, x_t, t, out);
        let eps = || forward.eps_hat(self.from, x_t, t, out);
        match self.to {
            Prediction::X0 => x_0,
            Prediction::Eps => eps(),
            Prediction::V => forward.velocity(&x_0, t, &eps()),
        }
    }
}

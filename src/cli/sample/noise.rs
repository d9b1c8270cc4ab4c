//! Where the noise of sampled images comes from.

use anyhow::{Result, bail, ensure};
use tch::Kind;

use super::SampleCommand;
use crate::formats::safetensors;
use crate::sample::{Choice, ChosenSampler, Codebook, NoiseSource, SamplerKind};

impl SampleCommand {
    /// The noise of --noise, of codebooks, or the seed's.
    pub(super) fn noise(&self, chosen: &ChosenSampler, chw: [i64; 3]) -> Result<NoiseSource> {
        let from_codebook = chosen.kind == SamplerKind::Ddcm;
        let flags = [
            ("--codebook", self.codebook.is_some()),
            ("--codebook-seed", self.codebook_seed.is_some()),
        ];
        for (flag, given) in flags {
            ensure!(
                from_codebook || !given,
                "{flag}: only --sampler ddcm takes its noise from a codebook"
            );
        }
        let Some(path) = &self.noise else {
            return Ok(if from_codebook {
                let codebook = Codebook::new(
                    self.codebook_seed.unwrap_or(0),
                    self.codebook.unwrap_or(64),
                    chw,
                )?;
                NoiseSource::Codebook(codebook, Choice::Seed(self.seed))
            } else {
                NoiseSource::Seed(self.seed)
            });
        };
        let steps = chosen.steps.len();
        let file = safetensors::open(path)?;
        let found = file.tensors.iter().find(|(name, _)| name == "noise");
        let Some((_, noise)) = found else {
            bail!("{} holds no tensor `noise`", path.display());
        };
        let want = [&[steps as i64 + 1, self.number as i64], &chw[..]].concat();
        ensure!(
            noise.kind() == Kind::Float && noise.size() == want,
            "{}: noise is {:?} {:?}, want f32 {want:?} for {steps} steps and -n {}",
            path.display(),
            noise.kind(),
            noise.size(),
            self.number
        );
        Ok(NoiseSource::Given(noise.shallow_clone()))
    }
}

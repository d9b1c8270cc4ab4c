//! What sampled images are made with, for their files.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tch::Tensor;

use super::SampleCommand;
use super::record::Sampled;
use crate::cli::made_with::{MadeWith, as_given};
use crate::cli::out;
use crate::report::SamplerSettings;
use crate::sample::{Classes, NoiseSource};

impl Sampled<'_> {
    /// All of it but what is done with the images later; `sampler` as it was chosen, and the class of each image, `[N]` i64.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(super) fn made_with(
        &self,
        asked: &SampleCommand,
        sampler: SamplerSettings,
        labels: Option<&Tensor>,
    ) -> Result<MadeWith> {
        let noise = match &self.wanted.noise {
            NoiseSource::Codebook(book, _) => Some(format!(
                "codebooks of {} entries, seed {}",
                book.size(),
                asked.codebook_seed.unwrap_or(0)
            )),
            _ => asked.noise.as_deref().map(as_given),
        };
        // Only files hold as much noise as there are images, and only such classes are spread over all of them.
        let depends_on_number =
            asked.noise.is_some() || matches!(self.classes, Classes::AsOften(_));
        MadeWith::new(self.guided, sampler, self.chosen)?
            .with(|all| {
                all.seed = asked.noise.is_none().then_some(asked.seed);
                all.noise = noise;
                all.start = asked.start.settings();
            })
            .with_batches(asked.number, self.wanted.batch, depends_on_number)
            .with_classes(self.network.config(), self.classes, labels)
    }
}

impl SampleCommand {
    /// Prints what was made in this time.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn print_json(&self, made_with: &MadeWith, took: Duration) -> Result<()> {
        let files = self
            .output
            .files()
            .into_iter()
            .chain(self.trajectory.files());
        let files: Vec<String> = files.map(|path| as_given(&path)).collect();
        let made = json!({
            "command": "sample",
            "ddpm": env!("CARGO_PKG_VERSION"),
            "images": self.number,
            "files": files,
            "separate": self.output.separate.as_deref().map(as_given),
            "settings": made_with.settings_of_all(),
            "seconds": took.as_secs_f64(),
        });
        out::json(&serde_json::to_string_pretty(&made)?);
        Ok(())
    }
}

//! Flags for the network whose features images are compared by.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tch::Device;

use crate::evaluate::features::{Dialect, FeatureExtractor, Network, open};

/// A feature network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub(in crate::cli) struct FeatureArgs {
    /// Network whose features are compared
    #[arg(long, value_enum, default_value_t = Network::Inception)]
    features: Network,
    /// Its weights: for inception pytorch-fid's or torch-fidelity's .pth, or NVIDIA's inception-2015-12-05.pt
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// How inception's images are prepared: as pytorch-fid does, or as TensorFlow, torch-fidelity and EDM do
    #[arg(long, value_enum, default_value_t = Dialect::PytorchFid)]
    dialect: Dialect,
}

/// A feature network where pixels can be compared as well.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub(super) struct MaybeFeatureArgs {
    /// Compare what this network sees in the images, instead of their pixels
    #[arg(long, value_enum)]
    features: Option<Network>,
    /// Its weights: for inception pytorch-fid's or torch-fidelity's .pth, or NVIDIA's inception-2015-12-05.pt
    #[arg(long, value_name = "FILE", requires = "features")]
    weights: Option<PathBuf>,
    /// How inception's images are prepared: as pytorch-fid does, or as TensorFlow, torch-fidelity and EDM do
    #[arg(long, value_enum, default_value_t = Dialect::PytorchFid, requires = "features", hide_short_help = true)]
    dialect: Dialect,
}

impl MaybeFeatureArgs {
    /// The network that is asked for.
    pub(super) fn chosen(&self) -> Option<FeatureArgs> {
        self.features.map(|features| FeatureArgs {
            features,
            weights: self.weights.clone(),
            dialect: self.dialect,
        })
    }
}

impl FeatureArgs {
    /// Loads the network.
    ///
    /// # Errors
    /// No file of weights where one is needed, or one that holds others.
    pub(in crate::cli) fn open(&self, device: Device) -> Result<Box<dyn FeatureExtractor>> {
        open(self.features, self.weights.as_deref(), self.dialect, device)
    }

    /// What tells the network from others.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let mut weights = blake3::Hasher::new();
        for file in self.file() {
            weights.update_reader(fs_err::File::open(file)?)?;
        }
        Ok(format!(
            "{}, {}, weights {}",
            self.features,
            self.dialect,
            weights.finalize()
        ))
    }

    /// The file that is read.
    pub(in crate::cli) fn file(&self) -> impl Iterator<Item = &PathBuf> {
        self.weights.iter()
    }
}

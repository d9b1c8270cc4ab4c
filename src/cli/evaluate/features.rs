//! Flags for the network whose features images are compared by.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tch::Device;

use crate::evaluate::features::{Dialect, FeatureExtractor, Network, open};

/// A feature network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub(super) struct FeatureArgs {
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

impl FeatureArgs {
    /// Loads the network.
    ///
    /// # Errors
    /// No file of weights where one is needed, or one that holds others.
    pub(super) fn open(&self, device: Device) -> Result<Box<dyn FeatureExtractor>> {
        open(self.features, self.weights.as_deref(), self.dialect, device)
    }

    /// The file that is read.
    pub(super) fn file(&self) -> impl Iterator<Item = &PathBuf> {
        self.weights.iter()
    }
}

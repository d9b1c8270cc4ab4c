//! The class of all images of a command, for class-conditional networks.

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::{Kind, Tensor};

use crate::pretrained::Pretrained;

/// The class, for class-conditional networks.
#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct ClassArg {
    /// Class, for class-conditional networks
    #[arg(long, value_name = "K")]
    pub(in crate::cli) class: Option<i64>,
}

impl ClassArg {
    /// The network, with the class given, in the form that samplers call.
    ///
    /// # Errors
    /// A class that the network does not have, or no class for a class-conditional network.
    pub(in crate::cli) fn denoiser(
        self,
        network: &Pretrained,
    ) -> Result<impl Fn(&Tensor, &Tensor) -> Tensor + use<'_>> {
        match (self.class, network.meta.config.model.classes()) {
            (Some(_), None) => {
                bail!("--class: this network is not class-conditional; leave it out")
            }
            (None, Some(known)) => bail!(
                "this network is class-conditional: choose a class with --class 0 to {}",
                known - 1
            ),
            (Some(class), Some(known)) => ensure!(
                (0..known).contains(&class),
                "--class {class}: this network has the classes 0 to {}",
                known - 1
            ),
            (None, None) => (),
        }
        Ok(move |x: &Tensor, t: &Tensor| {
            let all = |class| Tensor::full([x.size()[0]], class, (Kind::Int64, x.device()));
            network.predict(x, t, self.class.map(all).as_ref())
        })
    }
}

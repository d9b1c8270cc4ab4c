//! One class for all images of a command.

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::{Kind, Tensor};

use crate::pretrained::Pretrained;

/// The class, for models that are told one.
#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct ClassArg {
    /// For models that are told a class: which one
    #[arg(long, value_name = "K")]
    pub(in crate::cli) class: Option<i64>,
}

impl ClassArg {
    /// The network as samplers see it.
    ///
    /// # Errors
    /// A class that the network does not know, or none where it wants one.
    pub(in crate::cli) fn denoiser(
        self,
        network: &Pretrained,
    ) -> Result<impl Fn(&Tensor, &Tensor) -> Tensor + use<'_>> {
        match (self.class, network.meta.config.model.classes()) {
            (Some(_), None) => bail!("--class: this model knows no classes; leave it out"),
            (None, Some(known)) => bail!(
                "this model is told a class: choose one with --class 0 to {}",
                known - 1
            ),
            (Some(class), Some(known)) => ensure!(
                (0..known).contains(&class),
                "--class {class}: this model knows the classes 0 to {}",
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

//! How good a network is, and how near one set of images is to another: one measure a file.
//!
//! - Of a network on data: the variational [`bound`] in bits per dimension and the likelihood by the probability-flow
//!   [`ode`] (its continuous counterpart), and the held-out loss over t ([`loss_by_t`]).
//! - Of two sets of images, by what a network sees in them ([`features`]): [`frechet`] (FID) from their [`moments`],
//!   [`kernel`] (KID), [`precision`] and recall, and of one set the [`inception_score`]; [`seen`] is the pass that all
//!   need.
//! - Of two sets of images without any network: [`sliced`] Wasserstein distances.
//! - Of generated images and those of the training: [`neighbours`], to see whether a network copies.
//!
//! Networks are closures ([`Denoiser`](crate::sample::Denoiser)) and sets of images are [`ImageSet`]s, so all of it can
//! be tested against closed forms. Statistics are f64 on the host (`ndarray`); eigenvalues are libtorch's.

pub mod bound;
pub mod features;
pub mod frechet;
mod image_set;
pub mod inception_score;
pub mod kernel;
pub mod loss_by_t;
pub mod moments;
pub mod neighbours;
mod not_finite;
mod numpy_random;
pub mod ode;
pub mod precision;
pub mod seen;
mod shared_set;
pub mod sliced;
mod strata;

pub use image_set::{ImageSet, Stored};
pub use not_finite::NotFiniteFor;
pub use shared_set::SharedSet;
pub use strata::Mean;

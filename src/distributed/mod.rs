//! Several processes that train or sample as one: each is a *rank*, on a GPU or on a share of a CPU, and together they
//! are a group, on PyTorch's own engine (libtorch's c10d, with Gloo between CPUs and NCCL between GPUs).
//!
//! Whoever starts PyTorch programs starts these: torchrun, SLURM or mpirun. [`Place::of_environment`] reads from the
//! environment which rank this process is, [`Group::join`] meets the others. A process by itself is in no group, and
//! nothing of c10d is used.
//!
//! # What ranks say to each other
//!
//! - *Keys in a store*, which torchrun's agent or rank 0 serves: who is there, what is compared, what rank 0 hands on.
//! - *Collectives*, which all ranks begin in the same order: gradients ([`Reducer`]), weights, and what they agree on.
//! - *Signs of life* (`heart.rs`): each rank gives one twice a second, and watches the next rank's. That is what makes
//!   waiting safe: a rank waits for others however long they take, as long as they live, and no longer.
//!
//! A rank that fails says so in the store; one that is killed or hangs is missed. All others then stop with an error that
//! names it ([`RankLost`]). One that fails before it has met the others says so too ([`fail_before_meeting`]).

mod error_file;
mod group;
mod heart;
mod meet;
mod place;
mod reduce;
mod store;

pub use error_file::write_error_file;
pub use group::{Ask, Group};
pub use meet::fail_before_meeting;
pub use place::{Launcher, Place};
pub use reduce::{Reduce, Reducer};

/// Another rank is gone, or has failed: this one cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RankLost(pub(crate) String);

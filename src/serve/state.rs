//! What requests and the worker share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::access::Access;
use super::catalogue::Catalogue;
use super::jobs::Jobs;
use super::memory::Limit;
use super::uploads::Uploads;
use super::watch::Runs;

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) access: Access,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) jobs: Jobs,
    pub(super) uploads: Uploads,
    /// Places for those that arrive: more wait, and take no memory.
    pub(super) arriving: Semaphore,
    pub(super) runs: Arc<Runs>,
    pub(super) limit: Limit,
    /// Longest time of a job.
    pub(super) job_limit: Duration,
}

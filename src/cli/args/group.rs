//! Flags of commands that several processes can run together, and the group of this one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use clap::Args;

use crate::cli::flags::describe_error;
use crate::cli::out;
use crate::device::Chosen;
use crate::distributed::{Group, Place, RankLost, fail_before_meeting};

/// How ranks, started by torchrun, srun or mpirun, work together.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Several GPUs or hosts")]
pub(in crate::cli) struct GroupArgs {
    /// Under torchrun, srun or mpirun: stop when another rank has given no sign of life for this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = limit, hide_short_help = true)]
    rank_timeout: Duration,
}

/// Below this, a rank that is only slow would be taken for dead.
const SHORTEST: Duration = Duration::from_secs(5);

fn limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match limit < SHORTEST {
        true => Err(format!("{text} is too short; want 5s or more")),
        false => Ok(limit),
    }
}

impl GroupArgs {
    /// Meets the other ranks; `None` for a process by itself.
    pub(in crate::cli) fn join(
        self,
        place: Option<Place>,
        chosen: &Chosen,
    ) -> Result<Option<Arc<Group>>> {
        let Some(place) = place else {
            return Ok(None);
        };
        if place.rank > 0 {
            out::begin_lines_with(format!("rank {}: ", place.rank));
        }
        Group::join(place, self.rank_timeout, chosen.device, &out::say).map(Some)
    }
}

/// Does `work`, which comes before a rank meets the others; they hear of its failure too.
pub(in crate::cli) fn before_meeting<T>(
    place: Option<&Place>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let result = work();
    if let (Some(place), Err(error)) = (place, &result) {
        fail_before_meeting(place, &describe_error(error));
    }
    result
}

/// Runs `work` as a rank of `group`, if there is one: the others hear of its failure, and it leaves in order after its
/// success.
pub(in crate::cli) fn as_rank<T>(
    group: Option<&Arc<Group>>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let result = work();
    if let Some(group) = group {
        match &result {
            Ok(_) => group.leave(),
            Err(error) => tell(group, error),
        }
    }
    result
}

fn tell(group: &Group, error: &Error) {
    match error.is::<RankLost>() {
        true => group.linger(),
        false => group.fail(&describe_error(error)),
    }
}

/// The command line of this process, a flag and its value a line, without what may differ from host to host; of the file
/// that `--config` names, the content counts too.
///
/// # Errors
/// A `config` that cannot be read.
pub(in crate::cli) fn asked(config: Option<&PathBuf>) -> Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for argument in std::env::args_os().skip(1) {
        let argument = argument.to_string_lossy().into_owned();
        match lines.last_mut() {
            Some(flag) if flag.starts_with("--") && !argument.starts_with('-') => {
                *flag = format!("{flag} {argument}");
            }
            _ => lines.push(argument),
        }
    }
    lines.retain(|line| !line.starts_with("--cache") && !line.starts_with("--log"));
    if let Some(file) = config {
        let content = fs_err::read(file)?;
        lines.push(format!(
            "a --config whose hash is {}",
            blake3::hash(&content)
        ));
    }
    Ok(lines.join("\n"))
}

//! What reading a foreign file found, told on the terminal.

use std::path::Path;

use anyhow::Result;
use tch::Device;

use crate::interop::{MissingHints, Report, Request};
use crate::pretrained::Network;

/// Loads a network and tells what was found in a file of another program, also where that is not enough to load it.
///
/// # Errors
/// As [`Network::load`].
pub(super) fn load(argument: &Path, request: &Request, device: Device) -> Result<Network> {
    let network = Network::load(argument, request, device).inspect_err(tell_of_missing)?;
    network.report.iter().for_each(tell);
    Ok(network)
}

/// Tells what was found in a file that leaves too much open.
pub(super) fn tell_of_missing(error: &anyhow::Error) {
    if let Some(missing) = error.downcast_ref::<MissingHints>() {
        tell(&missing.report);
    }
}

/// Tells people what was found in a foreign file, on stderr.
pub(super) fn tell(report: &Report) {
    for fact in &report.facts {
        eprintln!("  {}: {} (from {})", fact.what, fact.value, fact.from);
    }
    for assumption in &report.assumptions {
        eprintln!("  assumed: {assumption}");
    }
}

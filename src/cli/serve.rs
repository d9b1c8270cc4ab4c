//! `ddpm serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::args::compute::ComputeArgs;
use super::args::run::run_or_latest;
use super::out::{self, say};
use crate::checkpoint::{RUNS, seems_a_run};
use crate::serve::{Options, Server};

/// Bytes of a GiB, the unit of --memory.
const GIB: f64 = (1u64 << 30) as f64;

/// Serve a page on this machine: watch runs, and try networks
///
/// The page shows how runs go, makes images and shows each step of it, interpolates between seeds, and inverts, varies and fills in
/// images. It is for whoever opens the address that is printed: others lack its token.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm serve                                  # the runs in runs/
  ddpm serve runs/NAME model.safetensors
  ssh -L 7788:127.0.0.1:7788 HOST             # a page on another machine: then open the address here")]
#[command(
    after_long_help = "Memory: one network at a time is on the device, and dropped after 5 minutes without a job. It and its images \
take at most --memory, or else half of what is free at the start, so that a training run beside keeps the rest; a job that needs \
more, or more than is free when it begins, is refused, and memory is given back after each job. On a CPU half of the cores compute \
(--threads), at a lower priority (--nice).

Ctrl-C ends it with exit code 130, SIGTERM with 143; jobs that wait or run are lost.

Examples:
  ddpm serve                                  # the runs in runs/
  ddpm serve runs/NAME model.safetensors
  ssh -L 7788:127.0.0.1:7788 HOST             # a page on another machine: then open the address here"
)]
pub(super) struct ServeCommand {
    /// Run folders, folders of runs, checkpoints and weights files [default: the runs in runs/]
    #[arg(value_name = "RUN|CKPT", value_parser = run_or_latest())]
    networks: Vec<PathBuf>,
    /// Port; 0 for any that is free
    #[arg(long, default_value_t = 7788, value_name = "PORT")]
    port: u16,
    /// Address to listen at; any other than 127.0.0.1 or ::1 opens the page to other machines, without encryption
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    listen: IpAddr,
    /// Most memory for a network and its images on the device, in GiB [default: half of what is free at the start]
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    memory: Option<u64>,
    /// Longest time of a job
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration, hide_short_help = true)]
    job_limit: Duration,
    /// How much lower than usual the priority of what computes is on a CPU
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=19), hide_short_help = true)]
    nice: i32,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl ServeCommand {
    pub(super) fn run(&self) -> Result<()> {
        let device = self.compute.half().choose()?;
        for path in &self.networks {
            // A name that is mistyped is better told at once than on the page.
            fs_err::metadata(path).context("nothing to serve")?;
        }
        let (mut folders, networks) = partition(&self.networks);
        if self.networks.is_empty() {
            folders.push(RUNS.into());
        }
        let server = Server::new(Options {
            networks,
            folders,
            address: self.listen,
            port: self.port,
            device,
            memory_bytes: self.memory,
            job_limit: self.job_limit,
            niceness: self.nice,
        })?;
        for note in server.notes() {
            say(&note);
        }
        if self.networks.is_empty() {
            say(&format!(
                "the runs in {RUNS}/, with those that begin later; name others, or files: ddpm serve RUN|CKPT"
            ));
        }
        say(
            "open this address in a browser of this machine; it holds the token. Ctrl-C ends the server",
        );
        out::result(&server.url());
        server.run()
    }
}

/// Folders of runs, which may be there already or not; and all else, folders of diffusers among it.
fn partition(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let is_pipeline = |path: &Path| {
        let parts = ["model_index.json", "config.json", "unet"];
        parts.iter().any(|part| path.join(part).exists())
    };
    let holds_runs = |path: &PathBuf| path.is_dir() && !seems_a_run(path) && !is_pipeline(path);
    paths.iter().cloned().partition(holds_runs)
}

/// A number of GiB as bytes.
fn gibibytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => Ok((number * GIB) as u64),
        _ => Err("want a number of GiB above 0, for example 2 or 0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_gibibytes() {
        assert_eq!(gibibytes("2"), Ok(2 << 30));
        assert_eq!(gibibytes("0.5"), Ok(1 << 29));
        for wrong in ["0", "-1", "NaN", "inf", "2G", "1e9"] {
            assert!(gibibytes(wrong).is_err(), "{wrong}");
        }
    }
}

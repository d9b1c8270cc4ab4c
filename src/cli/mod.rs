//! The command line: clap structs to validated configs, one file a command.

mod bench;
mod compute;
mod doctor;
mod export;
mod import;
mod inspect;
mod network;
mod predict;
mod sample;
mod settings;
mod train;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// Train and sample denoising diffusion models, on libtorch.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainCommand>),
    Sample(sample::SampleCommand),
    Predict(predict::PredictCommand),
    Export(export::ExportCommand),
    Import(import::ImportCommand),
    Inspect(inspect::InspectCommand),
    Doctor(doctor::DoctorCommand),
    Bench(Box<bench::BenchCommand>),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Runs the command; the exit code is 0, or 128 + the signal that stopped a training run.
    ///
    /// # Errors
    /// Whatever the command cannot do, with what to do about it.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Train(command) => return command.run(),
            Command::Sample(command) => command.run()?,
            Command::Predict(command) => command.run()?,
            Command::Export(command) => command.run()?,
            Command::Import(command) => command.run()?,
            Command::Inspect(command) => command.run()?,
            Command::Doctor(command) => command.run(),
            Command::Bench(command) => command.run()?,
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "ddpm", &mut std::io::stdout());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! The command line: clap structs to validated configs, one file per command.

mod advice;
mod args;
mod bench;
mod calibrate;
mod command_line;
mod compare;
mod config;
mod decode;
mod doctor;
mod encode;
mod evaluate;
mod export;
mod findings;
mod flags;
mod import;
mod inspect;
mod interpolate;
mod invert;
mod log_file;
mod made_with;
mod out;
mod outputs;
mod predict;
mod progress;
mod replay;
mod report;
mod runs;
mod sample;
mod serve;
mod show;
mod signals;
mod terminal;
mod train;
mod upscale;

pub use flags::describe_error;
pub use out::fail;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{CommandFactory, Parser, Subcommand};

use args::messages::MessageArgs;

use crate::distributed::{Place, fail_before_meeting, write_error_file};
use crate::memory::{message_in, ran_out};
use crate::text;

/// Train and sample denoising diffusion models, on libtorch.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(
    after_help = "`ddpm COMMAND -h` lists the main flags of a command, `--help` all of them."
)]
#[command(
    after_long_help = "`ddpm COMMAND -h` lists the main flags of a command, `--help` all of them.

Exit codes:
  0    done
  1    error
  2    usage error: wrong flags or values
  101  a bug in this program
  124  train: --time-limit (saved and stopped)
  129  SIGHUP (train: saved and stopped)
  130  Ctrl-C (train: saved and stopped)
  141  nobody reads what is printed any more
  143  SIGTERM (train: saved and stopped)
  152  SIGXCPU (train: saved and stopped)
  153  SIGXFSZ (train: saved and stopped)"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    messages: MessageArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainCommand>),
    Sample(Box<sample::SampleCommand>),
    Upscale(Box<upscale::UpscaleCommand>),
    Interpolate(Box<interpolate::InterpolateCommand>),
    Invert(Box<invert::InvertCommand>),
    Encode(Box<encode::EncodeCommand>),
    Decode(Box<decode::DecodeCommand>),
    Calibrate(Box<calibrate::CalibrateCommand>),
    Evaluate(evaluate::EvaluateCommand),
    Compare(Box<compare::CompareCommand>),
    Predict(predict::PredictCommand),
    Export(export::ExportCommand),
    Import(import::ImportCommand),
    Inspect(inspect::InspectCommand),
    Config(config::ConfigCommand),
    Replay(replay::ReplayCommand),
    Report(report::ReportCommand),
    Runs(runs::RunsCommand),
    Serve(serve::ServeCommand),
    Doctor(doctor::DoctorCommand),
    Bench(Box<bench::BenchCommand>),
    /// Print a completion script for a shell
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Refuses to do on every rank of a group what is work for one process: all would write the same files.
    fn refuse_ranks(&self) -> Result<()> {
        let for_one = match self {
            Command::Upscale(_)
            | Command::Interpolate(_)
            | Command::Invert(_)
            | Command::Encode(_)
            | Command::Decode(_)
            | Command::Calibrate(_)
            | Command::Compare(_)
            | Command::Predict(_)
            | Command::Export(_)
            | Command::Import(_)
            | Command::Replay(_)
            | Command::Report(_)
            | Command::Runs(_)
            | Command::Serve(_) => true,
            Command::Evaluate(command) => !command.is_shared(),
            _ => false,
        };
        if !for_one {
            return Ok(());
        }
        match Place::of_environment()? {
            Some(place) => bail!(
                "this command is work for one process, and this is {place}, started by {}; run it without",
                place.launcher
            ),
            None => Ok(()),
        }
    }
}

impl Cli {
    /// Parses the arguments of this process; in an error, they are quoted with escapes.
    ///
    /// # Errors
    /// Wrong flags or values, or a request for help.
    fn parse_arguments() -> Result<Cli, clap::Error> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        Cli::try_parse_from(&arguments).map_err(|usage| {
            let shown = arguments.iter().map(|a| text::path(Path::new(a)));
            Cli::try_parse_from(shown).err().unwrap_or(usage)
        })
    }

    /// Parses the arguments of this process and runs the command; the exit code is that of [`Cli::run`], or clap's.
    ///
    /// # Errors
    /// The failure of the command; the message suggests a remedy.
    pub fn parse_and_run() -> Result<ExitCode> {
        command_line::of_program(Cli::command);
        match Cli::parse_arguments() {
            Ok(cli) => cli.run(),
            Err(usage) if usage.use_stderr() => {
                // What cannot be printed must not end in a panic.
                let _ = usage.print();
                tell_ranks(&usage);
                Ok(ExitCode::from(usage.exit_code() as u8))
            }
            Err(help) => {
                out::print_help(&help);
                Ok(out::exit_code(ExitCode::SUCCESS))
            }
        }
    }

    /// Runs the command; the exit code is 0, 128 + the signal that stopped a training run, or 141 if nobody reads what
    /// it prints. What else runs when a signal comes ends there, with 128 + the signal.
    ///
    /// # Errors
    /// The failure of the command; the message suggests a remedy.
    pub fn run(self) -> Result<ExitCode> {
        let started = Instant::now();
        self.messages.apply()?;
        out::detail(&format!(
            "ddpm {}, libtorch {}",
            env!("CARGO_PKG_VERSION"),
            env!("DDPM_LIBTORCH_VERSION")
        ));
        let done = self.run_command();
        out::detail(&format!(
            "all of it took {:.2} s",
            started.elapsed().as_secs_f64()
        ));
        done
    }

    fn run_command(self) -> Result<ExitCode> {
        signals::listen()?;
        self.command.refuse_ranks()?;
        match self.command {
            Command::Train(command) => return command.run(),
            Command::Sample(command) => command.run()?,
            Command::Upscale(command) => command.run()?,
            Command::Interpolate(command) => command.run()?,
            Command::Invert(command) => command.run()?,
            Command::Encode(command) => command.run()?,
            Command::Decode(command) => command.run()?,
            Command::Calibrate(command) => command.run()?,
            Command::Evaluate(command) => command.run()?,
            Command::Compare(command) => command.run()?,
            Command::Predict(command) => command.run()?,
            Command::Export(command) => command.run()?,
            Command::Import(command) => command.run()?,
            Command::Inspect(command) => command.run()?,
            Command::Config(command) => command.run()?,
            Command::Replay(command) => command.run()?,
            Command::Report(command) => command.run()?,
            Command::Runs(command) => command.run()?,
            Command::Serve(command) => command.run()?,
            Command::Doctor(command) => command.run()?,
            Command::Bench(command) => command.run()?,
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "ddpm", &mut script);
                out::write(&script);
            }
        }
        Ok(out::exit_code(ExitCode::SUCCESS))
    }
}

/// Commands whose ranks meet.
const MEETING: [&str; 4] = ["train", "sample", "bench", "evaluate"];

/// Tells torchrun of a usage error, and the ranks that may wait for this one.
fn tell_ranks(usage: &clap::Error) {
    let said = usage.to_string();
    write_error_file(&said);
    // Flags that all commands have may come before its name.
    let meets =
        (std::env::args_os().skip(1)).any(|word| MEETING.iter().any(|known| word == *known));
    if let (true, Ok(Some(place))) = (meets, Place::of_environment()) {
        let why = said.lines().next().unwrap_or_default();
        fail_before_meeting(&place, why.trim_start_matches("error: "));
    }
}

/// libtorch's message from the text of a panic of tch, with what to do about it; `None` for other panics.
pub fn libtorch_message(panic: &str) -> Option<String> {
    let of_tch = panic.contains("Torch(\"");
    of_tch.then(|| libtorch_said(message_in(panic)))
}

/// An error of libtorch, without the backtrace that follows its first line, and with what to do about it.
fn libtorch_said(said: &str) -> String {
    let said = said
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.');
    let advice = if ran_out(said) {
        "; lower --batch, or split it with --accumulate (training)"
    } else {
        ""
    };
    format!("libtorch: {said}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_of_tch_become_errors() {
        let panic = std::panic::catch_unwind(|| {
            let _ =
                tch::Tensor::from_slice(&[1f32, 2.0]) + tch::Tensor::from_slice(&[1f32, 2.0, 3.0]);
        });
        let payload = panic.unwrap_err();
        let message = libtorch_message(payload.downcast_ref::<String>().unwrap()).unwrap();
        assert!(
            message.starts_with("libtorch: The size of tensor a (2)"),
            "{message}"
        );
        assert!(!message.contains("frame #"), "{message}");
        let memory = r#"called `Result::unwrap()` on an `Err` value: Torch("CUDA out of memory. Tried\nframe #0")"#;
        assert!(
            libtorch_message(memory)
                .unwrap()
                .ends_with("--accumulate (training)")
        );
        assert_eq!(libtorch_message("index out of bounds"), None);
    }

    #[test]
    fn panics_of_our_own_operations_become_errors_like_tchs() {
        let like = (tch::Kind::Float, tch::Device::Cpu);
        let weight = tch::Tensor::zeros([1, 1, 3, 3], like);
        // More bytes than there are addresses.
        let x =
            tch::Tensor::zeros([1, 1, 1, 1], like).expand([1 << 30, 1, 1 << 12, 1 << 12], false);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            crate::native::conv3x3(&x, &weight, None).expect("shapes are right")
        }));
        let payload = panic.unwrap_err();
        let message = libtorch_message(payload.downcast_ref::<String>().unwrap()).unwrap();
        assert!(message.ends_with("--accumulate (training)"), "{message}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

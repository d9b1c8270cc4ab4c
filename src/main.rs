//! The program: parse, dispatch, one place where errors end.

use std::process::ExitCode;

use clap::Parser;
use ddpm::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The program: parse, dispatch, one place where errors end.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;

// Its malloc, free and posix_memalign take the place of the C library's for all libraries of this program, libtorch
// among them. The library leaves that choice to the programs that use it.
#[cfg(feature = "jemalloc")]
use tikv_jemalloc_sys as _;

use ddpm::cli::{Cli, describe_error, fail, libtorch_message};

fn main() -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if message_of(info).is_none() {
            usual(info);
        }
    }));
    match panic::catch_unwind(Cli::parse_and_run) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => fail(&describe_error(&error)),
        Err(payload) => match payload
            .downcast_ref::<String>()
            .and_then(|text| libtorch_message(text))
        {
            Some(message) => fail(&message),
            None => ExitCode::from(101),
        },
    }
}

/// Operations of tch, and those of ours in a network, panic with libtorch's message, for example when memory runs out;
/// that is an error like others, not a bug of this program.
fn message_of(info: &PanicHookInfo) -> Option<String> {
    libtorch_message(info.payload().downcast_ref::<String>()?)
}

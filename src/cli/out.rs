//! The terminal: every line that the program prints goes through here; none can end it, and no name in it can steer the
//! terminal.
//!
//! What cannot be written to stderr is dropped: messages are not worth a training run. What cannot be written to stdout
//! is remembered, so that a command finishes its work, files included, and then says so with its exit code
//! ([`exit_code`]).
//!
//! Nothing is in colour but clap's help and its errors, on a terminal, unless `NO_COLOR` is set.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use indicatif::MultiProgress;

use super::log_file::{Level, LogFile};
use crate::distributed::write_error_file;
use crate::text;

/// Exit code where nobody reads stdout any more, as of a program that SIGPIPE ends.
const CLOSED_PIPE: u8 = 128 + 13;

/// All bars of the process, one below the other.
pub(super) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The first failure to write to stdout.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// True if stderr is a terminal that can move its cursor, which bars need; others get lines.
pub(super) static HAS_BARS: LazyLock<bool> = LazyLock::new(|| {
    let capable = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    capable && io::stderr().is_terminal()
});

/// What each line on stderr begins with: which rank says it.
static BEGINNING: OnceLock<String> = OnceLock::new();

/// True for a rank whose notes and bars another rank shows for all.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// True if only errors and results are wanted.
static QUIET: AtomicBool = AtomicBool::new(false);

/// True if details are wanted.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Where all that is said goes too.
static LOG: OnceLock<LogFile> = OnceLock::new();

/// From here on shows and logs nothing but why the program ends: another process says it.
pub(super) fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

/// From here on shows nothing on stderr but why the program ends.
pub(super) fn quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// From here on says details.
pub(super) fn verbose() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// From here on writes all that is said to this file too.
pub(super) fn log_to(file: LogFile) {
    // Once per process.
    let _ = LOG.set(file);
}

/// True if bars and notes are not to be shown.
pub(super) fn is_silent() -> bool {
    HUSHED.load(Ordering::Relaxed) || QUIET.load(Ordering::Relaxed)
}

fn log(level: Level, text: &str) {
    if let Some(file) = LOG.get() {
        let beginning = BEGINNING.get().map_or("", String::as_str);
        file.add(level, &format!("{beginning}{text}"));
    }
}

/// Has each line on stderr begin with `text` from here on.
pub(super) fn begin_lines_with(text: String) {
    // Once per process.
    let _ = BEGINNING.set(text);
}

/// Prints a line on stderr, above the bars.
pub(super) fn say(text: &str) {
    if HUSHED.load(Ordering::Relaxed) {
        return;
    }
    log(Level::of(text), text);
    if !is_silent() {
        show(text);
    }
}

/// Says a detail, with --verbose.
pub(super) fn detail(text: &str) {
    if VERBOSE.load(Ordering::Relaxed) && !HUSHED.load(Ordering::Relaxed) {
        log(Level::Detail, text);
        show(text);
    }
}

/// Says how far the work is: to the log, and where there are no bars on stderr.
pub(super) fn progress(text: &str) {
    match *HAS_BARS {
        true if HUSHED.load(Ordering::Relaxed) => {}
        true => log(Level::Info, text),
        false => say(text),
    }
}

fn show(text: &str) {
    let beginning = BEGINNING.get().map_or("", String::as_str);
    let text = format!("{beginning}{}", text::message(text));
    // Not `suspend`, which panics when the terminal is gone.
    let _ = match *HAS_BARS {
        true => BARS.println(text),
        false => writeln!(io::stderr().lock(), "{text}"),
    };
}

/// Prints a line on stdout: a result, which other programs may read.
pub(super) fn result(text: &str) {
    log(Level::Info, text);
    write(format!("{}\n", text::message(text)).as_bytes());
}

/// Prints lines of text on stdout.
pub(super) fn lines(text: &str) {
    write(text::printable_lines(text).as_bytes());
}

/// Prints JSON on stdout.
pub(super) fn json(json: &str) {
    write(format!("{}\n", text::json(json)).as_bytes());
}

/// Writes these bytes to stdout.
pub(super) fn write(bytes: &[u8]) {
    if failed().is_none() {
        let mut stdout = io::stdout().lock();
        // Flushed, as an error that appears while the process exits is lost.
        remember(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }
}

fn remember(written: io::Result<()>) {
    if let Err(error) = written {
        failed().get_or_insert(error);
    }
}

fn failed() -> MutexGuard<'static, Option<io::Error>> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints clap's help or version on stdout, in colour on a terminal.
pub(super) fn print_help(help: &clap::Error) {
    remember(help.print());
}

/// Prints why the program ends, on stderr, and tells torchrun.
pub fn fail(message: &str) -> ExitCode {
    write_error_file(message);
    let said = format!("error: {message}");
    log(Level::Error, &said);
    show(&said);
    ExitCode::FAILURE
}

/// The exit code of a command that did its work: `done`, or one that says that stdout could not be written.
pub(super) fn exit_code(done: ExitCode) -> ExitCode {
    match &*failed() {
        None => done,
        Some(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(CLOSED_PIPE),
        Some(error) => fail(&format!("cannot write to stdout: {error}")),
    }
}

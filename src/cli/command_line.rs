//! The command line of this process, to be said again: without what does not decide its result, and with what it stands for.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::OnceLock;

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command};

use crate::text;

/// Builds the program's commands, of which this file must not know.
static PROGRAM: OnceLock<fn() -> Command> = OnceLock::new();

/// Longest line that is said again, in bytes.
const MAX_BYTES: usize = 8192;

/// Flags of any command that do not decide what it makes.
const OF_OUTPUT: [&str; 20] = [
    "out",
    "separate",
    "out_tensor",
    "force",
    "no_metadata",
    "json",
    "show",
    "trajectory",
    "strip",
    "x0",
    "frames",
    "strip_frames",
    "frame_millis",
    "rank_timeout",
    "quiet",
    "verbose",
    "log",
    "log_format",
    "help",
    "version",
];

/// Says how the program's commands are built.
pub(super) fn of_program(commands: fn() -> Command) {
    // Once per process.
    let _ = PROGRAM.set(commands);
}

/// Flags and arguments of a command, with their values, in the order of its help.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CommandLine {
    command: String,
    given: Vec<Given>,
}

#[derive(Debug, Clone, PartialEq)]
struct Given {
    id: String,
    /// `--flag` or `-f`; nothing for an argument without one.
    flag: Option<String>,
    /// Whether a value is part of the flag's word.
    joined: bool,
    values: Vec<OsString>,
}

impl CommandLine {
    /// That of this process, without the flags of its output; `None` where it was not parsed from the process's arguments.
    pub(super) fn of_process() -> Option<CommandLine> {
        let commands = PROGRAM.get()?;
        CommandLine::parse(commands(), std::env::args_os())
    }

    fn parse(program: Command, arguments: impl Iterator<Item = OsString>) -> Option<CommandLine> {
        // As they were typed: what parsing would make of them has been said and done.
        let plain = |arg: Arg| match takes_value(&arg) {
            true => arg.value_parser(ValueParser::os_string()),
            false => arg,
        };
        let mut program = program
            .mut_args(plain)
            .mut_subcommands(|command| command.mut_args(plain));
        let matches = program.try_get_matches_from_mut(arguments).ok()?;
        let (name, matches) = matches.subcommand()?;
        let command = program.find_subcommand(name)?;
        let given = |arg: &Arg| -> Option<Given> {
            let id = arg.get_id().as_str();
            let typed = matches.value_source(id) == Some(ValueSource::CommandLine);
            if OF_OUTPUT.contains(&id) || !typed {
                return None;
            }
            let values = takes_value(arg).then(|| matches.get_raw(id)).flatten();
            let mut values: Vec<OsString> =
                values.into_iter().flatten().map(OsStr::to_owned).collect();
            if arg.get_value_delimiter().is_some() {
                values = vec![values.join(OsStr::new(","))];
            }
            Some(Given {
                id: id.to_owned(),
                flag: flag_of(arg),
                joined: arg.is_require_equals_set(),
                values,
            })
        };
        Some(CommandLine {
            command: name.to_owned(),
            given: command.get_arguments().filter_map(given).collect(),
        })
    }

    /// True if it was given.
    pub(super) fn has(&self, id: &str) -> bool {
        self.given.iter().any(|given| given.id == id)
    }

    /// Puts this in the place of what was given; at the end, if nothing was.
    pub(super) fn set(&mut self, id: &str, flag: Option<&str>, values: Vec<OsString>) {
        match self.given.iter_mut().find(|given| given.id == id) {
            Some(given) => given.values = values,
            None => self.given.push(Given {
                id: id.to_owned(),
                flag: flag.map(str::to_owned),
                joined: false,
                values,
            }),
        }
    }

    /// Leaves out what was given.
    pub(super) fn leave_out(&mut self, id: &str) {
        self.given.retain(|given| given.id != id);
    }

    /// The line, for a shell; `None` if it would be very long.
    pub(super) fn line(&self) -> Option<String> {
        let mut line = format!("ddpm {}", self.command);
        let (named, bare): (Vec<_>, Vec<_>) =
            (self.given.iter()).partition(|given| given.flag.is_some());
        for given in bare.into_iter().chain(named) {
            for word in given.words() {
                line.push(' ');
                line.push_str(&word);
            }
        }
        (line.len() <= MAX_BYTES).then_some(line)
    }
}

impl Given {
    fn words(&self) -> Vec<String> {
        let path = |value: &OsString| text::shell(Path::new(value));
        let Some(flag) = &self.flag else {
            return self.values.iter().map(path).collect();
        };
        if self.values.is_empty() {
            return vec![flag.clone()];
        }
        let word = |value: &OsString| {
            // A value like a flag.
            let is_joined = self.joined || value.as_encoded_bytes().starts_with(b"-");
            let between = match is_joined && flag.starts_with("--") {
                true => "=",
                false => " ",
            };
            format!("{flag}{between}{}", text::shell_word(value))
        };
        self.values.iter().map(word).collect()
    }
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The short name, where there is one.
fn flag_of(arg: &Arg) -> Option<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    short.or_else(|| arg.get_long().map(|long| format!("--{long}")))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    enum Program {
        Make {
            file: std::path::PathBuf,
            #[arg(short, long)]
            number: Option<u64>,
            #[arg(long, value_delimiter = ',')]
            times: Vec<i64>,
            #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
            clip: Option<bool>,
            #[arg(long, allow_negative_numbers = true)]
            eta: Option<f64>,
            #[arg(long)]
            then: Vec<String>,
            #[arg(long)]
            raw: bool,
            #[arg(long, default_value = "x")]
            out: String,
        },
    }

    fn parsed(line: &str) -> CommandLine {
        let words = ["ddpm", "make"].into_iter().chain(line.split(' '));
        CommandLine::parse(Program::command(), words.map(OsString::from)).unwrap()
    }

    #[test]
    fn what_decides_is_said_again() {
        let all =
            parsed("--raw --then b --eta=-1 --out y --number=7 a --times 9,5 --then it's --clip");
        assert_eq!(
            all.line().unwrap(),
            r"ddpm make a -n 7 --times 9,5 --clip=true --eta=-1 --then b --then 'it'\''s' --raw"
        );
        assert_eq!(parsed("a").line().unwrap(), "ddpm make a");
    }

    #[test]
    fn values_are_replaced_added_and_left_out() {
        let mut line = parsed("a --raw");
        line.set("file", None, vec!["b c".into()]);
        line.set("number", Some("-n"), vec!["3".into()]);
        line.leave_out("raw");
        assert_eq!(line.line().unwrap(), "ddpm make 'b c' -n 3");
        line.set("file", None, vec!["x".repeat(MAX_BYTES).into()]);
        assert_eq!(line.line(), None);
    }
}

//! `--show`: a grid in the terminal.

use std::io::IsTerminal;

use anyhow::{Result, ensure};
use clap::Args;
use ndarray::ArrayView3;

use super::out::{self, say};
use crate::report::{TerminalProtocol, in_terminal};

/// `--show`, for commands that make a grid.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct ShowArg {
    /// Show the grid in the terminal, if it can show images; a protocol is found by the terminal's name, or named
    ///
    /// Nothing is written where standard output is no terminal, unless a protocol is named.
    #[arg(long, value_name = "PROTOCOL", value_enum, num_args = 0..=1, require_equals = true, hide_short_help = true)]
    show: Option<Option<TerminalProtocol>>,
}

impl ShowArg {
    /// Refuses it where there is nothing to show, or standard output holds something else.
    ///
    /// # Errors
    /// As said.
    pub(super) fn check(self, has_grid: bool, json: bool) -> Result<()> {
        ensure!(
            self.show.is_none() || has_grid,
            "--show shows the grid, and none is made; give --out FILE.png too"
        );
        ensure!(
            !(self.show.is_some() && json),
            "--show and --json both write to standard output; leave one out"
        );
        Ok(())
    }

    /// True if it is asked for.
    pub(super) fn given(self) -> bool {
        self.show.is_some()
    }

    /// Shows an image, `[H, W, C]`, if it is to be shown, or says why that cannot be.
    ///
    /// # Errors
    /// An image that is too large.
    pub(super) fn show(self, image: ArrayView3<u8>) -> Result<()> {
        let Some(named) = self.show else {
            return Ok(());
        };
        let value = |name: &str| std::env::var(name).unwrap_or_default();
        let found = named.map_or_else(|| detect(std::io::stdout().is_terminal(), value), Ok);
        match found {
            Ok(protocol) => out::write(&in_terminal(image, protocol)?),
            Err(why) => say(&format!("the grid is not shown: {why}")),
        }
        Ok(())
    }
}

/// The protocol of this terminal by its variables, or why there is none.
fn detect(
    is_terminal: bool,
    value: impl Fn(&str) -> String,
) -> Result<TerminalProtocol, &'static str> {
    use TerminalProtocol::{ITerm2, Kitty, Sixel};
    if !is_terminal {
        return Err("standard output is no terminal");
    }
    let (term, program) = (value("TERM"), value("TERM_PROGRAM"));
    let within = term.starts_with("screen") || term.starts_with("tmux");
    if within || !value("TMUX").is_empty() {
        return Err(
            "tmux and screen pass no images on by themselves; name a protocol with --show=… to try",
        );
    }
    let begins = |names: &[&str]| names.iter().any(|name| term.starts_with(name));
    let has = |name: &str| !value(name).is_empty();
    match program.as_str() {
        "iTerm.app" | "WezTerm" | "mintty" => return Ok(ITerm2),
        "ghostty" => return Ok(Kitty),
        _ => {}
    }
    if has("KITTY_WINDOW_ID") || has("KONSOLE_VERSION") || begins(&["xterm-kitty", "xterm-ghostty"])
    {
        return Ok(Kitty);
    }
    if value("LC_TERMINAL") == "iTerm2" {
        return Ok(ITerm2);
    }
    if begins(&["foot", "mlterm", "yaft"]) || term.contains("sixel") {
        return Ok(Sixel);
    }
    Err(
        "this terminal is not known to show images; name a protocol with --show=kitty, iterm2 or sixel to try",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_their_variables() {
        use TerminalProtocol::{ITerm2, Kitty, Sixel};
        let found = |variables: &[(&str, &str)]| {
            let value = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map_or(String::new(), |(_, value)| (*value).to_owned())
            };
            detect(true, value).ok()
        };
        for (variables, wanted) in [
            (&[("TERM", "xterm-kitty")][..], Some(Kitty)),
            (
                &[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1")],
                Some(Kitty),
            ),
            (&[("TERM_PROGRAM", "WezTerm")], Some(ITerm2)),
            (
                &[("LC_TERMINAL", "iTerm2"), ("TERM", "xterm")],
                Some(ITerm2),
            ),
            (&[("TERM", "foot-extra")], Some(Sixel)),
            (&[("TERM", "xterm-256color")], None),
            (&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")], None),
            (&[("TMUX", "/tmp/x"), ("TERM_PROGRAM", "WezTerm")], None),
        ] {
            assert_eq!(found(variables), wanted, "{variables:?}");
        }
        assert!(detect(false, |_| "xterm-kitty".to_owned()).is_err());
    }
}

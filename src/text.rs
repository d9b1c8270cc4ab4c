//! Words in messages: plurals, and text from files, which are untrusted while terminals obey control characters.

use std::fmt;

use anyhow::Error;

/// Maximum length of a parser's message that is passed on, in characters.
const MAX_CHARS: usize = 1500;

/// Maximum length of a name from a file in a message, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Text from a file, with control characters escaped for a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for char in text.chars() {
        match char {
            '"' | '\'' | '\\' => printable.push(char),
            _ => printable.extend(char.escape_debug()),
        }
    }
    printable
}

/// A parser's message, which may quote the file, as an error that is safe to print. Line breaks are kept.
pub(crate) fn quoting(message: impl fmt::Display) -> Error {
    let text: String = message.to_string().chars().take(MAX_CHARS).collect();
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    Error::msg(lines.join("\n"))
}

/// A name from a file, truncated for a message: the file chose its length.
pub(crate) fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// "1 image", "2 images": a number with its noun, which takes an s in the plural.
pub(crate) fn plural(n: u64, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        let counted = [0, 1, 2].map(|n| plural(n, "step"));
        assert_eq!(counted, ["0 steps", "1 step", "2 steps"]);
    }

    #[test]
    fn what_would_steer_a_terminal_is_spelled_out() {
        assert_eq!(printable("a\u{1b}[2J \"b\"\n"), "a\\u{1b}[2J \"b\"\\n");
        assert_eq!(
            quoting("line 1\n  | \u{7}").to_string(),
            "line 1\n  | \\u{7}"
        );
        assert_eq!(quoting("k".repeat(20_000)).to_string().len(), MAX_CHARS);
    }
}

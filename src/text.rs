//! Words in messages: plurals, and text from files, which are untrusted while terminals obey control characters.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use anyhow::Error;

/// Maximum length of a parser's message that is passed on, in characters.
const MAX_CHARS: usize = 1500;

/// Maximum length of a name from a file in a message, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// True for characters that a terminal obeys instead of showing: control characters, and those that turn the direction
/// of text or end a line.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Text from a file or a name, safe to print: one line, characters that steer a terminal as `\u{1b}` or `\n`.
pub(crate) fn printable(text: &str) -> String {
    spelled_out(text, steers)
}

/// A path for a message. Whoever named the file cannot begin a line of ours.
pub(crate) fn path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Lines of text, safe to print: line breaks and tabs are kept.
pub(crate) fn printable_lines(text: &str) -> String {
    spelled_out(text, |c| steers(c) && !matches!(c, '\n' | '\t'))
}

/// A message of one line or more, safe to print. All lines after the first are indented, so that a name with a line
/// break looks like no other message.
pub(crate) fn message(text: &str) -> String {
    let text = printable_lines(text.trim_end_matches('\n'));
    let mut lines = text.split('\n');
    let mut message = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        let indent = if line.is_empty() || line.starts_with("  ") {
            ""
        } else {
            "  "
        };
        message.extend(["\n", indent, line]);
    }
    message
}

fn spelled_out(text: &str, which: impl Fn(char) -> bool) -> String {
    let mut spelled = String::with_capacity(text.len());
    for c in text.chars() {
        match which(c) {
            true => spelled.extend(c.escape_default()),
            false => spelled.push(c),
        }
    }
    spelled
}

/// JSON that is safe to print: what steers a terminal is escaped as JSON does, which only strings can hold.
pub(crate) fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) && c != '\n' {
            true => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => safe.push(c),
        }
    }
    safe
}

/// A path as a word of a command that a POSIX shell (bash, zsh, ksh) reads back as the same bytes.
pub(crate) fn shell(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    // A name like a flag.
    let dash = if bytes.starts_with(b"-") { "./" } else { "" };
    quoted(bytes, dash)
}

/// As [`shell`], for a word that is no path.
pub(crate) fn shell_word(word: &OsStr) -> String {
    quoted(word.as_encoded_bytes(), "")
}

fn quoted(bytes: &[u8], before: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b);
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.is_empty() && bytes.iter().all(|b| plain(*b)) => {
            format!("{before}{text}")
        }
        Ok(text) if !text.contains(steers) => {
            format!("'{before}{}'", text.replace('\'', "'\\''"))
        }
        _ => {
            let byte = |b: &u8| match b {
                b'\\' | b'\'' => format!("\\{}", char::from(*b)),
                b' '..=b'~' => char::from(*b).to_string(),
                _ => format!("\\{b:03o}"),
            };
            format!("$'{before}{}'", bytes.iter().map(byte).collect::<String>())
        }
    }
}

/// A parser's message, which may quote the file, as an error that is safe to print. Line breaks are kept.
pub(crate) fn quoting(message: impl fmt::Display) -> Error {
    let text: String = message.to_string().chars().take(MAX_CHARS).collect();
    Error::msg(printable_lines(&text))
}

/// A decoder's message on one line, which some end or break.
pub(crate) fn one_line(message: &impl fmt::Display) -> String {
    let text = message.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    printable(&words.join(" "))
}

/// A name from a file, truncated for a message: the file chose its length.
pub(crate) fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// Names that a list in a message shows.
const LISTED: usize = 12;

/// The first of some names from a file, safe to print, and none too long.
pub(crate) fn listed(names: &[String]) -> String {
    let first = names.iter().take(LISTED);
    let first: Vec<String> = first.map(|name| printable(&shown(name))).collect();
    let more = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", first.join(", "))
}

/// "1 image", "2 images": a number with its noun, which takes an s in the plural.
pub(crate) fn plural(n: u64, noun: &str) -> String {
    let s = match (n, noun.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{n} {noun}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        let counted = [0, 1, 2].map(|n| plural(n, "step"));
        assert_eq!(counted, ["0 steps", "1 step", "2 steps"]);
        let names: Vec<String> = (0..13).map(|n| format!("{n}\u{1b}")).collect();
        assert_eq!(listed(&names[..2]), r"0\u{1b}, 1\u{1b}");
        assert!(listed(&names).ends_with(r"11\u{1b}, …"));
        assert_eq!(listed(&["x".repeat(1000)]).len(), MAX_SHOWN_CHARS + 3);
        let counted = [1, 2].map(|n| plural(n, "class"));
        assert_eq!(counted, ["1 class", "2 classes"]);
    }

    #[test]
    fn what_would_steer_a_terminal_is_spelled_out() {
        assert_eq!(printable("a\u{1b}[2J \"b\"\n"), "a\\u{1b}[2J \"b\"\\n");
        assert_eq!(
            quoting("line 1\n  | \u{7}").to_string(),
            "line 1\n  | \\u{7}"
        );
        assert_eq!(quoting("k".repeat(20_000)).to_string().len(), MAX_CHARS);
        // C1, DEL, the turns of direction, and the separators of lines and paragraphs.
        let all = "\u{9b}\u{7f}\u{202e}\u{2067}\u{2028}\u{2029}";
        assert!(printable(all).is_ascii());
        // Other scripts, accents and signs stay.
        let kept = "é e\u{301} 図 עברית 🙂\u{200d}";
        assert_eq!(printable(kept), kept);
    }

    #[test]
    fn a_name_cannot_begin_a_line() {
        let name = Path::new("a\nerror: forged\r\u{1b}[1A");
        assert_eq!(path(name), "a\\nerror: forged\\r\\u{1b}[1A");
        // Also where it went into a message as it is.
        let forged = message(&format!("cannot read {}:\n  one\n\n", name.display()));
        let wanted = "cannot read a\n  error: forged\\r\\u{1b}[1A:\n  one";
        assert_eq!(forged, wanted);
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({"a\u{1b}\u{9b}\n\t": "\u{202e}\u{7f}é"});
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.contains(|c| steers(c) && c != '\n'), "{text}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, value);
    }

    #[test]
    fn a_shell_reads_the_same_path() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let plain = shell(Path::new("runs/demo-20260101-000000"));
        assert_eq!(plain, "runs/demo-20260101-000000");
        assert_eq!(shell(Path::new("my run")), "'my run'");
        for bytes in [
            b"my run".as_slice(),
            b"it's",
            b"-n",
            b"- n",
            b"$(touch x)`y`",
            b"a\\b\"c!*?[d]~#&;|<>(){}^",
            b"~",
            b"\x1b[2J\n1\xff\xc2\x857",
            "図 é\u{202e}".as_bytes(),
            b"",
        ] {
            let word = shell(Path::new(OsStr::from_bytes(bytes)));
            assert!(!word.contains(steers), "{word}");
            let script = format!("printf %s {word}");
            let printed = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            let printed = printed.unwrap().stdout;
            let printed = printed.strip_prefix(b"./").unwrap_or(&printed);
            assert_eq!(printed, bytes, "{word}");
        }
    }
}

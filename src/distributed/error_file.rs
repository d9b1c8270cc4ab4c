//! torchrun's error file: where it shows which rank failed first, and why.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fs::write_bytes;

/// Writes why this process ends to the file that torchrun names in TORCHELASTIC_ERROR_FILE, if it does. A file that
/// cannot be written changes nothing: the message is on stderr too.
pub fn write_error_file(message: &str) {
    if let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE") {
        let _ = write_bytes(Path::new(&path), content(message).as_bytes());
    }
}

/// What torchrun reads: it wants a call stack of Python, and this program has none.
fn content(message: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let extra = serde_json::json!({"py_callstack": message, "timestamp": seconds.to_string()});
    serde_json::json!({"message": {"message": message, "extraInfo": extra}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_torchrun_reads() {
        let found: serde_json::Value = serde_json::from_str(&content("no \"images\"\n")).unwrap();
        assert_eq!(found["message"]["message"], "no \"images\"\n");
        let seconds = found["message"]["extraInfo"]["timestamp"].as_str().unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000);
    }
}

//! The newest steps of metrics.jsonl, without a look at the others: a long run has half a million lines.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};

use super::StepMetrics;
use crate::fs::open_regular;

/// Bytes of the end of the file that are read: some hundreds of lines.
const TAIL_BYTES: u64 = 1 << 17;

/// The lines of up to `most` steps at the end of metrics.jsonl, in the order of the file; fewer if lines are very long,
/// none without the file. Lines that are not of a step are passed over, as is one that is being written.
///
/// # Errors
/// Not a regular file, or one that cannot be read.
pub fn newest_steps(path: &Path, most: usize) -> Result<Vec<StepMetrics>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = match open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.with_context(cannot)?,
    };
    let mut read = || {
        let bytes = file.metadata()?.len();
        // With the byte before, by which a line that begins just there is known to be whole.
        let start = bytes.saturating_sub(TAIL_BYTES + 1);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        (&file).take(TAIL_BYTES + 1).read_to_end(&mut tail)?;
        io::Result::Ok((start > 0, tail))
    };
    let (cut, tail) = read().with_context(cannot)?;
    let lines = tail.split(|byte| *byte == b'\n');
    let whole = lines.skip(usize::from(cut));
    let mut steps: Vec<StepMetrics> = whole
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Ok(steps.split_off(steps.len().saturating_sub(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> String {
        format!(
            "{{\"step\":{step},\"loss\":{step}.5,\"lr\":0.1,\"grad_norm\":1.0,\"images_per_sec\":2.0,\"secs\":3.0}}\n"
        )
    }

    fn steps(path: &Path, most: usize) -> Vec<u64> {
        let found = newest_steps(path, most).unwrap();
        found.iter().map(|metrics| metrics.step).collect()
    }

    #[test]
    fn the_end_of_a_long_file_is_read_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert!(steps(&path, 9).is_empty());
        let mut text: String = (1..=5000).map(line).collect();
        assert!(text.len() as u64 > 2 * TAIL_BYTES);
        text += "{\"step\":5000,\"evaluation\":{\"fid\":1.0}}\n{\"step\":5001,\"lo";
        std::fs::write(&path, &text).unwrap();
        assert_eq!(steps(&path, 3), [4998, 4999, 5000]);
        // Only whole lines, however many are wanted.
        let all = steps(&path, usize::MAX);
        assert!(all.len() > 1000 && all.len() < 5000, "{}", all.len());
        assert_eq!(all, (5001 - all.len() as u64..=5000).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_begins_where_the_reading_does_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let two = line(7) + &line(8);
        let padding = TAIL_BYTES as usize - two.len();
        // The first line ends just before the part that is read.
        let text = line(6) + &"x".repeat(padding - 1) + "\n" + &two;
        std::fs::write(&path, &text).unwrap();
        assert_eq!(steps(&path, 9), [7, 8]);
        let text = "x\n".to_owned() + &line(7) + &" ".repeat(TAIL_BYTES as usize - line(7).len());
        std::fs::write(&path, &text).unwrap();
        assert_eq!(steps(&path, 9), [7]);
    }
}

//! Checkpoints that were damaged.

use std::path::Path;

use ddpm::checkpoint::{read_checkpoint, resolve};

use super::tiny::{assert_same_end, checkpoint, ddpm, stderr, train, train_to};

fn flip_bit(path: &Path, byte: usize, bit: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1 << bit;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 2, &[]);
    let path = checkpoint(&run, 2);
    let len = std::fs::metadata(&path).unwrap().len() as usize;
    read_checkpoint(&path).unwrap();
    // The length, all through the header, and all through the tensors.
    for byte in (0..16).chain((16..len).step_by(len / 300)) {
        flip_bit(&path, byte, (byte % 8) as u8);
        let error = read_checkpoint(&path).map(drop).unwrap_err();
        assert!(
            format!("{error:#}").contains("step-00000002"),
            "byte {byte}: {error:#}"
        );
        flip_bit(&path, byte, (byte % 8) as u8);
    }
    read_checkpoint(&path).unwrap();
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_for_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, hurt) = (dir.path().join("whole"), dir.path().join("hurt"));
    train_to(&whole, 12, &[]);
    train_to(&hurt, 8, &[]);
    let len = std::fs::metadata(checkpoint(&hurt, 8)).unwrap().len() as usize;
    flip_bit(&checkpoint(&hurt, 8), len - 5, 3);
    let whole_6 = std::fs::read(checkpoint(&hurt, 6)).unwrap();
    std::fs::write(checkpoint(&hurt, 6), &whole_6[..len / 2]).unwrap();

    let said = train_to(&hurt, 12, &[]);
    for step in [8, 6] {
        let warned = format!("{} cannot be used", checkpoint(&hurt, step).display());
        assert!(said.contains(&warned), "{said}");
    }
    assert!(said.contains("does not match its checksum"), "{said}");
    assert!(said.contains("at step 4"), "{said}");
    assert_same_end(&whole, &hurt, 12);
}

#[test]
fn other_commands_take_the_newest_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    std::fs::write(checkpoint(&run, 4), "rubbish").unwrap();
    assert_eq!(resolve(&run).unwrap(), checkpoint(&run, 2));
    let out = ddpm()
        .args(["sample", "-n", "1", "--device", "cpu", "--out"])
        .arg(dir.path().join("grid.png"))
        .arg(&run)
        .output()
        .unwrap();
    assert!(
        out.status.success() && stderr(&out).contains("cannot be used"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_run_without_a_readable_checkpoint_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    for step in [2, 4] {
        std::fs::write(checkpoint(&run, step), "rubbish").unwrap();
    }
    let out = train(&run, 8, &[]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        stderr(&out).contains("no checkpoint of"),
        "{}",
        stderr(&out)
    );
    assert_eq!(std::fs::read(checkpoint(&run, 4)).unwrap(), b"rubbish");
}

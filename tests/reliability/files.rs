//! Damaged checkpoints.

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
fn a_run_without_a_readable_checkpoint_does_not_start_over() {
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

/// A folder of images, each of a uniform grey.
fn images(dir: &Path, greys: &[(&str, u8)]) {
    std::fs::create_dir_all(dir).unwrap();
    for (name, grey) in greys {
        image::GrayImage::from_pixel(8, 8, image::Luma([*grey]))
            .save(dir.join(name))
            .unwrap();
    }
}

#[test]
fn a_run_resumes_with_its_own_images_only() {
    let dir = tempfile::tempdir().unwrap();
    let (run, data) = (dir.path().join("run"), dir.path().join("data"));
    images(
        &data,
        &[("a.png", 1), ("b.png", 2), ("c.png", 3), ("d e.png", 4)],
    );
    let more = ["--data", data.to_str().unwrap()];
    train_to(&run, 4, &more);
    let good = std::fs::read(checkpoint(&run, 4)).unwrap();

    let refused = |change: &str| {
        let out = train(&run, 6, &[]).output().unwrap();
        let said = stderr(&out);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(change), "{said}");
        let way_on = format!("--init-from {}", run.display());
        assert!(said.contains(&way_on), "{said}");
    };
    images(&data, &[("b.png", 200)]);
    refused("1 has other contents (b.png)");
    std::fs::write(data.join("b.png"), "rubbish").unwrap();
    refused("1 is gone (b.png)");
    assert!(
        !run.join("skipped.tsv").exists(),
        "a refused start writes nothing"
    );
    images(&data, &[("b.png", 2), ("f.png", 5)]);
    refused("1 is new (f.png)");
    std::fs::remove_file(data.join("f.png")).unwrap();
    assert_eq!(std::fs::read(checkpoint(&run, 4)).unwrap(), good);
    train_to(&run, 6, &[]);

    // The command in the message.
    images(&data, &[("f.png", 5)]);
    let new = dir.path().join("new");
    let from = run.to_str().unwrap();
    let mut command = ddpm();
    command.args([
        "train",
        "--init-from",
        from,
        "--data",
        more[1],
        "--steps",
        "2",
        "--device",
        "cpu",
    ]);
    let out = command.arg("--run").arg(&new).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    // The initial weights are saved at once: after a kill before the first save, they must not be replaced by random ones.
    assert!(checkpoint(&new, 0).exists());
}

#[test]
fn another_machine_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 2, &[]);
    assert!(!train_to(&run, 4, &[]).contains("note: the run was on"));
    let mut command = ddpm();
    command
        .args("train --steps 6 --device cpu --threads 2 --run".split(' '))
        .arg(&run);
    let said = stderr(&command.output().unwrap());
    assert!(
        said.contains("note: the run was on") && said.contains("2 threads"),
        "{said}"
    );
}

//! Evaluations of a run of several ranks: rank 0 takes them, and all end where it does. Measures of sets of images that
//! ranks share: they print and write what one process does.

use std::path::{Path, PathBuf};
use std::process::Output;

use ddpm::ndarray::Array3;
use ddpm::report::write_png;

use super::team::{free_port, plain, program, started, train_alone, train_with};
use super::tiny::{checkpoint, ddpm, stderr};

const FLAGS: &str = "--hold-out 3 --evaluate-every 1 --evaluate-images 4 --patience 2 --lr 1e-30 --ema 0 --optimizer adam \
                     --accumulate 2 --save-every 5";

#[test]
fn all_ranks_end_when_the_network_does_not_become_better() {
    let dir = tempfile::tempdir().unwrap();
    let [ranks, alone] = ["ranks", "alone"].map(|name| dir.path().join(name));
    let flags: Vec<&str> = FLAGS.split_whitespace().collect();
    let with = [&flags[..], &["--reduce", "ordered"]].concat();
    train_with(2, &ranks, 9, &with);
    train_alone(&alone, 9, &flags);
    let evaluations = |run: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let lines = text.lines().filter(|line| line.contains("evaluation"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(evaluations(&ranks).len(), 3);
    assert_eq!(evaluations(&ranks), evaluations(&alone));
    for step in [1, 3] {
        let bytes = |run: &Path| std::fs::read(checkpoint(run, step)).unwrap();
        assert!(bytes(&ranks) == bytes(&alone), "step {step}");
    }
}

/// A run whose network makes images of 16 by 16, and a folder of 70 such images, two batches of a folder.
fn run_and_folder(dir: &Path) -> [PathBuf; 2] {
    let (run, folder) = (dir.join("run"), dir.join("images"));
    let words = "train --device cpu --threads 1 --preset demo --size 16 --base-width 8 --norm-groups 2 --multipliers 1 \
                 --timesteps 4 --builtin-images 12 --batch 4 --steps 2 --save-every 2 --sample-every 0 --hold-out 4 --run";
    let out = (ddpm().args(words.split_whitespace()).arg(&run)).output();
    assert!(out.unwrap().status.success());
    std::fs::create_dir(&folder).unwrap();
    for number in 0..70_usize {
        let value = |(y, x, c)| (number * (3 + y) * (5 + c) + x * x * 7) as u8;
        let image = Array3::from_shape_fn((16, 16, 3), value);
        write_png(&folder.join(format!("{number:02}.png")), image.view()).unwrap();
    }
    [run, folder]
}

fn together(ranks: u32, words: &str) -> Vec<Output> {
    let words = format!("{} evaluate {words} --device cpu --threads 1", program());
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    started(ranks, plain(ranks, free_port()), &words)
}

fn alone(words: &str) -> Output {
    let words = format!("evaluate {words} --device cpu --threads 1");
    ddpm().args(words.split_whitespace()).output().unwrap()
}

/// Five images in batches of 2 are three batches: one for the second of two ranks, and one each for three.
#[test]
fn sets_of_images_are_measured_as_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let [run, folder] = run_and_folder(dir.path()).map(|path| path.display().to_string());
    let sampled = "-n 5 --batch 2 --seed 3";
    for (ranks, words) in [
        (2, format!("fid {run} {folder} --features random --json")),
        (
            3,
            format!("fid {folder} {run} --features random --metrics fid,kid"),
        ),
        (2, format!("swd {run} {folder} --json")),
        (2, format!("neighbours {run} --json")),
        (
            3,
            format!(
                "neighbours {run} --features random --mirrored --data {folder} --held-out {folder}"
            ),
        ),
    ] {
        let words = format!("{words} {sampled}");
        let alone = alone(&words);
        assert!(alone.status.success(), "{words}: {}", stderr(&alone));
        assert!(!alone.stdout.is_empty(), "{words}");
        let ended = together(ranks, &words);
        for (rank, out) in ended.iter().enumerate() {
            assert!(out.status.success(), "{words}: {}", stderr(out));
            let wanted: &[u8] = if rank == 0 { &alone.stdout } else { b"" };
            assert_eq!(
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(wanted),
                "{words}"
            );
            if rank > 0 {
                assert_eq!(stderr(out), "", "{words}");
            }
        }
    }
    let file = |name: &str| dir.path().join(name);
    for (name, ranks) in [("one.npz", 1), ("two.npz", 2)] {
        let out = file(name).display().to_string();
        let words = format!("statistics {run} {sampled} --features random --out {out}");
        let ended = match ranks {
            1 => vec![alone(&words)],
            ranks => together(ranks, &words),
        };
        assert!(
            ended.iter().all(|out| out.status.success()),
            "{}",
            stderr(&ended[0])
        );
    }
    let bytes = |name: &str| std::fs::read(file(name)).unwrap();
    assert!(bytes("one.npz") == bytes("two.npz"));
    // What is wrong ends all: of a flag, of what is written, and of images that differ.
    let exists = file("one.npz").display().to_string();
    for (words, want) in [
        (format!("fid {run} {folder} --features random -n 0"), "-n"),
        (
            format!("statistics {run} --features random --out {exists}"),
            "exists",
        ),
        (format!("swd {run} {folder}/none"), "there is no"),
    ] {
        for out in together(2, &words) {
            assert!(!out.status.success());
            assert!(stderr(&out).contains(want), "{words}: {}", stderr(&out));
        }
    }
}

#[test]
fn ranks_that_see_other_images_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..2_u8 {
        let folder = dir.path().join(format!("{rank}/images"));
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..2 + rank {
            let image = Array3::from_elem((16, 16, 3), 9 * number + rank);
            write_png(&folder.join(format!("{number}.png")), image.view()).unwrap();
        }
    }
    let script = format!(
        "cd {}/$RANK && {} evaluate fid images images --features random --device cpu --threads 1",
        dir.path().display(),
        program()
    );
    for out in started(
        2,
        plain(2, free_port()),
        &["sh", "-c", &script].map(str::to_owned),
    ) {
        let said = stderr(&out);
        assert!(!out.status.success());
        assert!(
            said.contains("another set of images than rank 0: `3 images of "),
            "{said}"
        );
    }
}

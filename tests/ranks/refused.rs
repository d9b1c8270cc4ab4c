//! Ranks that are not alike, and batches that they cannot share: refused before the first step, on all of them.

use std::time::{Duration, Instant};

use super::team::{free_port, plain, program, started, tiny, torchrun};
use super::tiny::{stderr, train};

/// Runs `script` in a shell on both of two ranks; all must fail, and say `want`.
fn refused(script: &str, want: &str) {
    let words = ["sh", "-c", script].map(str::to_owned);
    for out in started(2, plain(2, free_port()), &words) {
        let said = stderr(&out);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(want), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn ranks_that_are_not_alike() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let words = tiny(&run, 4, &[]).join(" ");
    refused(
        &format!("{words} --seed $RANK"),
        "has another command line than rank 0: `--seed 1`, not `--seed 0`",
    );
    refused(
        &format!(
            "OMP_NUM_THREADS=$((RANK + 1)) {}",
            words.replace("--threads 1", "")
        ),
        "has another device than rank 0",
    );
    // The same command, and other images.
    let color = |rank: u8| image::RgbImage::from_pixel(8, 8, image::Rgb([rank * 100, 0, 0]));
    for rank in 0..2 {
        let folder = dir.path().join(format!("{rank}/images"));
        std::fs::create_dir_all(&folder).unwrap();
        color(rank).save(folder.join("one.png")).unwrap();
    }
    // Each rank sees another folder behind this name, and with a cache of its own decodes it.
    let there = dir.path().display();
    let command = words.replace("--builtin-images 10", "--data /proc/self/cwd/images");
    let file = dir.path().join("cache");
    refused(
        &format!(
            "cd {there}/$RANK && {command} --cache {}-$RANK",
            file.display()
        ),
        "has another set of images than rank 0: `1 images,",
    );
    assert!(!run.exists(), "nothing was begun");
}

#[test]
fn batches_that_cannot_be_shared() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let words = tiny(&run, 4, &["--batch", "5"]).join(" ");
    refused(&words, "start 1, or train with --batch 4 or 6");
    let words = tiny(&run, 4, &["--draws", "batch"]).join(" ");
    refused(&words, "--draws batch");
    assert!(!run.exists(), "nothing was begun");
}

#[test]
fn a_rank_that_fails_ends_the_others_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Rank 0 alone looks at the run, and refuses a name that is not there.
    let words = format!("{} train --device cpu --run {}", program(), run.display());
    refused(&words, "there is no run in");
    // And one that another process trains.
    assert!(train(&run, 2, &[]).output().unwrap().status.success());
    let lock = ddpm::checkpoint::RunFolder::new(run.clone())
        .resumable()
        .unwrap()
        .unwrap();
    refused(&tiny(&run, 4, &[]).join(" "), "another process");
    drop(lock);
}

#[test]
fn what_is_work_for_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert!(train(&run, 2, &[]).output().unwrap().status.success());
    let words = format!(
        "{} export {} --to {}/w.pt",
        program(),
        run.display(),
        dir.path().display()
    );
    refused(&words, "is work for one process, and this is rank ");
    assert!(!dir.path().join("w.pt").exists());
    let words = format!("{} evaluate duplicates {}", program(), run.display());
    refused(&words, "is work for one process, and this is rank ");
}

#[test]
fn a_host_that_is_not_known_and_numbers_of_ranks_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let words = tiny(&dir.path().join("run"), 2, &[]).join(" ");
    refused(
        &format!("MASTER_ADDR=no.such.host.invalid {words}"),
        "cannot be resolved",
    );
    refused(&format!("WORLD_SIZE=$((RANK + 2)) {words}"), " counts ");
}

/// One rank fails before it has met the other, which hears of it at once; torchrun hears of both.
#[test]
fn a_rank_that_fails_before_they_meet() {
    let dir = tempfile::tempdir().unwrap();
    let words = tiny(&dir.path().join("run"), 4, &[]).join(" ");
    let other_device = words.replace("--device cpu", "--device cuda:7");
    for (fails, command, code, want) in [
        (0, format!("{words} --no-such-flag"), 2, "--no-such-flag"),
        (1, format!("{words} --no-such-flag"), 2, "--no-such-flag"),
        (0, other_device.clone(), 1, "is one GPU for 2 ranks"),
        (1, other_device, 1, "is one GPU for 2 ranks"),
    ] {
        let script = format!(
            "export TORCHELASTIC_ERROR_FILE={}/$RANK; if [ $RANK = {fails} ]; then {command}; else {words}; fi",
            dir.path().display()
        );
        let since = Instant::now();
        let ended = started(
            2,
            plain(2, free_port()),
            &["sh", "-c", &script].map(str::to_owned),
        );
        assert!(since.elapsed() < Duration::from_secs(30));
        let (failed, other) = (&ended[fails], &ended[1 - fails]);
        assert_eq!(failed.status.code(), Some(code), "{}", stderr(failed));
        assert_eq!(other.status.code(), Some(1), "{}", stderr(other));
        let said = stderr(other);
        let name = format!("rank {fails} (process ");
        for part in [&name, " has failed: ", want] {
            assert!(said.contains(part), "{said}");
        }
        for rank in 0..2 {
            let file = dir.path().join(rank.to_string());
            let told = std::fs::read_to_string(&file).unwrap();
            assert!(told.contains(want), "{told}");
            std::fs::remove_file(file).unwrap();
        }
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn torchrun_shows_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let words = tiny(&dir.path().join("run"), 4, &["--no-such-flag"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let out = torchrun(2, &[], &words).output().unwrap();
    let said = stderr(&out);
    let (_, shown) = said.split_once("Root Cause").unwrap_or_default();
    assert!(
        shown.contains("exitcode  : 2") && shown.contains("--no-such-flag"),
        "{said}"
    );
}

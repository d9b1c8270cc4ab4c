//! A rank that is killed, hangs, or is told to stop.

use std::time::{Duration, Instant};

use ddpm::checkpoint::read_checkpoint;

use super::team::{tiny, torchrun, train_alone, watched};
use super::tiny::{Watched, assert_same_end, checkpoint, leftovers, stderr, wait_until};

const STEPS: u64 = 3000;

#[test]
fn the_others_of_a_killed_rank_save_and_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let (run, whole) = (dir.path().join("run"), dir.path().join("whole"));
    let words = tiny(
        &run,
        STEPS,
        &["--reduce", "ordered", "--save-every", "100000"],
    );
    let mut ranks = watched(2, &words);
    ranks[0].wait_for("to go");
    std::thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    ranks[1].child.kill().unwrap();
    ranks[0].wait_for("saved at step");
    ranks[0].wait_for("error: rank 1 (process");
    assert_eq!(ranks[0].code(), Some(1));
    assert!(killed.elapsed() < Duration::from_secs(30));
    // What was saved is what one process comes to.
    let named = std::fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let step: u64 = named["step-".len()..][..8].parse().unwrap();
    let alone = ["--accumulate", "2", "--save-every", "100000"];
    train_alone(&whole, step, &alone);
    let tensors = |run| read_checkpoint(&checkpoint(run, step)).unwrap().tensors;
    for ((name, ours), (again, theirs)) in tensors(&run).iter().zip(&tensors(&whole)) {
        assert_eq!((name, ours), (again, theirs));
    }
    assert!(leftovers(&run).is_empty());
}

#[test]
fn each_rank_of_a_host_is_missed_at_once() {
    for killed in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let words = ["--save-every", "100000", "--batch", "12"];
        let mut ranks = watched(3, &tiny(&run, STEPS, &words));
        ranks[0].wait_for("to go");
        std::thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        ranks[killed].child.kill().unwrap();
        for (number, rank) in ranks.iter_mut().enumerate().filter(|(n, _)| *n != killed) {
            assert_eq!(rank.code(), Some(1), "{number}");
        }
        // --rank-timeout is 30 s.
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "{:?}",
            since.elapsed()
        );
    }
}

#[test]
fn a_rank_that_hangs_is_missed() {
    for hangs in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let words = tiny(
            &run,
            STEPS,
            &["--rank-timeout", "5s", "--save-every", "100000"],
        );
        let mut ranks = watched(2, &words);
        ranks[0].wait_for("to go");
        std::thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        ranks[hangs].signal("STOP");
        // Rank 0 serves the store here.
        let want = ["is gone: no answer for", "error: rank 1 (process"][hangs];
        ranks[1 - hangs].wait_for(want);
        assert_eq!(ranks[1 - hangs].code(), Some(1));
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{:?}",
            since.elapsed()
        );
        assert_eq!(run.join("checkpoints/latest").exists(), hangs == 1);
    }
}

/// Steps at which a run was saved.
fn is_saved(run: &std::path::Path) -> bool {
    run.join("checkpoints/latest").exists()
}

#[test]
fn a_signal_to_one_rank_is_for_all() {
    let dir = tempfile::tempdir().unwrap();
    // Not SIGHUP, which a program under nohup ignores, and its children do.
    for (signal, code) in [("TERM", 143), ("XCPU", 152)] {
        let run = dir.path().join(signal);
        let words = tiny(&run, STEPS, &["--save-every", "100000"]);
        let mut ranks = watched(2, &words);
        ranks[0].wait_for("to go");
        ranks[1].signal("USR1");
        wait_until("a save", || is_saved(&run));
        ranks[1].signal(signal);
        ranks[0].wait_for("resume with");
        let codes: Vec<_> = ranks.iter_mut().map(Watched::code).collect();
        assert_eq!(codes, [Some(code); 2]);
        assert!(leftovers(&run).is_empty());
    }
}

#[test]
fn a_signal_that_comes_twice_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let words = tiny(&run, STEPS, &["--save-every", "100000"]);
    let mut ranks = watched(2, &words);
    ranks[0].wait_for("to go");
    std::thread::sleep(Duration::from_millis(300));
    // As a terminal does to all, and torchrun to each.
    for rank in ranks.iter().chain(&ranks) {
        rank.signal_if_running("INT");
    }
    let codes: Vec<_> = ranks.iter_mut().map(Watched::code).collect();
    assert_eq!(codes, [Some(130); 2]);
    assert!(is_saved(&run));
}

#[test]
fn a_time_limit_ends_all_ranks_alike() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let limit = [
        "--time-limit",
        "1s",
        "--save-every",
        "100000",
        "--batch",
        "12",
    ];
    let mut ranks = watched(3, &tiny(&run, 1_000_000, &limit));
    let codes: Vec<_> = ranks.iter_mut().map(Watched::code).collect();
    assert_eq!(codes, [Some(124); 3]);
    assert!(is_saved(&run));
}

#[test]
fn torchrun_brings_all_back_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let steps = 400;
    let settings = ["--save-every", "7", "--sample-every", "150"];
    train_alone(
        &whole,
        steps,
        &[&settings[..], &["--accumulate", "2"]].concat(),
    );
    // Each rank is killed once, in the middle of a step: rank 0 in the first attempt, rank 1 in the second.
    let words = tiny(
        &killed,
        steps,
        &[&settings[..], &["--reduce", "ordered"]].concat(),
    );
    let script = format!(
        "own=$BASHPID; logged() {{ wc -l 2>/dev/null < {}/metrics.jsonl || echo 0; }}
        if [ $TORCHELASTIC_RESTART_COUNT = $RANK ]; then
            (until [ $(logged) -ge $((50 + 50 * RANK)) ]; do sleep 0.02; done; kill -9 $own) &
        fi; exec {}",
        killed.display(),
        words.join(" ")
    );
    let flags = ["--max-restarts", "4", "--monitor-interval", "0.1"];
    let out = torchrun(2, &flags, &["bash", "-c", &script])
        .output()
        .unwrap();
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    // Which of the two torchrun names as failed is chance: the killed one, or the other, which missed it.
    assert!(said.contains("resuming"), "{said}");
    assert_same_end(&whole, &killed, steps);
    assert!(leftovers(&killed).is_empty());
}

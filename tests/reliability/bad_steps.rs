//! Steps with bad numbers.

use std::path::Path;

use ddpm::checkpoint::read_checkpoint;
use ddpm::train::StepRecord;

use super::tiny::{assert_same_end, checkpoint, ddpm, metrics, records, stderr, train, train_to};

#[test]
fn stopping_is_the_default_and_the_step_can_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    let good = std::fs::read(checkpoint(&run, 4)).unwrap();
    let out = train(&run, 20, &["--lr", "1e30", "--save-every", "100"])
        .output()
        .unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    let [bad] = records(&run)[..] else {
        panic!("{said}");
    };
    assert!(
        said.contains(&format!("error: step {bad}: loss NaN")),
        "{said}"
    );
    assert!(
        said.contains(&format!("ddpm replay {} --step {bad}", run.display())),
        "{said}"
    );
    assert_eq!(std::fs::read(checkpoint(&run, 4)).unwrap(), good);
    assert_eq!(metrics(&run).last().unwrap().0, bad - 1);

    let record = StepRecord::read(&run.join(format!("incidents/step-{bad:08}.json"))).unwrap();
    assert_eq!(record.images.len(), 4);
    assert_eq!(record.t_histogram.iter().sum::<i64>(), 4);
    assert!(record.gradients.iter().any(|g| g.norm.0.is_nan()));

    let replay = |step: u64| {
        let mut command = ddpm();
        command
            .args("replay --json --device cpu --threads 1 --step".split(' '))
            .arg(step.to_string());
        command.arg(&run).output().unwrap()
    };
    let out = replay(bad);
    assert!(
        stderr(&out).contains("the same as in the original run, bit for bit"),
        "{}",
        stderr(&out)
    );
    let again: StepRecord = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(again, record);
    // The loss of a good step is in metrics.jsonl.
    let good: StepRecord = serde_json::from_slice(&replay(bad - 1).stdout).unwrap();
    let (_, loss, norm) = metrics(&run)[bad as usize - 2];
    assert_eq!((good.loss.0, good.grad_norm.0), (loss, norm));
}

/// With this low factor some ordinary steps count as explosions, but never many in a row.
const SKIPPING: [&str; 4] = ["--on-bad-step", "skip", "--explosion-factor", "1.9"];

#[test]
fn skipping_changes_nothing_but_the_step_and_resumes_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    let said = train_to(&once, 300, &SKIPPING);
    let skipped = records(&once);
    assert!(!skipped.is_empty() && skipped.len() <= 10, "{said}");
    assert!(
        skipped[0] > 100,
        "the first hundred steps have no means to compare with"
    );
    let steps: Vec<u64> = metrics(&once).iter().map(|m| m.0).collect();
    let sound: Vec<u64> = (1..=300).filter(|s| !skipped.contains(s)).collect();
    assert_eq!(steps, sound);

    // Stopped directly after a skipped step.
    train_to(&twice, skipped[0], &SKIPPING);
    train_to(&twice, 300, &[]);
    assert_eq!(records(&twice), skipped);
    assert_same_end(&once, &twice, 300);

    // A checkpoint that is due after a skipped step is written.
    let due = dir.path().join("due");
    let every = skipped[0].to_string();
    let more = [&SKIPPING[..], &["--save-every", &every]].concat();
    train_to(&due, skipped[0] + 1, &more);
    assert_eq!(records(&due), skipped[..1]);
    assert!(checkpoint(&due, skipped[0]).exists());
}

#[test]
fn a_replay_with_other_settings_is_not_taken_for_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    train_to(&run, 6, &["--lr", "0.0001"]);
    let said_of = |step: &str| {
        let mut command = ddpm();
        command.args("replay --device cpu --threads 1 --step".split(' '));
        stderr(&command.arg(step).arg(&run).output().unwrap())
    };
    let (_, loss, _) = metrics(&run)[3];
    let said = said_of("4");
    let wanted = format!("this is not the step of the original run, which had loss {loss}");
    assert!(said.contains(&wanted), "{said}");
    let said = said_of("6");
    assert!(
        said.contains("replayed") && !said.contains("original"),
        "{said}"
    );
}

#[test]
fn skipping_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 4, &[]);
    let out = train(&run, 100, &["--lr", "1e30", "--on-bad-step", "skip"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = stderr(&out);
    assert!(said.contains("after 10 skipped steps"), "{said}");
    // Not what it does already.
    assert!(
        said.contains("continue with --on-bad-step rollback"),
        "{said}"
    );
    assert_eq!(records(&run).len(), 11);
}

#[test]
fn rolling_back_lowers_the_rate_until_it_gets_past() {
    // LAMB makes weights up to a tenth larger at each step, and they overflow at about step 143. At half the rate, from
    // step 100 on, that takes twice as many steps.
    let more = [
        "--on-bad-step",
        "rollback",
        "--lr",
        "0.1",
        "--save-every",
        "50",
    ];
    let dir = tempfile::tempdir().unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    let said = train_to(&once, 170, &more);
    let history = |step| {
        read_checkpoint(&checkpoint(&once, step))
            .unwrap()
            .meta
            .history
    };
    let end = history(170);
    assert!(end.rollbacks >= 1, "{said}");
    assert_eq!(end.lr_factor, 0.5f64.powi(end.rollbacks as i32));
    assert!(said.contains("of the learning rate"), "{said}");
    let steps: Vec<u64> = metrics(&once).iter().map(|m| m.0).collect();
    assert_eq!(steps, (1..=170).collect::<Vec<_>>());
    let text = std::fs::read_to_string(once.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["lr"].as_f64().unwrap(), 0.1 * end.lr_factor);

    // The lowered rate is saved.
    train_to(&twice, 160, &more);
    train_to(&twice, 170, &[]);
    assert_same_end(&once, &twice, 170);
}

#[test]
fn rollbacks_are_bounded_and_go_further_back() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &[]);
    let more = ["--on-bad-step", "rollback", "--lr", "1e36"];
    let out = train(&run, 100, &more).output().unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("after 5 rollbacks"), "{said}");
    assert!(
        said.contains("back to step 6") && said.contains("back to step 4"),
        "{said}"
    );
    // The abandoned steps are gone, and a resume knows of the rollbacks.
    let left: Vec<u64> = (0..=6)
        .filter(|&step| checkpoint(&run, step).exists())
        .collect();
    assert_eq!(left, [2]);
    let history = read_checkpoint(&checkpoint(&run, 2)).unwrap().meta.history;
    assert_eq!((history.rollbacks, history.lr_factor), (5, 1.0 / 32.0));
}

/// The best step is one of those that are left: that of abandoned steps goes with them.
#[test]
fn a_rollback_past_the_best_step_has_the_best_of_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let best = || std::fs::read_link(run.join("checkpoints/best.safetensors")).unwrap();
    let evaluated = [
        "--hold-out",
        "3",
        "--evaluate-every",
        "2",
        "--evaluate-images",
        "4",
    ];
    train_to(&run, 6, &evaluated);
    assert_eq!(best().to_str(), Some("step-00000006.safetensors"));
    let more = ["--on-bad-step", "rollback", "--lr", "1e36"];
    let out = train(&run, 100, &more).output().unwrap();
    assert!(stderr(&out).contains("back to step 2"), "{}", stderr(&out));
    assert_eq!(best().to_str(), Some("step-00000002.safetensors"));
    let files = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let [best_link, latest, pin, step] = &names[..] else {
        panic!("{names:?}");
    };
    assert_eq!([best_link, latest], ["best.safetensors", "latest"]);
    assert_eq!(
        [pin, step],
        ["step-00000002.best.pin", "step-00000002.safetensors"]
    );
    // And a later one takes its place.
    train_to(&run, 12, &["--lr", "1e-3"]);
    assert!(best().as_path() > Path::new("step-00000002.safetensors"));
}

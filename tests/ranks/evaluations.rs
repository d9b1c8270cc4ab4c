//! Evaluations of a run of several ranks: rank 0 takes them, and all end where it does.

use std::path::Path;

use super::team::{train_alone, train_with};
use super::tiny::checkpoint;

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

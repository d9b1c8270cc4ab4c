//! Steps with bad numbers, which the host hears of up to ten steps later: the run is then what it would be if each had
//! been read at once.

use std::path::Path;

use crate::lab::Lab;
use crate::tiny::{assert_same_end, checkpoint, metrics, records};

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 \
                    --timesteps 4 --builtin-images 10 --batch 4 --sample-every 0 --lr-schedule 0:1 \
                    --dropout 0.1";

fn train(settings: &str, run: &str, steps: u64) -> String {
    format!(
        "train {settings} --device cuda --precision f32 --deterministic --run {run} --steps {steps}"
    )
}

fn steps(run: &Path) -> Vec<u64> {
    metrics(run).iter().map(|m| m.0).collect()
}

#[test]
fn a_run_stops_before_the_bad_step_which_can_be_replayed() {
    let lab = Lab::new();
    // LAMB makes weights up to a tenth larger at each step until they overflow.
    let settings = format!("{TINY} --optimizer lamb --lr 0.1 --save-every 50");
    let stopped = lab.run(&train(&settings, "run", 300));
    let run = lab.path("run");
    assert_eq!(stopped.code, Some(1), "{}", stopped.said);
    let [bad] = records(&run)[..] else {
        panic!("{}", stopped.said);
    };
    stopped.assert_says(&[
        &format!("error: step {bad}: loss "),
        &format!("ddpm replay run --step {bad}"),
    ]);
    assert_eq!(steps(&run), (1..bad).collect::<Vec<_>>());
    let saved = (1..=6)
        .map(|i| 50 * i)
        .filter(|&step| checkpoint(&run, step).exists());
    assert_eq!(saved.max(), Some((bad - 1) / 50 * 50));
    let again = lab.ok(&format!(
        "replay run --step {bad} --device cuda --precision f32 --deterministic"
    ));
    again.assert_says(&["the same as in the original run, bit for bit"]);
}

#[test]
fn skipped_steps_change_nothing_and_the_run_resumes_exactly() {
    let lab = Lab::new();
    // With this low factor some ordinary steps count as explosions, but never many in a row.
    let settings = format!("{TINY} --on-bad-step skip --explosion-factor 1.5 --save-every 100");
    lab.ok(&train(&settings, "once", 260));
    let (once, twice) = (lab.path("once"), lab.path("twice"));
    let skipped = records(&once);
    assert!(!skipped.is_empty() && skipped[0] > 100, "{skipped:?}");
    let sound: Vec<u64> = (1..=260).filter(|s| !skipped.contains(s)).collect();
    assert_eq!(steps(&once), sound);
    // A last step is read at once.
    lab.ok(&train(&settings, "twice", skipped[0]));
    lab.ok(&train("", "twice", 260));
    assert_eq!(records(&twice), skipped);
    assert_same_end(&once, &twice, 260);
}

#[test]
fn a_run_goes_back_until_it_gets_past() {
    let lab = Lab::new();
    let settings =
        format!("{TINY} --optimizer lamb --lr 0.1 --save-every 50 --on-bad-step rollback");
    let said = lab.ok(&train(&settings, "run", 170));
    said.assert_says(&["back to step 100, with 0.5 of the learning rate"]);
    assert_eq!(steps(&lab.path("run")), (1..=170).collect::<Vec<_>>());
}

#[test]
fn skips_are_bounded() {
    let lab = Lab::new();
    let settings = format!("{TINY} --lr 1e30 --on-bad-step skip");
    let stopped = lab.run(&train(&settings, "run", 100));
    assert_eq!(stopped.code, Some(1), "{}", stopped.said);
    stopped.assert_says(&["after 10 skipped steps"]);
    assert_eq!(records(&lab.path("run")).len(), 11);
}

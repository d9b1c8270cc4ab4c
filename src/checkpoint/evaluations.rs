//! What a run remembers of its evaluations while training.

use serde::{Deserialize, Serialize};

/// How the evaluations of a run have gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluations {
    /// The step of the last one.
    pub last: u64,
    /// What the best step is the best by. Values of another measure are not compared.
    pub measure: String,
    /// The best value; less is better.
    pub best: f64,
    /// The first step with it.
    pub best_step: u64,
    /// Evaluations since.
    pub since: u64,
}

impl Evaluations {
    /// What there is to remember after an evaluation.
    pub fn after(
        before: Option<&Evaluations>,
        step: u64,
        measure: &str,
        value: f64,
    ) -> Evaluations {
        match before {
            Some(before) if before.measure == measure && before.best <= value => Evaluations {
                last: step,
                since: before.since + 1,
                ..before.clone()
            },
            _ => Evaluations {
                last: step,
                measure: measure.to_owned(),
                best: value,
                best_step: step,
                since: 0,
            },
        }
    }

    /// True for what a run of `step` steps can have.
    pub(super) fn is_possible(&self, step: u64) -> bool {
        self.best_step <= self.last && self.last <= step && self.best.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_values_is_the_best_and_another_measure_begins_anew() {
        let mut now = None;
        let mut after = |step, measure, value| {
            now = Some(Evaluations::after(now.as_ref(), step, measure, value));
            let now = now.clone().unwrap();
            assert!(now.is_possible(step) && !now.is_possible(step - 1));
            (now.best, now.best_step, now.since)
        };
        assert_eq!(after(1, "a", 2.0), (2.0, 1, 0));
        assert_eq!(after(2, "a", 2.0), (2.0, 1, 1));
        assert_eq!(after(3, "a", 3.0), (2.0, 1, 2));
        assert_eq!(after(4, "a", 1.5), (1.5, 4, 0));
        assert_eq!(after(5, "b", 9.0), (9.0, 5, 0));
    }
}

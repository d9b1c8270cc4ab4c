//! What ranks of a group spend on each other in a training step.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::median;
use crate::report::bytes;
use crate::text::plural;

/// What adding up gradients over ranks took of one step, in milliseconds. Waiting for a slower rank is in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Exchange {
    /// The step without the part that was waited for.
    pub(super) compute_ms: f64,
    /// Gradients were on their way, or waited for.
    pub(super) communication_ms: f64,
    /// The part of it in which backward went on.
    pub(super) hidden_ms: f64,
}

impl Exchange {
    /// Of a step in which gradients were on their way for `busy`, and the rank waited for `waited`. The loss is added up
    /// behind them, and in `waited` alone.
    pub(super) fn new(step: Duration, busy: Duration, waited: Duration) -> Exchange {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Exchange {
            compute_ms: ms(step.saturating_sub(waited)),
            communication_ms: ms(busy.max(waited)),
            hidden_ms: ms(busy.saturating_sub(waited)),
        }
    }
}

/// The ranks that share each step, and what this one spends on the others: medians over the steps.
#[derive(Debug, Serialize)]
pub(super) struct Ranks {
    pub(super) count: i64,
    pub(super) reduce: String,
    /// Bytes of gradients that this rank sends in a step, and as many that it receives.
    pub(super) bytes_sent: u64,
    /// `None` on CUDA, where only the device knows it.
    #[serde(flatten)]
    pub(super) exchange: Option<Exchange>,
}

impl Exchange {
    /// The median of each number; `None` of no steps.
    pub(super) fn median_of(steps: &[Exchange]) -> Option<Exchange> {
        let of = |number: fn(&Exchange) -> f64| {
            let all: Vec<f64> = steps.iter().map(number).collect();
            median(&all)
        };
        (!steps.is_empty()).then(|| Exchange {
            compute_ms: of(|step| step.compute_ms),
            communication_ms: of(|step| step.communication_ms),
            hidden_ms: of(|step| step.hidden_ms),
        })
    }
}

impl fmt::Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranks = plural(self.count as u64, "rank");
        write!(
            f,
            "{ranks}, --reduce {}: rank 0 sends {} a step",
            self.reduce,
            bytes(self.bytes_sent)
        )?;
        match self.exchange {
            Some(Exchange {
                compute_ms,
                communication_ms,
                hidden_ms,
            }) => write!(
                f,
                "\n  compute {compute_ms:.1} ms, communication {communication_ms:.1} ms, of which backward hides {hidden_ms:.1} ms"
            ),
            None => write!(f, "; their time is not measured on CUDA"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_waited_for_is_hidden() {
        let ms = Duration::from_millis;
        let found = Exchange::new(ms(100), ms(30), ms(10));
        let want = Exchange {
            compute_ms: 90.0,
            communication_ms: 30.0,
            hidden_ms: 20.0,
        };
        assert_eq!(found, want);
        // Nothing is on its way during backward.
        let ordered = Exchange::new(ms(100), ms(0), ms(40));
        assert_eq!((ordered.communication_ms, ordered.hidden_ms), (40.0, 0.0));
    }

    #[test]
    fn each_number_has_its_own_median() {
        let step = |waited| {
            let ms = Duration::from_millis;
            Exchange::new(ms(100), ms(30), ms(waited))
        };
        let found = Exchange::median_of(&[step(10), step(40), step(20)]).unwrap();
        let want = (80.0, 30.0, 10.0);
        assert_eq!(
            (found.compute_ms, found.communication_ms, found.hidden_ms),
            want
        );
        assert_eq!(Exchange::median_of(&[]), None);
    }
}

//! What a run measured while it was trained.

use serde::Serialize;

use crate::runs::curves::Curves;

/// The values of a metric.
#[derive(Debug, Serialize)]
pub(super) struct Values {
    metric: String,
    steps: Vec<u64>,
    values: Vec<Option<f64>>,
    /// Which of them is the best: the first of the least.
    best: Option<usize>,
}

/// All metrics, by name.
pub(super) fn values(curves: &Curves) -> Vec<Values> {
    let of = |(metric, by_step): (&String, &std::collections::BTreeMap<u64, f64>)| {
        let values: Vec<f64> = by_step.values().copied().collect();
        let finite = values.iter().enumerate().filter(|(_, v)| v.is_finite());
        let best = finite
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .map(|(place, _)| place);
        Values {
            metric: metric.clone(),
            steps: by_step.keys().copied().collect(),
            values: values
                .into_iter()
                .map(|v| v.is_finite().then_some(v))
                .collect(),
            best,
        }
    };
    curves.evaluations().iter().map(of).collect()
}

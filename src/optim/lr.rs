//! Learning-rate schedule.

/// Piecewise-linear multiplier at `step` through `points` (step, multiplier), constant before the
/// first and after the last.
///
/// # Panics
/// With no points.
///
/// Source: bert4keras `piecewise_linear`.
pub fn lr_multiplier(points: &[(u64, f64)], step: u64) -> f64 {
    let after = points.partition_point(|p| p.0 <= step);
    match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
        (Some((s0, m0)), Some(&(s1, m1))) => m0 + (m1 - m0) * (step - s0) as f64 / (s1 - s0) as f64,
        (Some((_, m)), None) | (None, Some(&(_, m))) => m,
        (None, None) => panic!("a learning-rate schedule needs at least one point"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_between_points_and_constant_outside() {
        let points = [(0, 0.0), (4000, 1.0), (20_000, 0.5), (40_000, 0.1)];
        for (step, want) in [
            (0, 0.0),
            (1000, 0.25),
            (4000, 1.0),
            (12_000, 0.75),
            (99_999, 0.1),
        ] {
            assert!(
                (lr_multiplier(&points, step) - want).abs() < 1e-15,
                "{step}"
            );
        }
        assert_eq!(lr_multiplier(&[(10, 0.5), (20, 1.0)], 3), 0.5);
    }
}

//! From the numbers of steps to points of curves, not too many: of 500,000 steps some 12,000 points, 3 MB.

use super::event::{Event, Histogram, Value};
use crate::report::{Mean, PARTS_OF_T, StepMetrics};

/// Steps up to twice of which each is a point; later ones are taken together, ever more of them.
const SINGLE_STEPS: u64 = 2000;

/// Points between two histograms.
const POINTS_PER_HISTOGRAM: u64 = 25;

/// What the smoothed loss keeps of itself in a step: it looks back some hundred steps.
const DECAY: f64 = 0.99;

/// The curves of a run while it is trained.
///
/// Up to step 4000 each step is a point. From there a point stands for 2 steps, from step 6001 on for 4, from 10,001 on for
/// 8, and so on: it is their mean, at the last of them.
#[derive(Debug)]
pub struct EventCurves {
    /// Time steps of the diffusion, T.
    timesteps: i64,
    smoothed: Smoothed,
    since_point: Window,
    /// Means of each part of the time steps since the last histogram, and the last step.
    parts: [Mean; PARTS_OF_T],
    newest_step: u64,
}

impl EventCurves {
    /// Curves of a run that goes on after the steps of `before`, the newest of which the smoothed loss begins with.
    pub fn new(timesteps: i64, before: &[StepMetrics]) -> EventCurves {
        let mut smoothed = Smoothed::default();
        before.iter().for_each(|step| smoothed.add(step.loss));
        EventCurves {
            timesteps,
            smoothed,
            since_point: Window::default(),
            parts: Default::default(),
            newest_step: 0,
        }
    }

    /// Takes the next step; returns the point that ends with it, if one does.
    pub fn step(&mut self, metrics: &StepMetrics) -> Option<Event> {
        self.smoothed.add(metrics.loss);
        self.since_point.add(metrics);
        self.newest_step = metrics.step;
        let by_t = metrics.loss_by_t.unwrap_or_default();
        for (mean, loss) in self.parts.iter_mut().zip(by_t.0) {
            loss.into_iter().for_each(|loss| mean.add(loss));
        }
        let together = together(metrics.step);
        let point = metrics.step.is_multiple_of(together);
        let histogram = metrics.step.is_multiple_of(together * POINTS_PER_HISTOGRAM);
        point.then(|| self.point(histogram)).flatten()
    }

    /// A point of the steps that none has yet, and a histogram of them; `None` without any.
    pub fn rest(&mut self) -> Option<Event> {
        self.point(true)
    }

    fn point(&mut self, histogram: bool) -> Option<Event> {
        let mut values = std::mem::take(&mut self.since_point).values();
        if let (Some(smoothed), false) = (self.smoothed.value(), values.is_empty()) {
            values.push(("loss/smoothed".to_owned(), Value::Scalar(smoothed)));
        }
        if histogram {
            values.extend(self.histogram());
        }
        let step = self.newest_step;
        (!values.is_empty()).then_some(Event::Summary { step, values })
    }

    /// The mean loss of each part of the time steps: where a bar is is t, and how high it is the loss.
    fn histogram(&mut self) -> Option<(String, Value)> {
        let means: Vec<Option<f64>> = std::mem::take(&mut self.parts)
            .iter()
            .map(Mean::value)
            .collect();
        means.iter().any(Option::is_some).then(|| {
            let end = |part: usize| self.timesteps as f64 * (part + 1) as f64 / PARTS_OF_T as f64;
            let histogram = Histogram {
                start: 0.0,
                ends: (0..PARTS_OF_T).map(end).collect(),
                heights: means.iter().map(|mean| mean.unwrap_or(0.0)).collect(),
            };
            ("loss_over_t".to_owned(), Value::Histogram(histogram))
        })
    }
}

/// The steps that a point at about `step` stands for: a power of two.
fn together(step: u64) -> u64 {
    (step.saturating_sub(1) / SINGLE_STEPS).next_power_of_two()
}

/// An exponential moving average, without the pull towards its start at zero.
#[derive(Debug, Default)]
struct Smoothed {
    sum: f64,
    weight: f64,
}

impl Smoothed {
    fn add(&mut self, number: f64) {
        if number.is_finite() {
            self.sum = DECAY * self.sum + (1.0 - DECAY) * number;
            self.weight = DECAY * self.weight + (1.0 - DECAY);
        }
    }

    fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// The steps since the last point.
#[derive(Debug, Default)]
struct Window {
    loss: Mean,
    grad_norm: Mean,
    images_per_sec: Mean,
    quarters: [Mean; 4],
    lr: Option<f64>,
}

impl Window {
    fn add(&mut self, metrics: &StepMetrics) {
        self.loss.add(metrics.loss);
        self.grad_norm.add(metrics.grad_norm);
        self.images_per_sec.add(metrics.images_per_sec);
        self.lr = Some(metrics.lr);
        let by_t = metrics.loss_by_t.unwrap_or_default();
        for (mean, loss) in self.quarters.iter_mut().zip(by_t.quarters()) {
            loss.into_iter().for_each(|loss| mean.add(loss));
        }
    }

    fn values(&self) -> Vec<(String, Value)> {
        let named = [
            ("loss/raw", self.loss.value()),
            ("train/grad_norm", self.grad_norm.value()),
            ("train/images_per_sec", self.images_per_sec.value()),
            ("train/lr", self.lr),
        ];
        let named = named.map(|(tag, value)| (tag.to_owned(), value));
        let quarters = (1..).zip(&self.quarters);
        let quarters = quarters.map(|(q, mean)| (format!("loss_by_t/q{q}"), mean.value()));
        let all = named.into_iter().chain(quarters);
        all.filter_map(|(tag, value)| Some((tag, Value::Scalar(value?))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LossByT;

    fn metrics(step: u64, loss: f64) -> StepMetrics {
        serde_json::from_value(serde_json::json!({
            "step": step, "loss": loss, "lr": 0.5, "grad_norm": 2.0 * loss, "images_per_sec": 3.0, "secs": 1.0,
        }))
        .unwrap()
    }

    fn scalar(event: &Event, tag: &str) -> Option<f64> {
        let Event::Summary { values, .. } = event else {
            panic!("{event:?}");
        };
        values.iter().find_map(|(name, value)| match value {
            Value::Scalar(number) if name == tag => Some(*number),
            _ => None,
        })
    }

    #[test]
    fn ever_more_steps_are_taken_together() {
        let mut last = 0;
        for (step, wanted) in [
            (1, 1),
            (4000, 1),
            (4001, 2),
            (6001, 4),
            (10_000, 4),
            (10_001, 8),
            (500_000, 256),
        ] {
            assert_eq!(together(step), wanted, "{step}");
        }
        let mut curves = EventCurves::new(1000, &[]);
        let mut points = Vec::new();
        let mut one = metrics(1, 1.0);
        for step in 1..=500_000 {
            one.step = step;
            if let Some(Event::Summary { step: at, .. }) = curves.step(&one) {
                assert_eq!(at, step);
                points.push(at);
            }
            last = step;
        }
        assert_eq!(&points[..4000], (1..=4000).collect::<Vec<_>>());
        assert!((10_000..15_000).contains(&points.len()), "{}", points.len());
        // What no point has yet is one at the end, once.
        let rest = curves.rest();
        assert!(matches!(rest, Some(Event::Summary { step, .. }) if step == last));
        assert_eq!(curves.rest(), None);
    }

    #[test]
    fn a_point_is_the_mean_of_its_steps() {
        let mut curves = EventCurves::new(1000, &[]);
        assert_eq!(curves.step(&metrics(20_001, 1.0)), None);
        assert_eq!(curves.step(&metrics(20_002, f64::INFINITY)), None);
        assert_eq!(curves.step(&metrics(20_003, 4.0)), None);
        let point = curves.rest().unwrap();
        assert_eq!(scalar(&point, "loss/raw"), Some(2.5));
        assert_eq!(scalar(&point, "train/grad_norm"), Some(5.0));
        assert_eq!(scalar(&point, "train/lr"), Some(0.5));
        // 0.99 * 1 and 1 * 4 by their weights.
        let smoothed = scalar(&point, "loss/smoothed").unwrap();
        assert!((smoothed - 4.99 / 1.99).abs() < 1e-12, "{smoothed}");
    }

    #[test]
    fn the_loss_over_t_is_shown_by_quarters_and_as_bars() {
        let mut curves = EventCurves::new(24, &[]);
        let mut step = metrics(20_001, 1.0);
        let mut parts = [None; PARTS_OF_T];
        (parts[0], parts[2], parts[11]) = (Some(2.0), Some(4.0), Some(1.0));
        step.loss_by_t = Some(LossByT(parts));
        assert_eq!(curves.step(&step), None);
        parts[0] = Some(4.0);
        step.loss_by_t = Some(LossByT(parts));
        curves.step(&step);
        let point = curves.rest().unwrap();
        assert_eq!(scalar(&point, "loss_by_t/q1"), Some((3.0 + 4.0) / 2.0));
        assert_eq!(scalar(&point, "loss_by_t/q2"), None);
        assert_eq!(scalar(&point, "loss_by_t/q4"), Some(1.0));
        let Event::Summary { values, .. } = &point else {
            panic!();
        };
        let Some((tag, Value::Histogram(bars))) = values.last() else {
            panic!("{values:?}");
        };
        assert_eq!(
            (tag.as_str(), bars.start, bars.ends[0]),
            ("loss_over_t", 0.0, 2.0)
        );
        assert_eq!(bars.ends.last(), Some(&24.0));
        assert_eq!(
            (
                bars.heights[0],
                bars.heights[1],
                bars.heights[2],
                bars.heights[11]
            ),
            (3.0, 0.0, 4.0, 1.0)
        );
        // The next ones are of later steps.
        step.loss_by_t = None;
        curves.step(&step);
        let point = curves.rest().unwrap();
        assert!(!format!("{point:?}").contains("loss_over_t"), "{point:?}");
    }

    #[test]
    fn the_smoothed_loss_goes_on_where_it_was() {
        let all: Vec<StepMetrics> = (1..=60)
            .map(|step| metrics(step, (step % 7) as f64))
            .collect();
        let last = |before: &[StepMetrics], now: &[StepMetrics]| {
            let mut curves = EventCurves::new(1000, before);
            let points: Vec<Event> = now.iter().filter_map(|step| curves.step(step)).collect();
            scalar(points.last().unwrap(), "loss/smoothed").unwrap()
        };
        assert_eq!(last(&[], &all), last(&all[..40], &all[40..]));
        assert_ne!(last(&[], &all), last(&[], &all[40..]));
    }
}

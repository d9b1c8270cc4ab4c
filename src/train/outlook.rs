//! How long a run will still take: by its own steps, grids and checkpoints as soon as there are some.

use std::time::Duration;

use super::grids;
use crate::config::RunConfig;
use crate::report::duration;
use crate::text::plural;

/// Steps after the first over which the time of one is averaged; then an exponential average over as many.
const AVERAGED_STEPS: u64 = 50;

/// Bytes of a checkpoint that are copied, hashed and written in a second, before one was.
const CHECKPOINT_BYTES_PER_SEC: f64 = 200e6;

/// A forward and backward pass takes as long as three forward passes, and four if blocks are computed again.
const FORWARDS_PER_STEP: f64 = 3.0;

/// What the parts of a run take.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Steps of this start so far.
    steps: u64,
    /// The first one, in which memory is allocated and kernels are chosen, until there is a second.
    secs_per_step: f64,
    /// The latest grids, raw and EMA weights together.
    grids_secs: Option<f64>,
    /// The latest evaluation.
    evaluation_secs: Option<f64>,
    /// The latest time that training stood still for a checkpoint.
    pause_secs: f64,
    /// The last checkpoint of a run, which is waited for.
    last_save_secs: f64,
}

impl Outlook {
    /// Before the first step of a run whose checkpoints take `checkpoint_bytes`.
    pub(super) fn new(checkpoint_bytes: u64) -> Outlook {
        Outlook {
            steps: 0,
            secs_per_step: 0.0,
            grids_secs: None,
            evaluation_secs: None,
            pause_secs: 0.0,
            last_save_secs: checkpoint_bytes as f64 / CHECKPOINT_BYTES_PER_SEC,
        }
    }

    /// True until two steps are measured.
    pub(super) fn is_new(&self) -> bool {
        self.steps < 2
    }

    /// What a step takes on average; 0 before one is measured.
    pub(super) fn secs_per_step(&self) -> f64 {
        self.secs_per_step
    }

    /// A step took `secs`.
    pub(super) fn step(&mut self, secs: f64) {
        let weight = 1.0 / self.steps.clamp(1, AVERAGED_STEPS) as f64;
        self.secs_per_step += weight * (secs - self.secs_per_step);
        self.steps += 1;
    }

    /// The grids of a step took `secs`, finished or given up.
    pub(super) fn grids(&mut self, secs: f64) {
        self.grids_secs = Some(secs);
    }

    /// The evaluation of a step took `secs`.
    pub(super) fn evaluation(&mut self, secs: f64) {
        self.evaluation_secs = Some(secs);
    }

    /// Training stood still for `secs` for a checkpoint, and the one before it took `written` in all.
    pub(super) fn save(&mut self, secs: f64, written: Option<Duration>) {
        self.pause_secs = secs;
        if let Some(written) = written {
            self.last_save_secs = written.as_secs_f64();
        }
    }

    /// What is left after `step` steps, whose own grids and checkpoint are still to come.
    pub(super) fn left(&self, config: &RunConfig, step: u64) -> Duration {
        let secs = (config.train.steps - step) as f64 * self.secs_per_step
            + grids_to_come(config, step) as f64 * self.grids_secs(config)
            + evaluations_to_come(config, step) as f64 * self.evaluation_secs.unwrap_or(0.0)
            + saves_to_come(config, step).saturating_sub(1) as f64 * self.pause_secs
            + self.last_save_secs;
        Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
    }

    /// A line that says what is left, and by which measure.
    pub(super) fn line(&self, config: &RunConfig, step: u64) -> String {
        let mut parts = vec![format!(
            "{} of {}",
            plural(config.train.steps - step, "step"),
            short(self.secs_per_step)
        )];
        let grids = grids_to_come(config, step);
        if grids > 0 {
            let each = short(self.grids_secs(config));
            parts.push(match self.grids_secs {
                Some(_) => format!("{} of {each}", plural(grids, "sample grid")),
                None => format!("{} of perhaps {each}", plural(grids, "sample grid")),
            });
        }
        let evaluations = evaluations_to_come(config, step);
        if evaluations > 0 {
            let each = self
                .evaluation_secs
                .map(|secs| format!(" of {}", short(secs)));
            parts.push(plural(evaluations, "evaluation") + &each.unwrap_or_default());
        }
        parts.push(plural(saves_to_come(config, step), "checkpoint"));
        format!(
            "about {} left: {}",
            duration(self.left(config, step)),
            parts.join(", ")
        )
    }

    /// The grids of one step; before the first, by the forward passes that they take.
    fn grids_secs(&self, config: &RunConfig) -> f64 {
        self.grids_secs.unwrap_or_else(|| {
            let again = f64::from(u8::from(config.train.checkpoint_blocks));
            let forward = self.secs_per_step / (FORWARDS_PER_STEP + again);
            let images = config.sample.images as f64 / config.train.batch as f64;
            let grid = grids::evaluations_each(config) as f64 * images * forward;
            let limit = config.train.sample_limit_secs as f64;
            // One that would take too long is given up within a few evaluations.
            if limit > 0.0 && grid > limit {
                0.0
            } else {
                2.0 * grid
            }
        })
    }
}

/// Steps from `step` to the last, both counted, with grids.
fn grids_to_come(config: &RunConfig, step: u64) -> u64 {
    events(config, config.sample.every_steps, step)
}

/// The same for evaluations.
fn evaluations_to_come(config: &RunConfig, step: u64) -> u64 {
    let wanted = config.evaluation.as_ref();
    wanted.map_or(0, |wanted| events(config, wanted.every_steps, step))
}

/// The same for checkpoints.
fn saves_to_come(config: &RunConfig, step: u64) -> u64 {
    events(config, config.train.save_every_steps, step)
}

/// Multiples of `every` from `step` to the last step, and the last step; none if `every` is 0.
fn events(config: &RunConfig, every: u64, step: u64) -> u64 {
    if every == 0 {
        return 0;
    }
    let last = config.train.steps;
    let up_to = |step: u64| step / every;
    up_to(last) - up_to(step.saturating_sub(1)) + u64::from(!last.is_multiple_of(every))
}

/// "0.024 s", "3.1 s", "4 min 5 s".
fn short(secs: f64) -> String {
    match secs {
        0.0..0.1 => format!("{secs:.3} s"),
        0.1..10.0 => format!("{secs:.1} s"),
        _ => duration(Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn config() -> RunConfig {
        let mut config = Preset::Demo.config();
        config.train.steps = 100;
        config.train.batch = 8;
        config.train.save_every_steps = 40;
        config.train.sample_steps = 30;
        config.train.sample_limit_secs = 0;
        config.sample.every_steps = 50;
        config.sample.images = 16;
        config
    }

    #[test]
    fn grids_and_checkpoints_are_counted_up_to_the_last_step() {
        let config = config();
        let counted = |step| (grids_to_come(&config, step), saves_to_come(&config, step));
        assert_eq!(
            [1, 50, 51, 100].map(counted),
            [(2, 3), (2, 2), (1, 2), (1, 1)]
        );
        let mut none = config.clone();
        none.sample.every_steps = 0;
        assert_eq!(grids_to_come(&none, 1), 0);
    }

    #[test]
    fn the_first_step_counts_only_until_there_is_a_second() {
        let config = config();
        let secs = |outlook: &Outlook, step| outlook.left(&config, step).as_secs_f64();
        let mut outlook = Outlook::new(0);
        outlook.step(9.0);
        assert!(outlook.is_new());
        outlook.step(0.3);
        assert!(!outlook.is_new());
        // 98 steps, and twice two grids of 30 evaluations of twice a batch, each a third of a step.
        let grids = 2.0 * 2.0 * 30.0 * 2.0 * 0.1;
        assert!((secs(&outlook, 2) - (98.0 * 0.3 + grids)).abs() < 1e-6);
        outlook.step(0.5);
        assert!((outlook.secs_per_step - 0.4).abs() < 1e-12);
        // What was measured replaces what was reckoned.
        outlook.grids(3.0);
        outlook.save(0.25, Some(Duration::from_secs(2)));
        let want = 97.0 * 0.4 + 2.0 * 3.0 + 2.0 * 0.25 + 2.0;
        assert!((secs(&outlook, 3) - want).abs() < 1e-6);
        let line = outlook.line(&config, 3);
        let want = "about 47 s left: 97 steps of 0.4 s, 2 sample grids of 3.0 s, 3 checkpoints";
        assert_eq!(line, want);
    }

    #[test]
    fn grids_that_would_take_too_long_are_left_out_here_too() {
        let mut config = config();
        config.train.sample_limit_secs = 5;
        let mut outlook = Outlook::new(0);
        outlook.step(1.0);
        outlook.step(1.0);
        assert_eq!(outlook.left(&config, 2), Duration::from_secs(98));
    }
}

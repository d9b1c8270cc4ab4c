//! Evaluations of a run: when their numbers are taken, and what follows from them.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Run;
use crate::checkpoint::{BEST, Evaluations};
use crate::report::{EvaluationMetrics, duration, evaluations as written};
use crate::text::plural;
use crate::train::evaluations::{self, Evaluator, Values};
use crate::train::ranks;

/// Share of the time from which evaluations are warned about.
const LARGE_SHARE: f64 = 0.2;

impl Run {
    /// Evaluates, while other ranks wait. Returns true if this step is the best so far.
    pub(in crate::train) fn evaluate(&mut self) -> Result<bool> {
        let group = self.group.clone();
        ranks::led(group.as_ref(), || self.evaluate_here())?;
        self.share_evaluations()?;
        let step = self.trainer.step;
        let found = self.trainer.history.evaluations.as_ref();
        Ok(found.is_some_and(|found| found.best_step == step))
    }

    /// True if an evaluation is due now and not done.
    pub(in crate::train) fn lacks_evaluation(&self) -> bool {
        let step = self.trainer.step;
        let done = self.trainer.history.evaluations.as_ref();
        self.writes()
            && evaluations::are_due(&self.config, step)
            && done.is_none_or(|done| done.last != step)
    }

    /// True if there were as many evaluations without a better value as the settings allow.
    pub(in crate::train) fn is_out_of_patience(&self) -> bool {
        let patience = self.config.evaluation.as_ref().and_then(|e| e.patience);
        let found = self.trainer.history.evaluations.as_ref();
        found.is_some_and(|found| patience.is_some_and(|patience| found.since >= patience))
    }

    /// The end of a run that does not become better.
    pub(in crate::train) fn finish_early(&mut self) -> Result<()> {
        let step = self.trainer.step;
        if let Some(found) = self.trainer.history.evaluations.clone() {
            self.observer.message(&format!(
                "ended at step {step}: no better value in {} since step {}; raise `evaluation.patience` to go on",
                plural(found.since, "evaluation"),
                found.best_step
            ));
        }
        self.finish()
    }

    /// Has all ranks know what rank 0 has found, so that they all save or end, or none does.
    pub(super) fn share_evaluations(&mut self) -> Result<()> {
        if let Some(group) = &self.group {
            let history = &mut self.trainer.history;
            let found = group.share(|| Ok(serde_json::to_vec(&history.evaluations)?))?;
            history.evaluations = serde_json::from_slice(&found)?;
        }
        Ok(())
    }

    /// An evaluation that the last start did not get to, or did not save; it is saved with the state.
    pub(super) fn make_up_for_evaluation(&mut self) -> Result<()> {
        let step = self.trainer.step;
        let lines = written(&self.folder.metrics_path())?;
        let line = lines.into_iter().rfind(|line| line.step == step);
        let value = |line: &EvaluationMetrics| self.decides(&line.evaluation).is_ok();
        match line.filter(value) {
            Some(line) => {
                let evaluator = self.evaluator()?;
                self.take_evaluation(&evaluator, &line.evaluation)?;
                self.evaluator = Some(evaluator);
            }
            None => self.evaluate_here()?,
        }
        match self.lacks_evaluation() {
            true => Ok(()),
            false => self.save_here(true),
        }
    }

    pub(super) fn evaluate_here(&mut self) -> Result<()> {
        if !self.lacks_evaluation() {
            return Ok(());
        }
        let done = self.try_to_evaluate();
        let step = self.trainer.step;
        if done.is_ok() && self.stop.reason().is_some() && self.lacks_evaluation() {
            self.observer.message(&format!(
                "step {step} is not evaluated, as the run is stopping"
            ));
        }
        self.warn_unless_strict(
            done.with_context(|| format!("the evaluation of step {step} is left out")),
        )
    }

    fn try_to_evaluate(&mut self) -> Result<()> {
        // It swaps the weights for their average.
        self.saver.iter_mut().for_each(super::Saver::wait_for_copy);
        let before = Instant::now();
        let evaluator = self.evaluator()?;
        let started = Instant::now();
        let Run {
            readback,
            budget,
            config,
            trainer,
            stop,
            observer,
            ..
        } = self;
        let found = budget.watch(|| evaluator.evaluate(config, trainer, stop, &**observer));
        let secs = started.elapsed().as_secs_f64();
        readback.outside_the_clock_for(before.elapsed());
        if let Some(values) = found? {
            self.take_evaluation(&evaluator, &values)?;
            let metrics = EvaluationMetrics {
                step: self.trainer.step,
                evaluation: values,
            };
            self.readback.write_evaluation(&metrics);
            self.readback.outlook.evaluation(secs);
            self.tell_share(secs);
        }
        self.evaluator = Some(evaluator);
        Ok(())
    }

    /// What evaluations need, made for the first of a start.
    fn evaluator(&mut self) -> Result<Evaluator> {
        match self.evaluator.take() {
            Some(evaluator) => Ok(evaluator),
            None => Evaluator::new(&self.config, &self.data, self.chosen.device),
        }
    }

    /// The value by which a step is the best.
    fn decides(&self, values: &Values) -> Result<f64> {
        let wanted = self.config.evaluation.as_ref();
        let name = wanted.map_or("", |wanted| wanted.deciding().name());
        match values.get(name) {
            Some(value) if value.is_finite() => Ok(*value),
            found => bail!("{name} is {found:?}, and a finite number is wanted"),
        }
    }

    /// Remembers an evaluation of this step, and tells of it.
    fn take_evaluation(&mut self, evaluator: &Evaluator, values: &Values) -> Result<()> {
        let (step, value) = (self.trainer.step, self.decides(values)?);
        let before = self.trainer.history.evaluations.take();
        let measure = &evaluator.measure;
        if let Some(before) = before.as_ref().filter(|before| before.measure != *measure) {
            self.observer.message(&format!(
                "the best step is sought anew from here on, by {measure}; step {} was the best by {}",
                before.best_step, before.measure
            ));
        }
        let now = Evaluations::after(before.as_ref(), step, measure, value);
        let mut said: Vec<String> = (values.iter())
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        said.push(match now.best_step == step {
            true => "the best so far".to_owned(),
            false => format!("the best is step {} with {:.4}", now.best_step, now.best),
        });
        let said = said.join(", ");
        self.observer.message(&format!("step {step}: {said}"));
        self.trainer.history.evaluations = Some(now);
        Ok(())
    }

    /// Says once which share of the time evaluations take, as soon as steps have been measured too.
    fn tell_share(&mut self, secs: f64) {
        let Some(wanted) = &self.config.evaluation else {
            return;
        };
        let outlook = &self.readback.outlook;
        if self.told_share || outlook.is_new() {
            return;
        }
        self.told_share = true;
        let every = wanted.every_steps;
        let between = every as f64 * outlook.secs_per_step();
        let share = secs / (secs + between);
        let time = duration(std::time::Duration::from_secs_f64(secs));
        let said = format!(
            "evaluations take {:.0} % of the time: {time} each, {every} steps {}",
            100.0 * share,
            duration(std::time::Duration::from_secs_f64(between))
        );
        self.observer.message(&match share >= LARGE_SHARE {
            true => format!(
                "warning: {said}; raise `evaluation.every_steps`, or lower `evaluation.images`"
            ),
            false => said,
        });
    }

    /// Names the best step at the end of a start.
    pub(super) fn tell_best(&self) {
        let found = self.trainer.history.evaluations.as_ref();
        let Some(found) = found.filter(|_| self.writes() && self.config.evaluation.is_some())
        else {
            return;
        };
        let best = self.folder.dir().join("checkpoints").join(BEST);
        let kept = match best.exists() {
            true => format!(", kept as {}", best.display()),
            false => String::new(),
        };
        self.observer.message(&format!(
            "best step: {} with {:.4} ({}){kept}",
            found.best_step, found.best, found.measure
        ));
    }
}

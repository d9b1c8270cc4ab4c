//! What TensorBoard shows of a run: `RUN/events.out.tfevents.…`, one file a start (docs/tensorboard.md).
//!
//! Nothing here waits: a thread of its own writes (`report::EventsWriter`), and what fails ends nothing.

use std::sync::Arc;

use tch::Device;

use super::Observer;
use crate::checkpoint::{RunFolder, Weights};
use crate::config::RunConfig;
use crate::memory::peak_resident_bytes;
use crate::native::cuda_tensors;
use crate::report::{
    EvaluationMetrics, Event, EventCurves, EventsWriter, Gauge, StepMetrics, Value, newest_steps,
};

/// Steps before a start by which its smoothed loss goes on where it was.
const STEPS_BEFORE: usize = 1000;

/// The events of a start, if they are wanted; nothing is written before its first step, evaluation or grid.
#[derive(Debug)]
pub(super) struct Board {
    on: Option<On>,
}

#[derive(Debug)]
struct On {
    writer: EventsWriter,
    curves: EventCurves,
    folder: RunFolder,
    /// What comes before the first value.
    opening: Vec<Event>,
    observer: Arc<dyn Observer>,
}

impl Board {
    /// Takes everything, and writes nothing.
    pub(super) fn off() -> Board {
        Board { on: None }
    }

    /// Events of a run that goes on from `step`, where its metrics.jsonl ends.
    pub(super) fn open(
        folder: &RunFolder,
        config: &RunConfig,
        step: u64,
        device: Device,
        observer: Arc<dyn Observer>,
    ) -> Board {
        let writer = match EventsWriter::start(folder.dir(), gauge(device)) {
            Ok(writer) => writer,
            Err(error) => {
                observer.message(&format!(
                    "warning: no events for TensorBoard are written: {error}"
                ));
                return Board::off();
            }
        };
        let on = On {
            writer,
            curves: curves(folder, config),
            folder: folder.clone(),
            opening: vec![Event::Start { step: step + 1 }, settings(config, step)],
            observer,
        };
        Board { on: Some(on) }
    }

    /// A step is done.
    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        if let Some(on) = &mut self.on {
            let point = on.curves.step(metrics);
            on.write(point);
        }
    }

    /// An evaluation is done.
    pub(super) fn evaluation(&mut self, metrics: &EvaluationMetrics) {
        if let Some(on) = &mut self.on {
            let values = metrics.evaluation.iter();
            let values = values.filter(|(_, value)| value.is_finite());
            let tagged =
                values.map(|(name, value)| (format!("evaluation/{name}"), Value::Scalar(*value)));
            let (step, values) = (metrics.step, tagged.collect());
            on.write(Some(Event::Summary { step, values }));
        }
    }

    /// The grids of a step are on the disk.
    pub(super) fn grids(&mut self, step: u64) {
        let Some(on) = &mut self.on else { return };
        on.write(None);
        for which in [Weights::Raw, Weights::Ema] {
            let name = which.to_string().to_lowercase();
            let path = on.folder.sample_path(step, &name);
            // It may be left out.
            if path.exists() {
                on.writer.image(step, &format!("grids/{name}"), path);
            }
        }
    }

    /// A checkpoint is being written: all up to it is to be on the disk too.
    pub(super) fn save(&mut self) {
        if let Some(on) = &mut self.on {
            on.save();
        }
    }

    /// The run goes on from an earlier step, where its metrics.jsonl ends again: later ones do not count any more.
    pub(super) fn go_back_to(&mut self, step: u64, config: &RunConfig) {
        if let Some(on) = &mut self.on {
            on.curves = curves(&on.folder, config);
            on.write(Some(Event::Start { step: step + 1 }));
        }
    }

    /// The end of a start.
    pub(super) fn finish(&mut self) {
        if let Some(mut on) = self.on.take() {
            on.save();
            let said = on.writer.finish();
            said.iter().for_each(|line| on.observer.message(line));
        }
    }
}

impl Drop for Board {
    /// However the run ends.
    fn drop(&mut self) {
        self.finish();
    }
}

impl On {
    fn write(&mut self, event: Option<Event>) {
        let events = self.opening.drain(..).chain(event);
        events.for_each(|event| self.writer.write(event));
        let said = self.writer.messages();
        said.iter().for_each(|line| self.observer.message(line));
    }

    fn save(&mut self) {
        if let Some(rest) = self.curves.rest() {
            self.write(Some(rest));
        }
        self.writer.sync();
    }
}

fn curves(folder: &RunFolder, config: &RunConfig) -> EventCurves {
    // Without them, the smoothed loss begins anew.
    let before = newest_steps(&folder.metrics_path(), STEPS_BEFORE).unwrap_or_default();
    EventCurves::new(config.diffusion.timesteps, &before)
}

/// The settings, as a block of code in Markdown, which lines of four spaces are whatever is in them.
fn settings(config: &RunConfig, step: u64) -> Event {
    let toml = config.to_toml().unwrap_or_default();
    let lines: String = toml.lines().map(|line| format!("    {line}\n")).collect();
    Event::Summary {
        step,
        values: vec![("settings".to_owned(), Value::Text(lines))],
    }
}

/// The most memory that was in use so far.
fn gauge(device: Device) -> Gauge {
    Box::new(move || {
        let (tag, bytes) = match device {
            Device::Cuda(index) => (
                "cuda_peak_allocated_bytes",
                Some(cuda_tensors(index).ok()?.peak_bytes),
            ),
            _ => ("peak_resident_bytes", peak_resident_bytes()),
        };
        Some((format!("memory/{tag}"), bytes? as f64))
    })
}

//! The one thread that computes: it takes jobs from the queue, and keeps at most one network.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ndarray::Axis;
use serde_json::json;

use super::catalogue::Key;
use super::draw::{Drawn, Watcher, draw};
use super::jobs::{End, Jobs, Made, Task};
use super::memory::{Limit, Needs};
use super::preview::{of_figure, preview};
use super::settings;
use super::state::State;
use super::wish::Shows;
use crate::checkpoint::Weights;
use crate::config::RunConfig;
use crate::device::Chosen;
use crate::interop::Request;
use crate::memory::{message_in, return_cached};
use crate::pretrained::Pretrained;
use crate::report::{ImageSettings, duration, encode_png};
use crate::sample::{Step, give_up, unless_given_up};

/// Least time between two images of the job that runs.
const BETWEEN_IMAGES: Duration = Duration::from_millis(125);
/// A network that nobody used for so long is dropped, with its memory.
const IDLE: Duration = Duration::from_secs(300);

/// Starts the thread.
///
/// # Errors
/// The system refuses one.
pub(super) fn start(state: Arc<State>, device: Chosen, niceness: i32) -> Result<()> {
    let work = move || {
        // On Linux, of this thread alone, and of those that libtorch starts from it. Without, it competes as others do.
        let _ = rustix::process::nice(niceness);
        // Networks stay on the thread that made them.
        let worker = Worker {
            state,
            device,
            loaded: None,
        };
        worker.run();
    };
    let thread = thread::Builder::new().name("device".to_owned());
    thread.spawn(work).context("no thread to compute in")?;
    Ok(())
}

struct Worker {
    state: Arc<State>,
    device: Chosen,
    loaded: Option<Loaded>,
}

/// A network on the device.
struct Loaded {
    key: Key,
    network: Pretrained,
    needs: Needs,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.state.jobs.next(IDLE) {
                Some(task) => {
                    let begun = Instant::now();
                    let end = self.end_of(&task);
                    self.state.jobs.end(task.id, end, begun.elapsed());
                }
                None => self.loaded = None,
            }
            // What libtorch keeps for later is what a training run beside may need.
            return_cached(self.device.device);
        }
    }

    /// Does a job, whatever happens.
    fn end_of(&mut self, task: &Task) -> End {
        let done = catch_unwind(AssertUnwindSafe(|| unless_given_up(|| self.make(task))));
        match done {
            Ok(Some(Ok(made))) => End::Done(made),
            Ok(Some(Err(error))) => End::Failed(format!("{error:#}")),
            Ok(None) if task.is_cancelled() => End::Cancelled,
            Ok(None) => End::Failed(format!(
                "it took longer than {} and was ended (--job-limit)",
                duration(self.state.job_limit)
            )),
            Err(panic) => {
                // Whatever state it is in.
                self.loaded = None;
                End::Failed(said_by(&panic))
            }
        }
    }

    fn make(&mut self, task: &Task) -> Result<Made> {
        let wish = &task.wish;
        let key = (self.state.catalogue).key(wish.network, wish.step, wish.raw)?;
        let (limit, device) = (self.state.limit, self.device.clone());
        let mut watcher = Progress::new(&self.state.jobs, task, self.state.job_limit);
        watcher.loading();
        if self.loaded.as_ref().is_none_or(|loaded| loaded.key != key) {
            // First of all the memory of the one before.
            self.loaded = None;
            return_cached(device.device);
            let config = self.state.catalogue.config(wish.network)?;
            self.loaded = Some(Loaded::new(key, &config, &device, limit)?);
        }
        let loaded = self.loaded.as_ref().context("a network is loaded")?;
        limit.check_job(&loaded.needs, wish.batch(), wish.is_guided())?;
        let network = &loaded.network;
        let drawn = draw(network, wish, &task.files, &mut watcher)?;
        watcher.end(&drawn)?;
        made(network, &device, task, drawn)
    }
}

impl Loaded {
    fn new(key: Key, config: &RunConfig, device: &Chosen, limit: Limit) -> Result<Loaded> {
        limit.check_weights(config)?;
        let request = Request {
            raw: key.weights == Weights::Raw,
            ..Request::default()
        };
        let mut network = Pretrained::load_with(&key.path, &request, device.device)?;
        network.set_precision(device.precision);
        let needs = Needs::measure(&network)?;
        Ok(Loaded {
            key,
            network,
            needs,
        })
    }
}

/// The files of what was drawn.
fn made(network: &Pretrained, device: &Chosen, task: &Task, drawn: Drawn) -> Result<Made> {
    let all = settings::of_job(network, device, &task.wish, &drawn)?;
    let images = drawn
        .images
        .axis_iter(Axis(0))
        .enumerate()
        .map(|(number, image)| {
            let one = settings::of_image(&all, number as u64, &task.wish, network.config());
            encode_png(image, Some(&one.to_json()?))
        });
    let (count, height, width, _) = drawn.images.dim();
    let all = ImageSettings {
        images: Some(count as u64),
        ..all.clone()
    };
    Ok(Made {
        images: images.collect::<Result<_>>()?,
        figure: encode_png(drawn.figure.view(), Some(&all.to_json()?))?,
        size: (width, height),
        notes: drawn.notes,
    })
}

/// Tells how far a job is, and ends it when nobody wants it any more.
struct Progress<'a> {
    jobs: &'a Jobs,
    task: &'a Task,
    end: Instant,
    steps: usize,
    done: usize,
    shown: Option<Instant>,
}

impl<'a> Progress<'a> {
    fn new(jobs: &'a Jobs, task: &'a Task, limit: Duration) -> Progress<'a> {
        Progress {
            jobs,
            task,
            end: Instant::now() + limit,
            steps: 0,
            done: 0,
            shown: None,
        }
    }

    fn loading(&self) {
        self.jobs
            .tell_progress(&json!({ "job": self.task.id, "stage": "loading" }));
    }

    fn tell(&self, image: Option<String>) {
        self.jobs.tell_progress(&json!({
            "job": self.task.id,
            "stage": "running",
            "done": self.done,
            "of": self.steps,
            "image": image,
        }));
    }

    /// The last image, always.
    fn end(&mut self, drawn: &Drawn) -> Result<()> {
        self.done = self.steps;
        self.tell(Some(of_figure(drawn.figure.clone())?));
        Ok(())
    }
}

impl Watcher for Progress<'_> {
    fn begin(&mut self, steps: usize) {
        self.steps = steps;
        self.tell(None);
    }

    fn step(&mut self, step: &Step) {
        self.done += 1;
        let now = Instant::now();
        if self.task.is_cancelled() || now > self.end {
            give_up();
        }
        if self.shown.is_some_and(|shown| now - shown < BETWEEN_IMAGES) {
            return;
        }
        self.shown = Some(now);
        let image = match self.task.wish.shows {
            Shows::Estimate => preview(&step.estimate.x_0_hat()),
            Shows::Noisy => preview(step.x),
        };
        // An image less is no reason to end a job.
        self.tell(image.ok());
    }
}

/// What a panic says, for people.
fn said_by(panic: &Box<dyn Any + Send>) -> String {
    match panic.downcast_ref::<String>() {
        Some(text) if text.contains("Torch(\"") => format!("libtorch: {}", message_in(text)),
        _ => "a bug in this program; its message is where `ddpm serve` was started".to_owned(),
    }
}

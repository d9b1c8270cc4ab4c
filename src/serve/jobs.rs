//! The queue: one job at a time on the device, and what became of the last ones.
//!
//! What changes is put into words once, for all pages that listen: the list of jobs when one begins or ends, and the
//! progress of the one that runs. Both are the newest only, so that a page that is slow to read costs no memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::refusal::Refusal;
use super::wish::Wish;

/// Jobs that may wait.
const MOST_WAITING: usize = 16;
/// Finished jobs that are kept, and the bytes of their images.
const KEPT: usize = 24;
const KEPT_BYTES: usize = 128 << 20;

/// All jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    state: Mutex<State>,
    /// A job has come.
    came: Condvar,
    list: watch::Sender<Arc<str>>,
    progress: watch::Sender<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order that they came in.
    jobs: VecDeque<Job>,
}

/// A job.
#[derive(Debug)]
struct Job {
    id: u64,
    wish: Arc<Wish>,
    /// The images from the page that it needs, while it waits.
    files: Vec<Arc<Vec<u8>>>,
    cancelled: Arc<AtomicBool>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Running,
    Done(Arc<Made>, Duration),
    Cancelled,
    Failed(String),
}

/// What a job has made.
#[derive(Debug)]
pub(super) struct Made {
    /// All images in one, as PNG.
    pub(super) figure: Vec<u8>,
    /// Each image as PNG.
    pub(super) images: Vec<Vec<u8>>,
    /// Width and height of each, in pixels.
    pub(super) size: (usize, usize),
    /// What there is to say about them.
    pub(super) notes: Vec<String>,
}

impl Made {
    fn bytes(&self) -> usize {
        self.figure.len() + self.images.iter().map(Vec::len).sum::<usize>()
    }
}

/// A job that is to be done now.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) wish: Arc<Wish>,
    /// The images from the page that it needs, in the order of [`Wish::uploads`].
    pub(super) files: Vec<Arc<Vec<u8>>>,
    cancelled: Arc<AtomicBool>,
}

impl Task {
    /// True once nobody wants it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// How a job ended.
#[derive(Debug)]
pub(super) enum End {
    Done(Made),
    Cancelled,
    Failed(String),
}

impl Jobs {
    pub(super) fn new() -> Jobs {
        let nothing = || watch::Sender::new(Arc::from("[]"));
        Jobs {
            state: Mutex::default(),
            came: Condvar::new(),
            list: nothing(),
            progress: watch::Sender::new(Arc::from("{}")),
        }
    }

    /// Hears of each change of the list.
    pub(super) fn listen(&self) -> watch::Receiver<Arc<str>> {
        self.list.subscribe()
    }

    /// Hears of the progress of whatever runs.
    pub(super) fn listen_to_progress(&self) -> watch::Receiver<Arc<str>> {
        self.progress.subscribe()
    }

    /// The list in JSON.
    pub(super) fn list(&self) -> Arc<str> {
        Arc::clone(&self.list.borrow())
    }

    /// Has a job wait for its turn, with the images that it needs; returns its number.
    ///
    /// # Errors
    /// Too many wait already.
    pub(super) fn add(&self, wish: Wish, files: Vec<Arc<Vec<u8>>>) -> Result<u64, Refusal> {
        let mut state = self.lock();
        let waiting = |job: &&Job| matches!(job.stage, Stage::Waiting);
        if state.jobs.iter().filter(waiting).count() >= MOST_WAITING {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("{MOST_WAITING} jobs are waiting already; cancel some, or wait"),
            ));
        }
        let id = state.next;
        state.next += 1;
        state.jobs.push_back(Job {
            id,
            wish: Arc::new(wish),
            files,
            cancelled: Arc::default(),
            stage: Stage::Waiting,
        });
        self.tell(&state);
        self.came.notify_one();
        Ok(id)
    }

    /// Takes a job out of the queue, or has the one that runs end after its step.
    ///
    /// # Errors
    /// There is no such job.
    pub(super) fn cancel(&self, id: u64) -> Result<(), Refusal> {
        let mut state = self.lock();
        let job = state.jobs.iter_mut().find(|job| job.id == id);
        let job = job.ok_or_else(|| Refusal::missing("job"))?;
        job.cancelled.store(true, Ordering::Relaxed);
        if let Stage::Waiting = job.stage {
            job.stage = Stage::Cancelled;
            job.files.clear();
        }
        self.tell(&state);
        Ok(())
    }

    /// Waits for the next job, for at most `patience`; it runs from now on.
    pub(super) fn next(&self, patience: Duration) -> Option<Task> {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let mut waiting = state.jobs.iter_mut();
            if let Some(job) = waiting.find(|job| matches!(job.stage, Stage::Waiting)) {
                job.stage = Stage::Running;
                let task = Task {
                    id: job.id,
                    wish: Arc::clone(&job.wish),
                    files: std::mem::take(&mut job.files),
                    cancelled: Arc::clone(&job.cancelled),
                };
                self.tell(&state);
                return Some(task);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.came.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends a job, and forgets the oldest ones.
    pub(super) fn end(&self, id: u64, end: End, took: Duration) {
        let mut state = self.lock();
        if let Some(job) = state.jobs.iter_mut().find(|job| job.id == id) {
            job.stage = match end {
                End::Done(made) => Stage::Done(Arc::new(made), took),
                End::Cancelled => Stage::Cancelled,
                End::Failed(said) => Stage::Failed(said),
            };
        }
        state.forget();
        self.tell(&state);
    }

    /// Tells how far the job that runs is, with an image of it.
    pub(super) fn tell_progress(&self, progress: &Value) {
        self.progress.send_replace(Arc::from(progress.to_string()));
    }

    /// What a job has made.
    ///
    /// # Errors
    /// No such job, or one that has made nothing.
    pub(super) fn made(&self, id: u64) -> Result<Arc<Made>, Refusal> {
        let state = self.lock();
        let made = state.jobs.iter().find_map(|job| match &job.stage {
            Stage::Done(made, _) if job.id == id => Some(Arc::clone(made)),
            _ => None,
        });
        made.ok_or_else(|| Refusal::missing("image; the last 24 jobs are kept"))
    }

    fn tell(&self, state: &State) {
        let jobs: Value = state.jobs.iter().map(Job::to_json).collect();
        self.list.send_replace(Arc::from(jobs.to_string()));
    }

    /// A panic cannot leave the list half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the oldest finished jobs that are too many, or too large.
    fn forget(&mut self) {
        let is_over = |job: &Job| !matches!(job.stage, Stage::Waiting | Stage::Running);
        loop {
            let over = self.jobs.iter().filter(|job| is_over(job));
            let bytes: usize = over.clone().map(Job::bytes).sum();
            let count = over.count();
            // The newest stays, however large.
            if count <= 1 || (count <= KEPT && bytes <= KEPT_BYTES) {
                return;
            }
            match self.jobs.iter().position(is_over) {
                Some(oldest) => drop(self.jobs.remove(oldest)),
                None => return,
            }
        }
    }
}

impl Job {
    fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Done(made, _) => made.bytes(),
            _ => 0,
        }
    }

    fn to_json(&self) -> Value {
        let mut job = json!({ "id": self.id, "wish": *self.wish });
        match &self.stage {
            Stage::Waiting => job["state"] = "waiting".into(),
            Stage::Running if self.cancelled.load(Ordering::Relaxed) => {
                job["state"] = "stopping".into();
            }
            Stage::Running => job["state"] = "running".into(),
            Stage::Done(made, took) => {
                job["state"] = "done".into();
                job["images"] = made.images.len().into();
                job["width"] = made.size.0.into();
                job["height"] = made.size.1.into();
                job["notes"] = made.notes.clone().into();
                job["secs"] = took.as_secs_f64().into();
            }
            Stage::Cancelled => job["state"] = "cancelled".into(),
            Stage::Failed(said) => {
                job["state"] = "failed".into();
                job["error"] = said.as_str().into();
            }
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn wish() -> Wish {
        let json =
            br#"{"network": 0, "sampler": "ddim", "seed": 1, "number": 1, "task": "sample"}"#;
        Wish::read(json).unwrap()
    }

    fn made(bytes: usize) -> End {
        End::Done(Made {
            figure: vec![0; bytes],
            images: vec![],
            size: (1, 1),
            notes: vec![],
        })
    }

    fn states(jobs: &Jobs) -> Vec<String> {
        let list: Vec<Value> = serde_json::from_str(&jobs.list()).unwrap();
        list.iter()
            .map(|job| job["state"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn one_job_runs_after_the_other_and_cancelled_ones_do_not() {
        let jobs = Jobs::new();
        let ids: Vec<u64> = (0..3).map(|_| jobs.add(wish(), vec![]).unwrap()).collect();
        let first = jobs.next(NOW).unwrap();
        assert_eq!((first.id, first.is_cancelled()), (ids[0], false));
        jobs.cancel(ids[1]).unwrap();
        jobs.cancel(ids[0]).unwrap();
        assert!(first.is_cancelled() && jobs.cancel(99).is_err());
        assert_eq!(states(&jobs), ["stopping", "cancelled", "waiting"]);
        jobs.end(ids[0], End::Cancelled, NOW);
        assert_eq!(jobs.next(NOW).unwrap().id, ids[2]);
        assert!(jobs.next(NOW).is_none());
        jobs.end(ids[2], made(9), NOW);
        assert_eq!(states(&jobs), ["cancelled", "cancelled", "done"]);
        assert_eq!(jobs.made(ids[2]).unwrap().figure.len(), 9);
        assert!(jobs.made(ids[0]).is_err());
    }

    #[test]
    fn images_stay_with_the_job_that_waits_for_them() {
        let jobs = Jobs::new();
        let file = Arc::new(vec![7]);
        let ids: Vec<u64> = (0..2)
            .map(|_| jobs.add(wish(), vec![Arc::clone(&file)]).unwrap())
            .collect();
        jobs.cancel(ids[0]).unwrap();
        let task = jobs.next(NOW).unwrap();
        assert_eq!((task.id, &task.files), (ids[1], &vec![Arc::clone(&file)]));
        // Neither one that is cancelled nor one that runs keeps them in the list.
        drop(task);
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn the_queue_and_what_is_kept_have_ends() {
        let jobs = Jobs::new();
        for _ in 0..MOST_WAITING {
            jobs.add(wish(), vec![]).unwrap();
        }
        let refused = jobs.add(wish(), vec![]).unwrap_err();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        for _ in 0..MOST_WAITING {
            let task = jobs.next(NOW).unwrap();
            jobs.end(task.id, made(KEPT_BYTES / 4), NOW);
        }
        assert_eq!(states(&jobs).len(), 4);
        for _ in 0..2 * KEPT {
            let id = jobs.add(wish(), vec![]).unwrap();
            jobs.cancel(id).unwrap();
            jobs.end(id, End::Cancelled, NOW);
        }
        assert_eq!(states(&jobs).len(), KEPT);
    }
}

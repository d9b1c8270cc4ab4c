//! Writes checkpoints in a thread of its own, beside training.
//!
//! A save hardly slows training: the writer copies the state while the next step's forward and backward only read it,
//! and the step waits for the copy, if need be, before it changes anything. Hashing, writing and fsync follow while
//! training continues.

use std::fs::File;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tch::{Device, Kind, Tensor};

use super::Trainer;
use super::state::{SECTIONS, flats, meta};
use crate::checkpoint::{Meta, RunFolder};
use crate::config::RunConfig;
use crate::device::synchronize;
use crate::fs::free_bytes;
use crate::native::{copy_aside, host_bytes, pinned_like};
use crate::optim::Layout;
use crate::report::bytes;

/// Longest wait of a save for the one before it. A disk that hangs for longer does not stop training.
const PATIENCE: Duration = Duration::from_secs(10);

/// One checkpoint to write.
struct Job {
    meta: Meta,
    live: [Tensor; 4],
    layout: Layout,
    keep: usize,
    metrics: File,
}

/// The writer thread, and the state of its work.
#[derive(Debug)]
pub(super) struct Saver {
    jobs: Option<SyncSender<Job>>,
    copied: Receiver<Result<()>>,
    written: Receiver<Result<Duration>>,
    thread: Option<JoinHandle<()>>,
    environment: String,
    copying: bool,
    writing: bool,
    /// Longest pause of training for a save.
    pub(super) longest_stall: Duration,
    /// Time of the latest save that succeeded, from the copy to the last fsync.
    pub(super) last_took: Option<Duration>,
}

impl Saver {
    /// Starts the writer; `environment` describes the device and libraries. `after` is called there after each save, and must
    /// not take long.
    pub(super) fn start(
        folder: &RunFolder,
        environment: String,
        after: impl Fn() + Send + 'static,
    ) -> Result<Saver> {
        let (jobs, to_do) = sync_channel(1);
        let (tell_copied, copied) = channel();
        let (tell_written, written) = channel();
        let folder = folder.clone();
        let thread = thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || write_all(&folder, &to_do, &tell_copied, &tell_written, &after))?;
        Ok(Saver {
            jobs: Some(jobs),
            copied,
            written,
            thread: Some(thread),
            environment,
            copying: false,
            writing: false,
            longest_stall: Duration::ZERO,
            last_took: None,
        })
    }

    /// Starts to save the present state, with the `metrics` up to it; a later [`poll`](Saver::poll) or
    /// [`finish`](Saver::finish) returns the result. Poll for the result of the save before it first.
    ///
    /// # Errors
    /// The save before this one is not finished; this one is left out.
    pub(super) fn save(
        &mut self,
        trainer: &Trainer,
        config: &RunConfig,
        metrics: File,
    ) -> Result<()> {
        ensure!(
            !self.writing,
            "step {} is not saved: the disk is still busy with the checkpoint before it",
            trainer.step
        );
        let started = Instant::now();
        // No queued change may be pending on tensors that the writer reads.
        synchronize(trainer.arena.device());
        let job = Job {
            meta: meta(trainer, config, &self.environment),
            live: flats(trainer),
            layout: trainer.arena.layout(),
            keep: config.train.keep,
            metrics,
        };
        let jobs = self.jobs.as_ref().context("the writer has ended")?;
        jobs.send(job)
            .map_err(|_| anyhow!("the thread that writes checkpoints has died"))?;
        (self.copying, self.writing) = (true, true);
        self.note_stall(started);
        Ok(())
    }

    /// Waits until the state may change again.
    pub(super) fn wait_for_copy(&mut self) {
        let started = Instant::now();
        if self.copy_ends() {
            self.note_stall(started);
        }
    }

    /// Waits for a copy in progress; returns true if there was one.
    fn copy_ends(&mut self) -> bool {
        let copying = std::mem::take(&mut self.copying);
        if copying {
            // A failed copy is reported with the result of the save.
            let _ = self.copied.recv();
        }
        copying
    }

    /// Returns the result of a save that has ended since the last call; `Ok` if none has.
    ///
    /// # Errors
    /// The save failed; earlier checkpoints are unchanged.
    pub(super) fn poll(&mut self) -> Result<()> {
        self.wait_until_written(Duration::ZERO)
    }

    /// As [`poll`](Saver::poll), but waits for up to 10 s.
    ///
    /// # Errors
    /// As `poll`.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.wait_until_written(PATIENCE)
    }

    /// Waits for the end of a save in progress.
    ///
    /// # Errors
    /// As [`poll`](Saver::poll).
    pub(super) fn finish(&mut self) -> Result<()> {
        self.copy_ends();
        self.wait_until_written(Duration::MAX)
    }

    fn wait_until_written(&mut self, patience: Duration) -> Result<()> {
        if !self.writing {
            return Ok(());
        }
        let result = if patience == Duration::MAX {
            self.written
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            self.written.recv_timeout(patience)
        };
        match result {
            Ok(result) => {
                self.writing = false;
                self.last_took = Some(result?);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                self.writing = false;
                Err(anyhow!("the thread that writes checkpoints has died"))
            }
        }
    }

    fn note_stall(&mut self, started: Instant) {
        self.longest_stall = self.longest_stall.max(started.elapsed());
    }
}

impl Drop for Saver {
    /// Waits for a save in progress, however the run ends.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(
    folder: &RunFolder,
    jobs: &Receiver<Job>,
    tell_copied: &Sender<Result<()>>,
    tell_written: &Sender<Result<Duration>>,
    after: &dyn Fn(),
) {
    let mut host = vec![];
    for job in jobs {
        let started = Instant::now();
        let copied = copy(&mut host, &job);
        let for_writing = copied.as_ref().err().map(|error| anyhow!("{error:#}"));
        let _ = tell_copied.send(copied);
        let result = match for_writing {
            Some(error) => Err(error),
            None => write(folder, &job, &host),
        };
        let step = job.meta.step;
        let result = result.map(|()| started.elapsed()).with_context(|| {
            format!("step {step} is not saved; earlier checkpoints are untouched")
        });
        after();
        if tell_written.send(result).is_err() {
            return;
        }
    }
}

/// Copies the state to the host. The buffers are allocated once: fresh memory would cost more than the copy.
fn copy(host: &mut Vec<Tensor>, job: &Job) -> Result<()> {
    if host.is_empty() {
        for live in &job.live {
            host.push(if live.device().is_cuda() {
                // Between the parts nothing is copied, and what lies there must be finite.
                pinned_like(live)?.zero_()
            } else {
                Tensor::f_zeros(live.size(), (Kind::Float, Device::Cpu))?
            });
        }
    }
    if job.layout.is_in_index_order() {
        return copy_aside(host, &job.live);
    }
    let parts = |layout: &Layout, flats: &[Tensor]| -> Vec<Tensor> {
        let dicts = flats.iter().flat_map(|flat| layout.state_dict(flat));
        dicts.map(|(_, tensor)| tensor).collect()
    };
    let files = job.layout.in_index_order();
    copy_aside(&parts(&files, host), &parts(&job.layout, &job.live))
}

fn write(folder: &RunFolder, job: &Job, host: &[Tensor]) -> Result<()> {
    // A finite loss does not mean that the update after it was finite.
    for (section, flat) in SECTIONS.iter().zip(host) {
        ensure!(
            all_finite(host_bytes(flat)?),
            "`{section}*` holds values that are not finite; lower `optim.lr` or set `optim.clip_norm`"
        );
    }
    // So that after a power cut the metrics up to a checkpoint are there if it is. A failing disk shows below.
    let _ = job.metrics.sync_data();
    let layout = job.layout.in_index_order();
    let tensors: Vec<_> = SECTIONS
        .iter()
        .zip(host)
        .flat_map(|(prefix, flat)| {
            let state = layout.state_dict(flat).into_iter();
            state.map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
        })
        .collect();
    folder.save(&job.meta, &tensors, job.keep).with_context(|| {
        let needed: usize = tensors.iter().map(|(_, t)| t.numel() * 4).sum();
        let free = free_bytes(folder.dir()).map_or("unknown".to_owned(), bytes);
        format!("a checkpoint takes {}, free: {free}", bytes(needed as u64))
    })
}

fn all_finite(f32s: &[u8]) -> bool {
    let mut values = f32s.chunks_exact(4);
    // The exponent of infinities and NaNs is all ones.
    values.all(|b| (u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) & 0x7F80_0000) != 0x7F80_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_infinities_and_nans_are_not_finite() {
        let finite = |values: &[f32]| all_finite(host_bytes(&Tensor::from_slice(values)).unwrap());
        assert!(finite(&[0.0, -0.0, 1e-45, f32::MAX, f32::MIN]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!finite(&[1.0, bad, 1.0]));
        }
    }
}

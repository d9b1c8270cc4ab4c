//! Writes events in a thread of its own. Who hands them over never waits: what the disk does not keep up with is dropped
//! and counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::event::{Event, Value};
use super::file::EventsFile;
use crate::fs::read_regular;
use crate::text::plural;

/// Events that wait for the disk: minutes of training, some MB.
const WAITING: usize = 4096;

/// How long the end of a start waits for a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Interval between measurements of a [`Gauge`].
const GAUGE_EVERY: Duration = Duration::from_secs(10);

/// Largest image that is shown.
const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// Measures something of the process, beside training: tag and value.
pub type Gauge = Box<dyn FnMut() -> Option<(String, f64)> + Send>;

/// What there is to do.
#[derive(Debug)]
enum Job {
    Write(Event),
    /// The PNG file of a step, as it is on the disk by then.
    Image(u64, String, PathBuf),
    /// To the disk, not only to the system.
    Sync,
}

/// The thread, and how its work goes.
#[derive(Debug)]
pub struct EventsWriter {
    jobs: Option<SyncSender<Job>>,
    said: Receiver<String>,
    ended: Receiver<()>,
    /// A start that must be told before all that follows it.
    owed: Option<Event>,
    dropped: u64,
    /// Events that were handed over and could not be written.
    lost: Arc<AtomicU64>,
    told_of_dropped: bool,
}

impl EventsWriter {
    /// Starts the thread. The file is made in `folder` with the first event.
    ///
    /// # Errors
    /// Too many threads.
    pub fn start(folder: &Path, gauge: Gauge) -> std::io::Result<EventsWriter> {
        let (jobs, to_do) = sync_channel(WAITING);
        let (say, said) = channel();
        let (end, ended) = channel();
        let lost = Arc::new(AtomicU64::new(0));
        let mut work = Work {
            folder: folder.to_owned(),
            file: None,
            gauge,
            measured: None,
            say,
            owed: Vec::new(),
            failed: false,
            lost: Arc::clone(&lost),
        };
        thread::Builder::new()
            .name("tensorboard".to_owned())
            .spawn(move || {
                work.all(&to_do);
                drop(end);
            })?;
        Ok(EventsWriter {
            jobs: Some(jobs),
            said,
            ended,
            owed: None,
            dropped: 0,
            lost,
            told_of_dropped: false,
        })
    }

    /// Hands over an event.
    pub fn write(&mut self, event: Event) {
        match event {
            Event::Start { .. } => self.owed = Some(event),
            event => self.send(Job::Write(event)),
        }
    }

    /// Hands over the PNG file of a step, which stays where it is.
    pub fn image(&mut self, step: u64, tag: &str, path: PathBuf) {
        self.send(Job::Image(step, tag.to_owned(), path));
    }

    /// Has all that was handed over brought to the disk.
    pub fn sync(&mut self) {
        self.send(Job::Sync);
    }

    fn send(&mut self, job: Job) {
        let Some(jobs) = &self.jobs else { return };
        if let Some(start) = self.owed.take()
            && jobs.try_send(Job::Write(start.clone())).is_err()
        {
            self.owed = Some(start);
            self.dropped += 1;
            return;
        }
        // Full, or the thread has died of a bug.
        if jobs.try_send(job).is_err() {
            self.dropped += 1;
        }
    }

    /// What there is to say since the last call: what could not be written, once, and that something was dropped, once.
    pub fn messages(&mut self) -> Vec<String> {
        let mut said: Vec<String> = self.said.try_iter().collect();
        if self.dropped > 0 && !self.told_of_dropped {
            self.told_of_dropped = true;
            said.push(
                "warning: the disk does not keep up with the events for TensorBoard, and some are left out; training goes on"
                    .to_owned(),
            );
        }
        said
    }

    /// Ends the thread once all is written, or after a while if the disk hangs. Returns what there is to say.
    pub fn finish(&mut self) -> Vec<String> {
        self.sync();
        self.end();
        let mut said = self.messages();
        let lost = self.dropped + self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let are = if lost == 1 { "is" } else { "are" };
            said.push(format!(
                "warning: {} for TensorBoard {are} left out",
                plural(lost, "event")
            ));
        }
        said
    }

    fn end(&mut self) {
        if self.jobs.take().is_some()
            && self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout)
        {
            self.dropped += 1;
        }
    }
}

impl Drop for EventsWriter {
    /// However the run ends, what was handed over is written.
    fn drop(&mut self) {
        self.end();
    }
}

/// The state of the thread.
struct Work {
    folder: PathBuf,
    file: Option<EventsFile>,
    gauge: Gauge,
    /// When the gauge was read.
    measured: Option<Instant>,
    say: Sender<String>,
    /// Starts that could not be written: what they end must not count.
    owed: Vec<Event>,
    /// True once something went wrong.
    failed: bool,
    lost: Arc<AtomicU64>,
}

impl Work {
    fn all(&mut self, to_do: &Receiver<Job>) {
        while let Ok(first) = to_do.recv() {
            let mut jobs = vec![first];
            // What has come meanwhile goes in one write.
            jobs.extend(to_do.try_iter().take(WAITING));
            let sync = jobs.iter().any(|job| matches!(job, Job::Sync));
            let events: Vec<Event> = jobs.into_iter().filter_map(|job| self.event(job)).collect();
            if let Err(error) = self.write(events, sync) {
                let file = self.file.as_ref().map(|file| file.path().to_owned());
                let at = file.unwrap_or_else(|| self.folder.clone());
                self.tell("write events", &at, &error);
            }
        }
    }

    fn event(&mut self, job: Job) -> Option<Event> {
        match job {
            Job::Write(event) => Some(event),
            Job::Sync => None,
            Job::Image(step, tag, path) => match read_regular(&path, MAX_IMAGE_BYTES) {
                Ok(png) => Some(Event::Summary {
                    step,
                    values: vec![(tag, Value::Png(png))],
                }),
                Err(error) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    self.tell("read a grid", &path, &error);
                    None
                }
            },
        }
    }

    fn write(&mut self, mut events: Vec<Event>, sync: bool) -> std::io::Result<()> {
        if !events.is_empty() {
            self.measure(&mut events);
            events.splice(..0, std::mem::take(&mut self.owed));
            let written = self.file().and_then(|file| file.append(&events));
            if written.is_err() {
                self.owed = events
                    .iter()
                    .filter(|e| matches!(e, Event::Start { .. }))
                    .cloned()
                    .collect();
                let lost = (events.len() - self.owed.len()) as u64;
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
            written?;
        }
        if let Some(file) = self.file.as_ref().filter(|_| sync) {
            file.sync()?;
        }
        Ok(())
    }

    fn file(&mut self) -> std::io::Result<&mut EventsFile> {
        Ok(match &mut self.file {
            Some(file) => file,
            none => none.insert(EventsFile::create(&self.folder)?),
        })
    }

    /// Adds a measurement to the newest step, now and then.
    fn measure(&mut self, events: &mut [Event]) {
        if self
            .measured
            .is_some_and(|last| last.elapsed() < GAUGE_EVERY)
        {
            return;
        }
        let newest = events.iter_mut().rev().find_map(|event| match event {
            Event::Summary { values, .. } => Some(values),
            _ => None,
        });
        if let Some(values) = newest {
            self.measured = Some(Instant::now());
            values.extend((self.gauge)().map(|(tag, value)| (tag, Value::Scalar(value))));
        }
    }

    /// Says what goes wrong, once: on a full disk each event would fail anew.
    fn tell(&mut self, what: &str, at: &Path, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            let _ = self.say.send(format!(
                "warning: cannot {what} for TensorBoard ({}): {error}; training goes on without",
                at.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64) -> Event {
        Event::Summary {
            step,
            values: vec![("a".to_owned(), Value::Scalar(1.0))],
        }
    }

    fn files(dir: &Path) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let mut writer = EventsWriter::start(&gone, Box::new(|| None)).unwrap();
        writer.write(Event::Start { step: 1 });
        for step in 1..4 {
            writer.write(point(step));
        }
        let said = writer.finish();
        let [first, last] = &said[..] else {
            panic!("{said:?}");
        };
        let wanted = format!(
            "warning: cannot write events for TensorBoard ({}): No such file",
            gone.display()
        );
        assert!(first.starts_with(&wanted), "{first}");
        assert_eq!(last, "warning: 3 events for TensorBoard are left out");
        // The points beside a grid that is gone are written.
        let mut writer = EventsWriter::start(dir.path(), Box::new(|| None)).unwrap();
        writer.write(point(1));
        writer.image(1, "b", gone.join("no.png"));
        let said = writer.finish();
        assert!(
            said[0].contains("cannot read a grid for TensorBoard"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("warning: 1 event for TensorBoard is "),
            "{said:?}"
        );
        assert!(files(dir.path())[0].len() > 60);
    }

    #[test]
    fn nothing_waits_for_a_disk_that_hangs_and_a_start_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        // The disk hangs with the first event until it is released.
        let (release, released) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel(1);
        let gauge = move || {
            let _ = begin.try_send(());
            let _ = released.recv();
            None
        };
        let mut writer = EventsWriter::start(dir.path(), Box::new(gauge)).unwrap();
        writer.write(point(1));
        begun.recv().unwrap();
        let more = 5;
        for step in 2..WAITING as u64 + 2 + more {
            writer.write(point(step));
        }
        assert_eq!(writer.dropped, more);
        let said = writer.messages();
        assert!(
            said[0].contains("does not keep up") && said.len() == 1,
            "{said:?}"
        );
        assert!(writer.messages().is_empty());
        // There is no room for it yet, nor for what comes after it, which must not come before it.
        writer.write(Event::Start { step: 3 });
        writer.write(point(3));
        assert_eq!(writer.dropped, more + 1);
        drop(release);
        while writer.owed.is_some() {
            writer.write(point(3));
        }
        let left_out = writer.dropped;
        let said = writer.finish();
        assert_eq!(
            said,
            [format!(
                "warning: {left_out} events for TensorBoard are left out"
            )]
        );
        let [file] = &files(dir.path())[..] else {
            panic!();
        };
        // Its field, its length, and that it is one.
        assert!(file.windows(4).any(|bytes| bytes == [0x3a, 2, 8, 1]));
    }
}

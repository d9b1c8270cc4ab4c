//! Writes the run's report in a thread of its own, after each save and at the end of a start.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Result;

use super::Observer;
use crate::checkpoint::RunFolder;
use crate::fs::write_bytes;
use crate::runs::{Over, Reported};

/// The thread that writes. When this is dropped, a last report is written first.
#[derive(Debug)]
pub(super) struct Reporter {
    asker: Option<Asker>,
    thread: Option<JoinHandle<()>>,
}

/// Asks for a report.
#[derive(Debug, Clone)]
pub(super) struct Asker(SyncSender<()>);

impl Asker {
    /// Has a report written soon, and returns at once. Where one is asked for already, that will do.
    pub(super) fn ask(&self) {
        match self.0.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

impl Reporter {
    /// Starts the thread; what it cannot write, `observer` is told once.
    pub(super) fn start(folder: &RunFolder, observer: &Arc<dyn Observer>) -> Result<Reporter> {
        let (asker, asked) = sync_channel(1);
        let (folder, observer) = (folder.clone(), Arc::clone(observer));
        let thread = thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || write_when_asked(&folder, &asked, &*observer))?;
        Ok(Reporter {
            asker: Some(Asker(asker)),
            thread: Some(thread),
        })
    }

    /// To be asked from elsewhere, for as long as the reporter is there.
    pub(super) fn asker(&self) -> Asker {
        let asker = self.asker.clone();
        asker.expect("there until it is dropped")
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.asker = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_when_asked(folder: &RunFolder, asked: &Receiver<()>, observer: &dyn Observer) {
    let mut run = Reported::new(folder.dir().to_owned());
    let mut failed = false;
    let mut write = |over: Over| {
        let written = run
            .html(over)
            .and_then(|html| write_bytes(&folder.report_path(), html.as_bytes()));
        if let Err(error) = &written
            && !failed
        {
            observer.message(&format!(
                "warning: the report of the run is not written: {error:#}; training continues"
            ));
        }
        failed = written.is_err();
    };
    for () in asked {
        write(Over::Look);
    }
    write(Over::Now);
}

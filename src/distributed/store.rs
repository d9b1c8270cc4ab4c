//! The store of a group, whose calls end: c10d's own may wait for ever for a server that hangs.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::RankLost;
use crate::native::KeyStore;

type Job = Box<dyn FnOnce(&KeyStore) + Send>;

/// Keys of a group, asked for by a thread of its own, so that whoever asks can stop waiting.
#[derive(Debug)]
pub(super) struct Store {
    jobs: Mutex<Sender<Job>>,
    /// Longest time for an answer.
    limit: Duration,
    /// Where it is served, and by whom.
    server: String,
}

impl Store {
    pub(super) fn new(keys: KeyStore, server: String, limit: Duration) -> Result<Store> {
        let (jobs, to_do) = channel::<Job>();
        let work = move || to_do.into_iter().for_each(|job| job(&keys));
        let thread = thread::Builder::new().name("store".to_owned());
        thread
            .spawn(work)
            .context("cannot start the thread that talks to the store")?;
        Ok(Store {
            jobs: Mutex::new(jobs),
            limit,
            server,
        })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// [`RankLost`]: the server does not answer.
    pub(super) fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.ask(move |keys| keys.set(&key, &value))
    }

    /// The value of a key, if it is there.
    ///
    /// # Errors
    /// As [`set`](Store::set).
    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = key.to_owned();
        self.ask(move |keys| keys.get(&key))
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&KeyStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, answer) = channel();
        let job: Job = Box::new(move |keys| drop(tell.send(question(keys))));
        let sent = match self.jobs.lock() {
            Ok(jobs) => jobs.send(job).is_ok(),
            Err(_) => false,
        };
        let answer = match sent {
            true => answer.recv_timeout(self.limit).ok(),
            false => None,
        };
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(self.lost(&format!("{error:#}"))),
            None => Err(self.lost(&format!("no answer for {} s", self.limit.as_secs()))),
        }
    }

    fn lost(&self, why: &str) -> anyhow::Error {
        RankLost(format!("{} is gone: {why}", self.server)).into()
    }
}

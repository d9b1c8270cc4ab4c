//! Bounded memory for untrusted files.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A memory budget, in bytes, shared by threads: a thread waits until enough is free.
///
/// A thread must not wait while it holds a [`Permit`], or two could wait for each other for ever.
#[derive(Debug)]
pub(crate) struct DecodeBudget {
    total: u64,
    free: Mutex<u64>,
    returned: Condvar,
}

/// A share of a [`DecodeBudget`], returned when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'a> {
    budget: &'a DecodeBudget,
    bytes: u64,
}

impl DecodeBudget {
    /// A budget of `total` bytes, all free.
    pub(crate) const fn new(total: u64) -> Self {
        Self {
            total,
            free: Mutex::new(total),
            returned: Condvar::new(),
        }
    }

    /// Total bytes, free or not.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Waits until `bytes` are free, then takes them. More than the total is reduced to the total.
    pub(crate) fn take(&self, bytes: u64) -> Permit<'_> {
        let bytes = bytes.min(self.total);
        let mut free = self.free();
        while *free < bytes {
            free = (self.returned.wait(free)).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Permit {
            budget: self,
            bytes,
        }
    }

    /// Ignores poisoning: a panic cannot leave a number half written.
    fn free(&self) -> MutexGuard<'_, u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Becomes a permit for `bytes` if they are free right now; otherwise returns false and stays unchanged.
    pub(crate) fn try_resize(&mut self, bytes: u64) -> bool {
        let mut free = self.budget.free();
        if bytes > self.bytes + *free {
            return false;
        }
        *free = *free + self.bytes - bytes;
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        drop(free);
        if shrunk {
            self.budget.returned.notify_all();
        }
        true
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.budget.free() += self.bytes;
        self.budget.returned.notify_all();
    }
}

/// A reader that ends after a number of bytes, even if its source has grown meanwhile.
#[derive(Debug)]
pub(crate) struct Capped<R> {
    inner: R,
    at: u64,
    end: u64,
}

impl<R> Capped<R> {
    /// Reads the first `end` bytes of `inner`, which is at its start.
    pub(crate) fn new(inner: R, end: u64) -> Self {
        Self { inner, at: 0, end }
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.inner.read(&mut buffer[..wanted])?;
        self.at += got as u64;
        Ok(got)
    }
}

impl<R: Seek> Seek for Capped<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_is_out_than_there_is() {
        let budget = DecodeBudget::new(10);
        let (out, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (budget, out, most) = (&budget, &out, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = (thread * 7 + round) % 10 + 1;
                        let permit = budget.take(bytes);
                        let now = out.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        out.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 10);
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn a_permit_grows_only_into_what_is_free() {
        let budget = DecodeBudget::new(10);
        let (mut one, two) = (budget.take(4), budget.take(4));
        assert!(!one.try_resize(7));
        assert!(one.try_resize(6));
        assert_eq!(*budget.free(), 0);
        drop(two);
        assert!(one.try_resize(10));
        assert!(one.try_resize(1));
        drop(one);
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn more_than_everything_is_everything() {
        let budget = DecodeBudget::new(10);
        drop(budget.take(u64::MAX));
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn a_capped_reader_ends_wherever_it_was_moved() {
        let mut reader = Capped::new(io::Cursor::new(b"0123456789"), 6);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "012345");
        reader.seek(SeekFrom::Start(4)).unwrap();
        text.clear();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "45");
        reader.seek(SeekFrom::Start(8)).unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }
}

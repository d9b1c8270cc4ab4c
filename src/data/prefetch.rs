//! Prefetching from a mapped file: the next batches are read while a step is computed.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::native;

/// Gathers batches on its own thread, in the order of requests.
///
/// A batch requested in time is ready when taken. One that was not requested is gathered while its taker waits, and
/// batches requested in its place are dropped: so prefetching never changes the data, only the waiting.
#[derive(Debug)]
pub(super) struct Prefetcher {
    /// `None` when it is dropped.
    channels: Option<Channels>,
    thread: Option<JoinHandle<()>>,
    /// Requested and not yet taken, in order.
    pending: VecDeque<Vec<i64>>,
    /// Total time that takers waited.
    pub(super) waited: Duration,
}

/// To and from the thread.
#[derive(Debug)]
struct Channels {
    requests: Sender<Vec<i64>>,
    gathered: Receiver<Result<Tensor>>,
}

impl Prefetcher {
    /// Prefetches images of `pixels`, `[N, C, H, W]` u8 in host memory, to be copied to `device`.
    pub(super) fn start(pixels: &Tensor, device: Device) -> Result<Prefetcher> {
        let pixels = pixels.shallow_clone();
        let (requests, asked) = channel::<Vec<i64>>();
        let (done, gathered) = channel();
        let thread = thread::Builder::new()
            .name("images".to_owned())
            .spawn(move || {
                for indices in asked {
                    if done.send(gather(&pixels, &indices, device)).is_err() {
                        break;
                    }
                }
            })
            .context("cannot start the thread that reads images")?;
        Ok(Prefetcher {
            channels: Some(Channels { requests, gathered }),
            thread: Some(thread),
            pending: VecDeque::new(),
            waited: Duration::ZERO,
        })
    }

    /// Requests a batch unless it is already pending.
    pub(super) fn request(&mut self, indices: Vec<i64>) -> Result<()> {
        if !self.pending.contains(&indices) {
            let channels = self.channels()?;
            channels.requests.send(indices.clone()).context(GONE)?;
            self.pending.push_back(indices);
        }
        Ok(())
    }

    /// Images `indices`, `[B, C, H, W]` u8 in host memory.
    pub(super) fn take(&mut self, indices: &[i64]) -> Result<Tensor> {
        let started = Instant::now();
        while self.pending.front().is_some_and(|first| first != indices) {
            self.pending.pop_front();
            drop(self.receive()?);
        }
        self.request(indices.to_vec())?;
        self.pending.pop_front();
        let batch = self.receive()?;
        self.waited += started.elapsed();
        batch
    }

    fn channels(&self) -> Result<&Channels> {
        self.channels.as_ref().context(GONE)
    }

    /// The next batch, or its error, once it is gathered.
    fn receive(&self) -> Result<Result<Tensor>> {
        self.channels()?.gathered.recv().context(GONE)
    }
}

impl Drop for Prefetcher {
    /// Waits for the thread, which ends with the batch that it is gathering: at the end of the process, libtorch's CUDA
    /// half must not be taken down around it.
    fn drop(&mut self) {
        // It asks for requests, and then offers what it gathered: either fails now.
        self.channels = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const GONE: &str = "the thread that reads images has ended";

/// Copies images out of the file; for CUDA into pinned memory, which its copy engine reads without the host.
fn gather(pixels: &Tensor, indices: &[i64], device: Device) -> Result<Tensor> {
    let size = pixels.size();
    let mut batch = Tensor::f_empty(
        [indices.len() as i64, size[1], size[2], size[3]],
        (Kind::Uint8, Device::Cpu),
    )?;
    if device.is_cuda() {
        batch = native::pinned_like(&batch)?;
    }
    let all = native::host_bytes(pixels)?;
    let image_bytes = all.len() / size[0] as usize;
    let image = |index: &i64| {
        let start = usize::try_from(*index).ok()?.checked_mul(image_bytes)?;
        all.get(start..)?.get(..image_bytes)
    };
    let images: Option<Vec<&[u8]>> = indices.iter().map(image).collect();
    let images = images.with_context(|| format!("there are no images {indices:?}"))?;
    // Announce all of them first, so that the disk can read them in parallel.
    images.iter().copied().for_each(native::will_need);
    let room = native::host_bytes_mut(&mut batch)?;
    for (slot, image) in room.chunks_exact_mut(image_bytes).zip(images) {
        slot.copy_from_slice(image);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn six() -> Tensor {
        Tensor::from_slice(&[10u8, 11, 12, 13, 14, 15]).view([6, 1, 1, 1])
    }

    fn bytes(batch: Tensor) -> Vec<u8> {
        Vec::try_from(batch.view([-1])).unwrap()
    }

    #[test]
    fn prefetching_does_not_change_what_is_taken() {
        let mut prefetcher = Prefetcher::start(&six(), Device::Cpu).unwrap();
        assert_eq!(bytes(prefetcher.take(&[5, 0]).unwrap()), [15, 10]);
        for batch in [vec![1, 2], vec![3, 4], vec![1, 2]] {
            prefetcher.request(batch).unwrap();
        }
        assert_eq!(prefetcher.pending.len(), 2);
        assert_eq!(bytes(prefetcher.take(&[1, 2]).unwrap()), [11, 12]);
        // Not the next one: that is dropped.
        assert_eq!(bytes(prefetcher.take(&[0, 0]).unwrap()), [10, 10]);
        assert_eq!(bytes(prefetcher.take(&[3, 4]).unwrap()), [13, 14]);
        assert!(prefetcher.pending.is_empty());
    }

    #[test]
    fn dropping_it_ends_the_thread_whatever_is_pending() {
        for requests in [0, 1, 1000] {
            let mut prefetcher = Prefetcher::start(&six(), Device::Cpu).unwrap();
            for images in 1..=requests {
                prefetcher.request(vec![0; images]).unwrap();
            }
            // Would never return if the thread waited for more.
            drop(prefetcher);
        }
    }

    #[test]
    fn images_out_of_range_are_an_error() {
        let mut prefetcher = Prefetcher::start(&six(), Device::Cpu).unwrap();
        for missing in [6, -1, i64::MAX] {
            assert!(prefetcher.take(&[missing]).is_err());
        }
        assert_eq!(bytes(prefetcher.take(&[5]).unwrap()), [15]);
    }
}

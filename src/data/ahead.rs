//! Images of a mapped file, gathered while the step before them is computed.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::native;

/// Gathers batches on a thread of its own, in the order in which they were asked for.
///
/// A batch that is taken was asked for before, if all goes as foreseen, and is there already. One that was not is
/// gathered while its taker waits; those asked for in its place are dropped. So what is taken never depends on
/// what was foreseen.
#[derive(Debug)]
pub(super) struct Ahead {
    requests: Sender<Vec<i64>>,
    gathered: Receiver<Result<Tensor>>,
    /// Asked for and not taken yet, in order.
    pending: VecDeque<Vec<i64>>,
    /// How long takers waited, in all.
    pub(super) waited: Duration,
}

impl Ahead {
    /// For images `[N, C, H, W]` u8 in host memory, to be copied to `device`.
    pub(super) fn start(pixels: &Tensor, device: Device) -> Result<Ahead> {
        let pixels = pixels.shallow_clone();
        let (requests, asked) = channel::<Vec<i64>>();
        let (done, gathered) = channel();
        // Ends with the sender of its requests; nothing is lost with what it holds then.
        thread::Builder::new()
            .name("pictures".to_owned())
            .spawn(move || {
                for indices in asked {
                    if done.send(gather(&pixels, &indices, device)).is_err() {
                        break;
                    }
                }
            })
            .context("cannot start the thread that reads images")?;
        Ok(Ahead {
            requests,
            gathered,
            pending: VecDeque::new(),
            waited: Duration::ZERO,
        })
    }

    /// Begins to gather a batch, unless that was begun already.
    pub(super) fn ask(&mut self, indices: Vec<i64>) -> Result<()> {
        if !self.pending.contains(&indices) {
            self.requests.send(indices.clone()).context(GONE)?;
            self.pending.push_back(indices);
        }
        Ok(())
    }

    /// The images `indices`, `[B, C, H, W]` u8 in host memory.
    pub(super) fn take(&mut self, indices: &[i64]) -> Result<Tensor> {
        let started = Instant::now();
        while self.pending.front().is_some_and(|first| first != indices) {
            self.pending.pop_front();
            drop(self.gathered.recv().context(GONE)?);
        }
        self.ask(indices.to_vec())?;
        self.pending.pop_front();
        let batch = self.gathered.recv().context(GONE)?;
        self.waited += started.elapsed();
        batch
    }
}

const GONE: &str = "the thread that reads images has ended";

/// Copies images out of the file; for CUDA into memory that its copy engine reads without the host.
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
    // All at once, so that the disk has them side by side.
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
    fn what_is_taken_does_not_depend_on_what_was_foreseen() {
        let mut ahead = Ahead::start(&six(), Device::Cpu).unwrap();
        assert_eq!(bytes(ahead.take(&[5, 0]).unwrap()), [15, 10]);
        for batch in [vec![1, 2], vec![3, 4], vec![1, 2]] {
            ahead.ask(batch).unwrap();
        }
        assert_eq!(ahead.pending.len(), 2);
        assert_eq!(bytes(ahead.take(&[1, 2]).unwrap()), [11, 12]);
        // Another than the next: that one is dropped.
        assert_eq!(bytes(ahead.take(&[0, 0]).unwrap()), [10, 10]);
        assert_eq!(bytes(ahead.take(&[3, 4]).unwrap()), [13, 14]);
        assert!(ahead.pending.is_empty());
    }

    #[test]
    fn images_that_are_not_there_are_an_error() {
        let mut ahead = Ahead::start(&six(), Device::Cpu).unwrap();
        for missing in [6, -1, i64::MAX] {
            assert!(ahead.take(&[missing]).is_err());
        }
        assert_eq!(bytes(ahead.take(&[5]).unwrap()), [15]);
    }
}

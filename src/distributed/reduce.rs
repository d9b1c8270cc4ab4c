//! The gradients of all ranks, added up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tch::Tensor;

use super::Group;
use crate::native::{Buckets, Slice};

/// Bytes of the first bucket: small, so that the first is on its way early.
const FIRST_BUCKET: i64 = 1 << 20;

/// Bytes of each further bucket but the last. Both sizes are those of PyTorch's DistributedDataParallel.
const BUCKET: i64 = 25 << 20;

/// Most bytes of the last bucket: backward hides all others. The weights that get their gradients last are in it: those of
/// the first layers, and of the embedding of t, which all blocks give gradients to.
const LAST_BUCKET: i64 = 4 << 20;

/// Values of all ranks that are gathered at a time where they are added up in order.
const GATHERED: i64 = 1 << 22;

/// How the gradients of a batch's microbatches are added up over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reduce {
    /// In f32, each as soon as it is there, while backward goes on; the same bits every time with as many ranks.
    F32,
    /// As f32, rounded to bf16 on the way: half the bytes.
    Bf16,
    /// In the order of the microbatches, after backward: the bits of one process that computes all of them, but slower.
    Ordered,
}

impl fmt::Display for Reduce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reduce::F32 => "f32",
            Reduce::Bf16 => "bf16",
            Reduce::Ordered => "ordered",
        })
    }
}

impl Reduce {
    /// Most bytes that adding up a flat gradient of `values` f32 over so many ranks takes on each besides the gradient.
    /// Buffers of some MiB that c10d keeps for what is on its way are not counted.
    pub fn bytes(self, values: u64, ranks: u64) -> u64 {
        match self {
            Reduce::F32 => 0,
            // A copy of each bucket, and the last may be on their way together.
            Reduce::Bf16 => 2 * values,
            // The sum, and parts of all ranks: as we want them, and as Gloo gathers them.
            Reduce::Ordered => 4 * values + 2 * 4 * (GATHERED as u64).min(values * ranks),
        }
    }
}

/// Adds up a flat gradient and a loss over the ranks of a group, which compute one microbatch each in a round.
#[derive(Debug)]
pub struct Reducer {
    group: Arc<Group>,
    /// `[P]` f32, which backward adds to.
    grads: Tensor,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Overlapped(Buckets),
    /// The sum of earlier rounds, `[P]` f32.
    Ordered(Tensor),
}

impl Reducer {
    /// For the gradients of `weights`, which lie in the flat `grads`, `[P]` f32, from `starts` on, in this order.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        group: Arc<Group>,
        reduce: Reduce,
        grads: &Tensor,
        weights: &[Tensor],
        starts: &[i64],
    ) -> Result<Reducer> {
        let way = match reduce {
            Reduce::Ordered => Way::Ordered(grads.f_zeros_like()?),
            Reduce::F32 | Reduce::Bf16 => Way::Overlapped(Buckets::new(
                group.between(grads.device())?,
                grads,
                weights,
                &slices(starts, grads.numel() as i64),
                reduce == Reduce::Bf16,
            )?),
        };
        Ok(Reducer {
            group,
            grads: grads.shallow_clone(),
            way,
        })
    }

    /// The ranks that take part.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Before the backward pass of a round, with no gradients yet in the first. `last`: no round follows.
    ///
    /// # Errors
    /// As libtorch says.
    pub fn before_round(&self, last: bool) -> Result<()> {
        match &self.way {
            Way::Overlapped(buckets) if last => buckets.arm(),
            Way::Overlapped(_) | Way::Ordered(_) => Ok(()),
        }
    }

    /// After the backward pass of a round: the losses to add to the batch's, in this order.
    ///
    /// # Shapes
    /// - `loss`: `[K]` f32, and so is each that is returned
    ///
    /// # Errors
    /// [`RankLost`](super::RankLost).
    pub fn after_round(&self, loss: Tensor) -> Result<Vec<Tensor>> {
        let Way::Ordered(sum) = &self.way else {
            return Ok(vec![loss]);
        };
        let len = self.grads.numel() as i64;
        let at_a_time = (GATHERED / self.group.size()).max(1);
        for start in (0..len).step_by(at_a_time as usize) {
            let part = |flat: &Tensor| flat.narrow(0, start, at_a_time.min(len - start));
            let all = self.group.all_gather(&part(&self.grads))?;
            let mut sum = part(sum);
            for rank in 0..self.group.size() {
                let _ = sum.f_add_(&all.get(rank))?;
            }
        }
        let _ = self.grads.shallow_clone().f_zero_()?;
        let losses = self.group.all_gather(&loss)?;
        Ok(losses.unbind(0))
    }

    /// After the last round: the batch's gradients are in the flat gradient of each rank, and its loss is returned.
    /// `total` is the sum of what [`after_round`](Reducer::after_round) gave.
    ///
    /// # Errors
    /// [`RankLost`](super::RankLost).
    pub fn finish(&self, total: Tensor) -> Result<Tensor> {
        match &self.way {
            Way::Overlapped(buckets) => {
                buckets
                    .send_rest()
                    .map_err(|error| self.group.diagnose(&error))?;
                self.group.sum(&total)?;
                self.group.wait_until(|patience| buckets.wait(patience))?;
            }
            Way::Ordered(sum) => {
                let mut sum = sum.shallow_clone();
                self.grads.shallow_clone().f_copy_(&sum)?;
                let _ = sum.f_zero_()?;
            }
        }
        Ok(total)
    }

    /// Time since the last call in which buckets were on their way.
    pub fn busy(&self) -> Duration {
        match &self.way {
            Way::Overlapped(buckets) => buckets.busy(),
            Way::Ordered(_) => Duration::ZERO,
        }
    }

    /// Bytes of gradients that a rank sends in a step of `rounds` rounds, and as many that it receives. A ring sends each
    /// value twice, but for this rank's share of it.
    pub fn bytes_a_step(&self, rounds: u64) -> u64 {
        let (ranks, values) = (self.group.size() as u64, self.grads.numel() as u64);
        let value = match &self.way {
            Way::Overlapped(buckets) if buckets.in_bf16() => 2,
            _ => 4,
        };
        match &self.way {
            Way::Overlapped(_) => 2 * value * values * (ranks - 1) / ranks,
            Way::Ordered(_) => rounds * value * values * (ranks - 1),
        }
    }
}

/// The flat gradient in slices, last weights first, as backward comes to them.
fn slices(starts: &[i64], len: i64) -> Vec<Slice> {
    let value = size_of::<f32>() as i64;
    let mut slices: Vec<Slice> = Vec::new();
    let (mut end, mut last) = (len, starts.len());
    // Where the last slice ends: behind as many weights as it may hold, and one at least.
    let ends = starts.iter().skip(1).chain([&len]);
    let small = ends.take_while(|end| **end * value <= LAST_BUCKET).count();
    let tail = small.max(1);
    for (number, &start) in starts.iter().enumerate().rev() {
        let full = match slices.is_empty() {
            true => FIRST_BUCKET,
            false => BUCKET,
        };
        if (end - start) * value >= full || number == tail || number == 0 {
            slices.push(Slice {
                start,
                len: end - start,
                weights: number..last,
            });
            (end, last) = (start, number);
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_all_from_the_end() {
        let value = size_of::<f32>() as i64;
        let (small, large) = (1024, BUCKET / value);
        let sizes = [
            small,
            small,
            large,
            small,
            small,
            FIRST_BUCKET / value,
            small,
        ];
        let starts: Vec<i64> = (0..sizes.len()).map(|i| sizes[..i].iter().sum()).collect();
        let found = slices(&starts, sizes.iter().sum());
        let weights: Vec<_> = found.iter().map(|slice| slice.weights.clone()).collect();
        assert_eq!(weights, [5..7, 2..5, 0..2]);
        let mut end = sizes.iter().sum();
        for slice in &found {
            assert_eq!(slice.start + slice.len, end);
            end = slice.start;
        }
        assert_eq!(end, 0);
    }

    #[test]
    fn the_last_slice_is_small_where_it_can_be() {
        let weights = |sizes: &[i64]| -> Vec<_> {
            let starts: Vec<i64> = (0..sizes.len()).map(|i| sizes[..i].iter().sum()).collect();
            let found = slices(&starts, sizes.iter().sum());
            found.into_iter().map(|slice| slice.weights).collect()
        };
        let (most, value) = (LAST_BUCKET, size_of::<f32>() as i64);
        let half = most / value / 2;
        assert_eq!(weights(&[half; 5]), [4..5, 2..4, 0..2]);
        // A network that fits into it, and a first weight that does not.
        let all = 0..3;
        assert_eq!(weights(&[8, 8, 8]), [all]);
        assert_eq!(weights(&[3 * half, 8]), [1..2, 0..1]);
    }
}

//! The share that one rank has in a sampling: whole batches, those that one process makes, batch i for rank i mod W.

use std::ops::Range;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::record::Record;
use crate::cli::args::batch::Room;
use crate::cli::args::image_out::ImageOutput;
use crate::distributed::Group;
use crate::images::to_pixels;
use crate::train::free_memory;

/// A process by itself, or a rank of a group.
pub(super) struct Share<'a> {
    group: Option<&'a Group>,
}

/// The batches that the ranks make side by side, in the order of the ranks; the last round may be short.
pub(super) struct Round {
    all: Vec<Range<u64>>,
    pub(super) own: Own,
}

/// What a rank has to do in a round.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// The batch of these images.
    ToDo(Range<u64>),
    /// Nothing more: the files of these images are there.
    Done(Range<u64>),
    /// Nothing: there are fewer batches than ranks.
    Nothing,
}

impl Round {
    /// True if there are images to sample.
    pub(super) fn is_to_do(&self) -> bool {
        matches!(self.own, Own::ToDo(_))
    }
}

impl<'a> Share<'a> {
    /// All of it, or that of a rank.
    pub(super) fn new(group: Option<&'a Group>) -> Share<'a> {
        Share { group }
    }

    /// True if nobody else has a part in it.
    pub(super) fn is_whole(&self) -> bool {
        self.group.is_none()
    }

    /// True for the process that writes what all make together, and prints.
    pub(super) fn leads(&self) -> bool {
        self.group.is_none_or(Group::leads)
    }

    /// True if torchrun has started the ranks again.
    pub(super) fn is_again(&self) -> bool {
        self.group.is_some_and(|group| group.place().attempt > 0)
    }

    /// `work`, with the rank if there are others.
    pub(super) fn named(&self, work: &str) -> String {
        match self.group {
            Some(group) => format!("{work}, {}", group.place()),
            None => work.to_owned(),
        }
    }

    /// The room for batches, which all ranks make at once.
    ///
    /// # Errors
    /// A lost rank.
    pub(super) fn room(&self, device: Device) -> Result<Room> {
        Ok(match self.group {
            None => Room::default(),
            Some(group) => Room {
                ranks: group.size() as u64,
                ranks_here: group.ranks_here().1 as u64,
                least: free_memory(self.group, device)?,
            },
        })
    }

    /// The number that the leading process finds.
    ///
    /// # Errors
    /// Those of `find`, and of a lost rank.
    pub(super) fn number(&self, find: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let Some(group) = self.group else {
            return find();
        };
        let shared = group.share(|| Ok(find()?.to_le_bytes().to_vec()))?;
        let bytes = shared.try_into().ok().context("rank 0 sent no number")?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Has the leading process do `work` before the others go on.
    ///
    /// # Errors
    /// Those of `work`, and of a lost rank.
    pub(super) fn follow(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.group {
            Some(group) => group.follow(work),
            None => work(),
        }
    }

    /// Checks that all ranks sample the same.
    ///
    /// # Errors
    /// One does not.
    pub(super) fn compare(&self, record: &Record) -> Result<()> {
        match self.group {
            Some(group) => group.compare("setting of the sampling", &record.text()?),
            None => Ok(()),
        }
    }

    /// Waits until all ranks are done.
    ///
    /// # Errors
    /// A lost rank.
    pub(super) fn await_all(&self) -> Result<()> {
        match self.group {
            Some(group) => group.gather("done").map(drop),
            None => Ok(()),
        }
    }

    /// The batches in rounds; `is_there` is asked about batches of this rank's.
    pub(super) fn rounds(
        &self,
        batches: impl Iterator<Item = Range<u64>>,
        is_there: impl Fn(&Range<u64>) -> bool,
    ) -> Vec<Round> {
        let (rank, size) = self.group.map_or((0, 1), |g| (g.rank(), g.size()));
        rounds(batches, rank as usize, size as usize, is_there)
    }

    /// Adds the images of a round to the files that hold all images, whose `kind` says what of them: numbers or pixels.
    /// `made` are this rank's, `[N, C, H, W]` in [-1, 1], or u8; the
    /// form is the number of images in a batch, and the shape of one.
    ///
    /// # Errors
    /// A lost rank.
    pub(super) fn collect(
        &self,
        round: &Round,
        made: Option<Tensor>,
        (batch, chw): (u64, [i64; 3]),
        output: &mut ImageOutput,
        kind: Option<Kind>,
    ) -> Result<()> {
        let Some(group) = self.group else {
            made.iter().for_each(|made| output.keep(made));
            return Ok(());
        };
        let Some(kind) = kind else {
            return group.check();
        };
        let image: i64 = chw.iter().product();
        let of_rank = Tensor::zeros([batch as i64 * image], (kind, Device::Cpu));
        if let Some(made) = made {
            let made = match kind {
                Kind::Uint8 if made.kind() != kind => to_pixels(&made),
                _ => made,
            };
            let values = made.contiguous().view([-1]);
            of_rank.narrow(0, 0, values.size()[0]).copy_(&values);
        }
        let all = group.all_gather(&of_rank)?;
        if self.leads() {
            for (rank, numbers) in (0..).zip(&round.all) {
                let [c, h, w] = chw;
                let count = (numbers.end - numbers.start) as i64;
                let images = all.get(rank).narrow(0, 0, count * image);
                output.keep(&images.view([count, c, h, w]));
            }
        }
        Ok(())
    }
}

fn rounds(
    batches: impl Iterator<Item = Range<u64>>,
    rank: usize,
    size: usize,
    is_there: impl Fn(&Range<u64>) -> bool,
) -> Vec<Round> {
    let batches: Vec<Range<u64>> = batches.collect();
    let round = |all: &[Range<u64>]| Round {
        own: match all.get(rank) {
            Some(numbers) if is_there(numbers) => Own::Done(numbers.clone()),
            Some(numbers) => Own::ToDo(numbers.clone()),
            None => Own::Nothing,
        },
        all: all.to_vec(),
    };
    batches.chunks(size).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_has_one_rank_and_keeps_its_place() {
        let batches = || (0..7).map(|i| i * 10..i * 10 + 10);
        let of = |rank| rounds(batches(), rank, 3, |numbers| numbers.start == 40);
        let own = |rank| {
            of(rank)
                .into_iter()
                .map(|round| round.own)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            own(0),
            [Own::ToDo(0..10), Own::ToDo(30..40), Own::ToDo(60..70)]
        );
        assert_eq!(own(1), [Own::ToDo(10..20), Own::Done(40..50), Own::Nothing]);
        assert_eq!(own(2), [Own::ToDo(20..30), Own::ToDo(50..60), Own::Nothing]);
        let all: Vec<_> = of(2).into_iter().flat_map(|round| round.all).collect();
        assert_eq!(all, batches().collect::<Vec<_>>());
    }
}

//! Images measured by several ranks: batch i by rank i mod W, and all of them counted by the leading one, in their order, so
//! that the result is that of one process.

use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::images::{ImageBatch, Measured};
use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::group::{GroupArgs, as_rank, asked, before_meeting};
use crate::cli::out;
use crate::cli::progress::SampleProgress;
use crate::device::Chosen;
use crate::distributed::{Group, Place};
use crate::evaluate::{ImageSet, SharedSet};
use crate::pretrained::Pretrained;

/// A process by itself, or a rank of a group.
pub(super) struct Ranks {
    group: Option<Arc<Group>>,
}

impl Ranks {
    /// This process by itself.
    pub(super) const ALONE: Ranks = Ranks { group: None };

    /// Runs `work` on the device of this process; `check` is what the leading process does before. What the others find is
    /// the same, so they say nothing but errors.
    ///
    /// # Errors
    /// Those of `check` and of `work`, an unusable device, other ranks with other arguments, and a lost rank.
    pub(super) fn run(
        compute: &ComputeArgs,
        group: GroupArgs,
        check: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Chosen, &Ranks) -> Result<()>,
    ) -> Result<()> {
        let place = Place::of_environment()?;
        if place.is_none() {
            check()?;
            return work(&compute.choose()?, &Ranks::ALONE);
        }
        let chosen = before_meeting(place.as_ref(), || compute.choose_for(place.as_ref()))?;
        let group = group.join(place, &chosen)?;
        as_rank(group.as_ref(), || {
            if let Some(group) = &group {
                group.compare("command line", &asked(None)?)?;
                group.follow(check)?;
                if !group.leads() {
                    out::hush();
                }
            }
            let ranks = Ranks {
                group: group.clone(),
            };
            work(&chosen, &ranks)?;
            ranks.await_all()
        })
    }

    /// True for the process that prints and writes.
    pub(super) fn leads(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.leads())
    }

    /// The number of this process, from 0, and how many there are.
    pub(super) fn place(&self) -> (usize, usize) {
        match &self.group {
            Some(group) => (group.rank() as usize, group.size() as usize),
            None => (0, 1),
        }
    }

    /// `set`, of which each rank measures its part.
    pub(super) fn with_shared<T>(
        &self,
        set: &dyn ImageSet,
        is_part: bool,
        work: impl FnOnce(&dyn ImageSet) -> Result<T>,
    ) -> Result<T> {
        match self.group.as_deref() {
            None => work(set),
            Some(group) => work(&SharedSet {
                set,
                group,
                is_part,
            }),
        }
    }

    /// Checks that `own`, which says what `what` is, is the same on all ranks.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn same(&self, what: &str, own: impl FnOnce() -> Result<String>) -> Result<()> {
        match &self.group {
            Some(group) => group.compare(what, &own()?),
            None => Ok(()),
        }
    }

    fn await_all(&self) -> Result<()> {
        match &self.group {
            Some(group) => group.gather("done").map(drop),
            None => Ok(()),
        }
    }

    /// Checks that all ranks measure the same network on the same images.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn compare(&self, network: &Pretrained, images: &Measured) -> Result<()> {
        self.same("weights or images", || {
            let weights = network.fingerprint()?.to_hex();
            Ok(format!(
                "weights {weights}\nimages {}",
                images.fingerprint()
            ))
        })
    }

    /// Has each batch measured by one rank, with a bar that counts to `evaluations` for each. `measure` returns `columns`
    /// numbers for each image; the leading process hands them to `take`, batch after batch.
    ///
    /// # Errors
    /// Those of `measure` and `take`, and a lost rank.
    pub(super) fn measure(
        &self,
        work: &str,
        (images, device): (&Measured, Device),
        (columns, evaluations): (usize, usize),
        mut measure: impl FnMut(&ImageBatch, &mut dyn FnMut()) -> Result<Vec<f64>>,
        mut take: impl FnMut(&[u64], Vec<f64>) -> Result<()>,
    ) -> Result<()> {
        let (rank, size) = self.place();
        let batches = images.batches();
        let own = (rank..batches).step_by(size).count();
        let bar = (self.leads()).then(|| SampleProgress::new(work, (own * evaluations) as u64));
        let mut step = || bar.iter().for_each(SampleProgress::step);
        let mut of = |k: usize| -> Result<Vec<f64>> {
            let batch = images.get(k, device)?;
            measure(&batch, &mut step).map_err(|error| images.name(error))
        };
        for first in (0..batches).step_by(size) {
            let own = first + rank;
            let found = match own < batches {
                true => of(own)?,
                false => vec![],
            };
            let Some(group) = &self.group else {
                take(images.numbers_of(first), found)?;
                continue;
            };
            let largest = images.numbers_of(0).len() * columns;
            let padded = Tensor::zeros([largest as i64], (Kind::Double, Device::Cpu));
            let mut place = padded.narrow(0, 0, found.len() as i64);
            place.copy_(&Tensor::from_slice(&found));
            let all = group.all_gather(&padded)?;
            for k in (first..batches.min(first + size)).filter(|_| self.leads()) {
                let numbers = images.numbers_of(k);
                let count = (numbers.len() * columns) as i64;
                let found = all.get((k - first) as i64).narrow(0, 0, count);
                let found = Vec::<f64>::try_from(found).context("numbers of another rank")?;
                take(numbers, found)?;
            }
        }
        bar.iter().for_each(SampleProgress::finish);
        Ok(())
    }
}

//! A set of images that several processes measure together.

use std::fmt;

use anyhow::{Context, Result, bail};
use tch::{Device, Kind, Tensor};

use super::ImageSet;
use crate::distributed::Group;
use crate::text::plural;

/// A set of images of which each rank measures a part: batch i is that of rank i mod W. What was found goes to all ranks in
/// the order of the batches, so each counts the numbers that one process does.
pub struct SharedSet<'a> {
    /// The images.
    pub set: &'a dyn ImageSet,
    /// The ranks.
    pub group: &'a Group,
    /// True if `set` passes the batches of this rank alone, as one does that makes its images; otherwise it passes all,
    /// and ranks find out whether they have the same ones.
    pub is_part: bool,
}

impl fmt::Debug for SharedSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSet")
            .field("set", &self.set.origin())
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl ImageSet for SharedSet<'_> {
    fn chw(&self) -> [i64; 3] {
        self.set.chw()
    }

    fn origin(&self) -> String {
        self.set.origin()
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let mut all = |found: Vec<Tensor>| found.iter().try_for_each(&mut *take);
        self.measure(&mut |images| Ok(vec![images.shallow_clone()]), &mut all)
    }

    fn measure(
        &self,
        measure: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
        take: &mut dyn FnMut(Vec<Tensor>) -> Result<()>,
    ) -> Result<u64> {
        let (rank, size) = (self.group.rank() as usize, self.group.size() as usize);
        let mut passed = 0;
        let mut pixels = blake3::Hasher::new();
        let count = self.set.for_each(&mut |images| {
            passed += 1;
            if !self.is_part {
                pixels.update(&bytes(images)?);
                if (passed - 1) % size != rank {
                    return Ok(());
                }
            }
            let found = measure(images)?;
            self.exchange(Some(&found), take)?;
            Ok(())
        })?;
        // Others may have had one more.
        while self.exchange(None, take)? {}
        if !self.is_part {
            let own = format!("{} of {}", plural(count, "image"), pixels.finalize());
            self.group.compare("set of images", &own)?;
        }
        Ok(count)
    }
}

/// Most tensors of a batch.
const MOST: usize = 4;
/// Most dimensions of one.
const DIMS: usize = 4;
/// Of each tensor its kind, counted from 1 so that 0 is none, its dimensions and their sizes.
const OF_EACH: usize = 2 + DIMS;

/// The kinds of tensors that are exchanged.
const KINDS: [Kind; 2] = [Kind::Float, Kind::Uint8];

impl SharedSet<'_> {
    /// Hands what each rank found in a batch to all, by which it is taken in the order of the ranks; false if no rank had a
    /// batch.
    fn exchange(
        &self,
        own: Option<&[Tensor]>,
        take: &mut dyn FnMut(Vec<Tensor>) -> Result<()>,
    ) -> Result<bool> {
        let own: Vec<Tensor> = own.unwrap_or(&[]).iter().map(on_host).collect();
        let heads = self
            .group
            .all_gather(&Tensor::from_slice(&described(&own)?))?;
        let heads: Vec<Vec<(Kind, Vec<i64>)>> = (0..self.group.size())
            .map(|rank| Ok(shapes(&Vec::try_from(heads.get(rank))?)))
            .collect::<Result<_>>()?;
        let lengths: Vec<i64> = heads
            .iter()
            .map(|head| head.iter().map(length).sum())
            .collect();
        let most = lengths.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return Ok(false);
        }
        let padded = Tensor::zeros([most], (Kind::Uint8, Device::Cpu));
        let mut at = 0;
        for tensor in &own {
            let flat = tensor.contiguous().view([-1]).view_dtype(Kind::Uint8);
            let flat_len = flat.size()[0];
            padded.narrow(0, at, flat_len).copy_(&flat);
            at += flat_len;
        }
        let all = self.group.all_gather(&padded)?;
        for (rank, head) in heads
            .iter()
            .enumerate()
            .filter(|(_, head)| !head.is_empty())
        {
            let row = all.get(rank as i64);
            let mut at = 0;
            let tensors = head.iter().map(|(kind, size)| {
                let len = length(&(*kind, size.clone()));
                // A copy, as memory of f32 begins at a multiple of 4.
                let flat = row.narrow(0, at, len).copy();
                at += len;
                flat.view_dtype(*kind).view(&size[..])
            });
            take(tensors.collect())?;
        }
        Ok(true)
    }
}

fn on_host(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu)
}

/// Bytes of a tensor.
fn length((kind, size): &(Kind, Vec<i64>)) -> i64 {
    kind.elt_size_in_bytes() as i64 * size.iter().product::<i64>()
}

fn described(tensors: &[Tensor]) -> Result<[i64; MOST * OF_EACH]> {
    let mut head = [0; MOST * OF_EACH];
    if tensors.len() > MOST {
        bail!(
            "{} tensors of a batch, at most {MOST} can be exchanged",
            tensors.len()
        );
    }
    for (tensor, head) in tensors.iter().zip(head.chunks_mut(OF_EACH)) {
        let (kind, size) = (tensor.kind(), tensor.size());
        let known = KINDS.iter().position(|known| *known == kind);
        let number = known.filter(|_| size.len() <= DIMS);
        let number = number.with_context(|| {
            format!("{kind:?} of shape {size:?} cannot be exchanged: want f32 or u8 of {DIMS} dimensions at most")
        })?;
        (head[0], head[1]) = (1 + number as i64, size.len() as i64);
        head[2..2 + size.len()].copy_from_slice(&size);
    }
    Ok(head)
}

fn shapes(head: &[i64]) -> Vec<(Kind, Vec<i64>)> {
    let each = head.chunks(OF_EACH).take_while(|of| of[0] > 0);
    let shape = |of: &[i64]| {
        (
            KINDS[of[0] as usize - 1],
            of[2..2 + of[1] as usize].to_vec(),
        )
    };
    each.map(shape).collect()
}

fn bytes(images: &Tensor) -> Result<Vec<u8>> {
    Ok(Vec::try_from(on_host(images).contiguous().view([-1]))?)
}

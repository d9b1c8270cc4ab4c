//! Memory that training needs, the largest microbatch that fits, and messages when it does not.

use anyhow::{Result, anyhow, ensure};
use tch::Device;

use super::ranks::free_memory;
use super::{Observer, Trainer};
use crate::config::{ModelConfig, OptimizerKind, RunConfig};
use crate::data::Store;
use crate::distributed::{Group, Reduce};
use crate::memory::{Shortage, asked_for, available_to_each, catch_shortage, resident_bytes};
use crate::native;
use crate::report::bytes;
use crate::text::plural;

const F32_BYTES: u64 = 4;
/// Parameters, gradients, two moments and the EMA. LAMB needs its update besides; Adam writes into the parameters
/// directly.
const FLAT_TENSORS: u64 = 5;
/// Copies in host memory while a checkpoint is written: parameters, EMA and both moments.
const CHECKPOINT_COPIES: u64 = 4;
/// Copies of the parameters while a grid is sampled: the EMA, and the weights to restore.
const SAMPLING_COPIES: u64 = 2;
/// A scaled batch, its noise, and the noised images; a fourth tensor while they are computed.
const BATCH_TENSORS: u64 = 4;
/// Memory that libtorch takes on a CPU when it first computes: code of its kernels, threads, buffers of matrix
/// products. Measured: 30 MiB with the demo, rounded up; with networks of half a GiB and more it does not show.
const KERNELS_BYTES: u64 = 40 << 20;
/// Allowance for workspaces on CUDA, not measured: 2 * 32 MiB of cuBLAS, one for each of the two threads that compute, at
/// the largest of libtorch's defaults (Hopper; 8.1 MiB on other GPUs), and 192 MiB for the convolution of cuDNN that takes
/// most.
const WORKSPACES_BYTES: u64 = 256 << 20;
/// Most of the free memory that is set aside for them: small devices run small networks.
const WORKSPACES_SHARE: u64 = 16;
/// Bytes of heap per byte of tensors, measured over the presets.
const HEAP_PER_BYTE: f64 = 1.05;
/// Share of the free memory that stays free.
const SPARE: f64 = 0.1;

/// Memory that training needs, estimated before its first step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Needs {
    /// In use already: on CPU the whole process, on CUDA the tensors.
    pub(super) held: u64,
    /// Needed besides, whatever the microbatch.
    pub(super) once: u64,
    /// Needed for each image of a microbatch.
    pub(super) per_image: u64,
    /// Needed between steps; a microbatch can use the same memory.
    pub(super) between_steps: u64,
    /// Set aside on CUDA beside the tensors.
    pub(super) workspaces: u64,
}

impl Needs {
    /// The needs of a trainer that is ready for its first step, on a device with `free` bytes if that is known.
    pub(super) fn of(
        config: &RunConfig,
        trainer: &Trainer,
        data: &Store,
        fit: Fit,
        free: Option<u64>,
    ) -> Needs {
        let device = trainer.arena.device();
        let [channels, height, width] = config.model.chw();
        let cost = trainer.net.cost(height, width);
        let flat = F32_BYTES * trainer.arena.params.numel() as u64;
        let image = F32_BYTES * (channels * height * width) as u64;
        let ranks = fit.ranks();
        let batch = BATCH_TENSORS * image * config.train.batch as u64 / ranks;
        let adding_up = match fit.group {
            Some(_) => fit.reduce.bytes(flat / F32_BYTES, ranks),
            None => 0,
        };
        let kept = trainer.net.bytes_kept_a_value() * (cost.activations + cost.backward) as f64;
        let on_cpu = !device.is_cuda();
        // The weights in bf16: on a CPU as filters for sampling, on CUDA the copy of each step.
        let in_bf16 = if trainer.net.in_bf16() { flat / 2 } else { 0 };
        let held = if on_cpu {
            resident_bytes()
        } else {
            let lamb = u64::from(config.optim.optimizer == OptimizerKind::Lamb);
            let pixels = data.pixels();
            let images = pixels.numel() as u64 * u64::from(pixels.device() == device);
            Some((FLAT_TENSORS + lamb) * flat + images)
        };
        Needs {
            held: held.unwrap_or(0),
            once: if on_cpu {
                batch + adding_up + CHECKPOINT_COPIES * flat + KERNELS_BYTES
            } else {
                batch + adding_up + in_bf16
            },
            per_image: if on_cpu { kept * HEAP_PER_BYTE } else { kept } as u64,
            between_steps: SAMPLING_COPIES * flat + if on_cpu { in_bf16 } else { 0 },
            workspaces: match on_cpu {
                true => 0,
                false => free.map_or(WORKSPACES_BYTES, |free| {
                    WORKSPACES_BYTES.min(free / WORKSPACES_SHARE)
                }),
            },
        }
    }

    /// Memory that training needs beyond what is in use.
    pub(super) fn more(&self, micro: u64) -> u64 {
        self.workspaces + self.more_in_tensors(micro)
    }

    fn more_in_tensors(&self, micro: u64) -> u64 {
        self.once + (micro * self.per_image).max(self.between_steps)
    }

    /// Peak memory in total: on CUDA that of tensors.
    pub(super) fn in_all(&self, micro: u64) -> u64 {
        self.held + self.more_in_tensors(micro)
    }

    /// Largest microbatch for which `free` bytes are enough, with some to spare.
    pub(super) fn images_that_fit(&self, free: u64) -> u64 {
        let usable = (free as f64 * (1.0 - SPARE)) as u64;
        match usable.checked_sub(self.once + self.workspaces) {
            Some(rest) if rest >= self.between_steps => rest / self.per_image.max(1),
            _ => 0,
        }
    }
}

/// The fewest equal microbatches with at most `most` images each, of which all ranks have as many; `None` if `most` is 0.
pub(super) fn fewest_parts(batch: i64, ranks: i64, most: u64) -> Option<i64> {
    let mut shared = (ranks..=batch).step_by(ranks as usize);
    shared.find(|parts| batch % parts == 0 && (batch / parts) as u64 <= most)
}

/// Bytes of the tensors of a checkpoint.
pub(super) fn checkpoint_bytes(trainer: &Trainer) -> u64 {
    CHECKPOINT_COPIES * F32_BYTES * trainer.arena.params.numel() as u64
}

/// Who computes the batch, and what to do about one that may be too large.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit<'a> {
    /// Split it into as few microbatches as memory allows.
    pub(super) auto: bool,
    /// Train all the same.
    pub(super) force: bool,
    /// The ranks that share the batch, and settle this together.
    pub(super) group: Option<&'a Group>,
    /// How they add up gradients.
    pub(super) reduce: Reduce,
}

impl Fit<'_> {
    fn ranks(&self) -> u64 {
        self.group.map_or(1, |group| group.size() as u64)
    }
}

/// Needed and free memory at the start of a run.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    pub(super) needs: Needs,
    /// Free memory at the start, in bytes, of a rank if there are others; `None` if unknown.
    free: Option<u64>,
    /// Ranks that share the batch.
    ranks: i64,
    /// Ranks that share the memory: on a CPU those of this host, this one among them.
    ranks_here: u64,
    batch: i64,
    /// Number of microbatches.
    pub(super) accumulate: i64,
    device: Device,
    /// True if checkpointing the network's blocks is possible, and not done yet.
    can_checkpoint_blocks: bool,
}

impl MemoryBudget {
    /// The budget of a trainer that is ready for its first step. With `auto` the fewest microbatches that should fit
    /// are chosen. With `force` a microbatch that should not fit is a warning.
    ///
    /// # Errors
    /// A microbatch that should not fit; `auto`, and the free memory is unknown, or not even one image should fit. A
    /// rank is gone.
    pub(super) fn settle(
        config: &RunConfig,
        trainer: &Trainer,
        data: &Store,
        fit: Fit,
        observer: &dyn Observer,
    ) -> Result<MemoryBudget> {
        let device = trainer.arena.device();
        // The initial weights and a loaded checkpoint are freed; training does not need their memory.
        native::return_freed_memory();
        let free = free_memory(fit.group, device)?;
        let here = fit.group.map_or(1, |group| group.ranks_here().1 as u64);
        let mut budget = MemoryBudget {
            needs: Needs::of(config, trainer, data, fit, free),
            free,
            ranks: fit.ranks() as i64,
            ranks_here: if device.is_cuda() { 1 } else { here },
            batch: config.train.batch,
            accumulate: config.train.accumulate,
            device,
            can_checkpoint_blocks: matches!(config.model, ModelConfig::Unet(_))
                && !config.train.checkpoint_blocks,
        };
        if fit.auto {
            budget.accumulate = budget.chosen(observer)?;
        } else if let Some(problem) = budget.too_little() {
            ensure!(
                fit.force,
                "{problem}; {}, or train all the same with `start.force`",
                budget.advice()
            );
            observer.message(&format!("warning: {problem}; {}", budget.advice()));
        }
        Ok(budget)
    }

    /// What is needed and what is free, if that is less.
    fn too_little(&self) -> Option<String> {
        let (free, more) = (self.free?, self.needs.more(self.micro()));
        (more > free).then(|| {
            format!(
                "a microbatch of {} needs {} of memory, and {} are free{}{}",
                plural(self.micro(), "image"),
                bytes(more),
                bytes(free),
                self.sharers(),
                match self.device {
                    Device::Cuda(_) => "",
                    _ => ": the system would end this program",
                },
            )
        })
    }

    /// For whom memory is free, if ranks share it.
    fn sharers(&self) -> String {
        match self.ranks_here {
            1 => String::new(),
            here => format!(" for each of the {here} ranks of this host"),
        }
    }

    fn chosen(&self, observer: &dyn Observer) -> Result<i64> {
        let free = self.free.ok_or_else(|| {
            anyhow!("`start.auto_accumulate`: the free memory is unknown on this system; give `train.accumulate`")
        })?;
        let most = self.needs.images_that_fit(free);
        let parts = fewest_parts(self.batch, self.ranks, most).ok_or_else(|| {
            anyhow!(
                "`start.auto_accumulate`: not even one image fits: {} more are needed, and {} are free{}; {SMALLER}",
                bytes(self.needs.more(1)),
                bytes(free),
                self.sharers()
            )
        })?;
        observer.message(&format!(
            "`start.auto_accumulate`: batch {} in {parts} {} of {}; up to {} fit into {} free{}",
            self.batch,
            if parts == 1 {
                "microbatch"
            } else {
                "microbatches"
            },
            self.batch / parts,
            plural(most, "image"),
            bytes(free),
            self.sharers()
        ));
        Ok(parts)
    }

    /// Images per microbatch.
    fn micro(&self) -> u64 {
        (self.batch / self.accumulate) as u64
    }

    /// Settings with which training should fit; always a smaller microbatch than now.
    fn advice(&self) -> String {
        let free = self.free.or(self.free_now());
        let most = self.needs.images_that_fit(free.unwrap_or(0));
        let blocks = match self.can_checkpoint_blocks {
            true => ", or `train.checkpoint_blocks`, which keeps less for each image",
            false => "",
        };
        match fewest_parts(self.batch, self.ranks, most.min(self.micro() / 2)) {
            Some(parts) => format!(
                "microbatches of {} should fit: `train.accumulate` = {parts} (same maths), or `start.auto_accumulate`{blocks}",
                self.batch / parts
            ),
            None => format!("not even one image fits: {SMALLER}{blocks}"),
        }
    }

    fn free_now(&self) -> Option<u64> {
        available_to_each(self.device, self.ranks_here)
    }

    /// Halves the microbatch; false if it is one image already.
    pub(super) fn halve(&mut self) -> bool {
        let parts = fewest_parts(self.batch, self.ranks, self.micro() / 2);
        self.accumulate = parts.unwrap_or(self.accumulate);
        parts.is_some()
    }

    /// Runs `work`, a training step or a grid. If memory runs out, the error names the size asked for, the free memory
    /// and flags with which it would fit.
    ///
    /// # Errors
    /// Those of `work`, and out of memory, which is a panic of tch in most operations.
    ///
    /// # Panics
    /// As `work` does for other reasons.
    pub(super) fn watch<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match catch_shortage(work)? {
            Ok(done) => Ok(done),
            Err(Shortage(said)) => Err(OutOfMemory(self.explain(&said)).into()),
        }
    }

    fn explain(&self, said: &str) -> String {
        let asked = match asked_for(said) {
            None => format!("libtorch says \"{}\"", said.trim_end_matches('.')),
            Some(size) => match size.strip_suffix(" bytes").map(str::parse) {
                Some(Ok(n)) => format!("{} more were asked for", bytes(n)),
                _ => format!("{size} more were asked for"),
            },
        };
        let before = self.free.unwrap_or(0);
        format!(
            "out of memory: {asked} while training with batch {} in microbatches of {}, estimated at {} in total, {}; {}",
            self.batch,
            self.micro(),
            bytes(self.needs.in_all(self.micro())),
            match self.free_now() {
                Some(now) => format!(
                    "and {} are free{} ({} before the first step)",
                    bytes(now),
                    self.sharers(),
                    bytes(before)
                ),
                None => "and the free memory is unknown".into(),
            },
            self.advice()
        )
    }
}

const SMALLER: &str =
    "use a smaller network (`model.base_width`) or smaller images (`model.height`)";

/// Memory ran out in a training step or a grid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct OutOfMemory(String);

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        held: 1_000,
        once: 100,
        per_image: 10,
        between_steps: 25,
        workspaces: 0,
    };

    fn budget(batch: i64, accumulate: i64, free: u64) -> MemoryBudget {
        MemoryBudget {
            needs: NEEDS,
            free: Some(free),
            ranks: 1,
            ranks_here: 1,
            batch,
            accumulate,
            device: Device::Cpu,
            can_checkpoint_blocks: false,
        }
    }

    #[test]
    fn images_that_fit_leave_a_tenth_to_spare() {
        // 200 free: 180 usable, 80 beyond what is needed once.
        assert_eq!(NEEDS.images_that_fit(200), 8);
        assert_eq!(NEEDS.images_that_fit(199), 7);
        // 125 are not enough for what is needed between steps, though for two images.
        assert_eq!(NEEDS.images_that_fit(138), 0);
        assert_eq!(NEEDS.images_that_fit(139), 2);
        assert_eq!(NEEDS.images_that_fit(50), 0);
        assert_eq!((NEEDS.in_all(1), NEEDS.in_all(4)), (1_125, 1_140));
        let on_cuda = Needs {
            workspaces: 50,
            ..NEEDS
        };
        assert_eq!((on_cuda.in_all(4), on_cuda.more(4)), (1_140, 190));
        assert_eq!(on_cuda.images_that_fit(200), 3);
    }

    #[test]
    fn parts_are_equal_and_as_few_as_possible() {
        for (batch, ranks, most, want) in [
            (64, 1, 64, Some(1)),
            (64, 1, 1_000, Some(1)),
            (64, 1, 63, Some(2)),
            (64, 1, 9, Some(8)),
            (30, 1, 7, Some(5)),
            (7, 1, 6, Some(7)),
            (7, 1, 0, None),
            (64, 2, 1_000, Some(2)),
            (64, 4, 9, Some(8)),
            (30, 3, 7, Some(6)),
            (30, 3, 0, None),
        ] {
            let found = fewest_parts(batch, ranks, most);
            assert_eq!(found, want, "{batch} {ranks} {most}");
        }
    }

    #[test]
    fn what_ranks_share_is_said_and_split() {
        let of_two = MemoryBudget {
            ranks: 2,
            ranks_here: 2,
            ..budget(8, 2, 130)
        };
        let problem = of_two.too_little().unwrap();
        let want = "needs 140 B of memory, and 130 B are free for each of the 2 ranks of this host: the system";
        assert!(problem.contains(want), "{problem}");
        // 110 free are too few for what is needed whatever the microbatch.
        let advice = MemoryBudget {
            free: Some(139),
            ..of_two
        };
        assert_eq!(advice.needs.images_that_fit(139), 2);
        assert!(advice.advice().contains("`train.accumulate` = 4 "));
        assert_eq!(advice.chosen(&()).unwrap(), 4);
    }

    #[test]
    fn auto_chooses_by_what_is_free() {
        assert_eq!(budget(64, 1, 2_000).chosen(&()).unwrap(), 1);
        assert_eq!(budget(64, 1, 200).chosen(&()).unwrap(), 8);
        let none = budget(64, 1, 100).chosen(&()).unwrap_err().to_string();
        assert!(none.contains("not even one image"), "{none}");
        let mut halved = budget(6, 1, 200);
        let steps: Vec<_> =
            std::iter::from_fn(|| halved.halve().then_some(halved.accumulate)).collect();
        assert_eq!(steps, [2, 6]);
    }

    #[test]
    fn out_of_memory_names_settings_that_fit_and_other_errors_stay() {
        let cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes. Error";
        let budget = budget(64, 1, 200);
        let failed = |text: &str| {
            budget
                .watch(|| -> Result<()> { Err(anyhow!("{text}")) })
                .unwrap_err()
        };
        let error = failed(cpu);
        assert!(error.is::<OutOfMemory>());
        let text = error.to_string();
        for part in [
            "3.0 GiB more",
            "batch 64 in microbatches of 64",
            "`train.accumulate` = 8 ",
            "`start.auto_accumulate`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let disguised = failed("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `f`");
        assert!(disguised.is::<OutOfMemory>());
        let text = disguised.to_string();
        assert!(
            text.starts_with(
                "out of memory: libtorch says \"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `f`\" while training"
            ),
            "{text}"
        );
        assert_eq!(failed("no such file").to_string(), "no such file");
    }
}

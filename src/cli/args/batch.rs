//! Batch size: a number, or found by trying.

use std::str::FromStr;
use std::time::Instant;

use anyhow::{Result, bail};
use tch::{Device, Kind, Tensor};

use crate::cli::out::say;
use crate::device::synchronize;
use crate::memory::{Shortage, available_to_each, catch_shortage, counted, return_cached};
use crate::pretrained::Guided;
use crate::text::plural;

/// Speed-up in images per second from which a doubled batch is worth its memory.
const WORTHWHILE: f64 = 1.03;
/// Share of the memory that stays free.
const SPARE_MEMORY: f64 = 0.1;

/// `--batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum BatchSize {
    /// The fastest batch that fits into the device's memory; in training, the largest microbatch that fits.
    Auto,
    /// This number.
    Fixed(u64),
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(BatchSize::Auto),
            Ok(n @ 1..=65_536) => Ok(BatchSize::Fixed(n)),
            _ => Err(format!(
                "{text:?} is not a valid batch size; want auto, or 1 to 65536 images"
            )),
        }
    }
}

/// Room for a batch beside those that other ranks make at the same time.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Room {
    /// Ranks that make batches, this one among them.
    pub(in crate::cli) ranks: u64,
    /// Those of them that share this host's memory.
    pub(in crate::cli) ranks_here: u64,
    /// Most bytes that a batch may take on any rank; `None` if unknown.
    pub(in crate::cli) least: Option<u64>,
}

impl Default for Room {
    /// That of a process by itself.
    fn default() -> Room {
        Room {
            ranks: 1,
            ranks_here: 1,
            least: None,
        }
    }
}

impl Room {
    /// True if `bytes` can be allocated besides what is in use; true if unknown.
    fn holds(self, device: Device, bytes: u64) -> bool {
        // Memory of earlier batches.
        return_cached(device);
        let here = available_to_each(device, self.ranks_here);
        let room = here.into_iter().chain(self.least).min();
        room.is_none_or(|room| fits(bytes, room))
    }
}

impl BatchSize {
    /// The batch size for `images` images; `auto` is found by trying, and leaves none of the ranks without a batch.
    ///
    /// # Errors
    /// `auto`, and a batch of one image does not fit, or an evaluation fails for another reason than memory.
    pub(in crate::cli) fn resolve(
        self,
        network: &Guided,
        device: Device,
        images: u64,
        room: Room,
    ) -> Result<u64> {
        let BatchSize::Auto = self else {
            return Ok(self.at_most(images));
        };
        let evaluate = |batch| Tried::evaluation(network, device, batch);
        let most = images.div_ceil(room.ranks);
        let found = fastest(most, evaluate, |bytes| room.holds(device, bytes))?;
        // Memory of the last batch tried, twice as large.
        return_cached(device);
        let shared = match room.ranks {
            1 => String::new(),
            ranks => format!(", a batch a rank at a time, of {ranks} ranks"),
        };
        say(&format!(
            "--batch auto: {} per batch{shared}",
            plural(found, "image")
        ));
        Ok(found)
    }

    fn at_most(self, images: u64) -> u64 {
        match self {
            BatchSize::Auto => images,
            BatchSize::Fixed(batch) => batch.min(images),
        }
    }
}

/// Doubles the batch from 1 up to `most` until that no longer pays or memory ends.
///
/// `evaluate(batch)` returns time and memory of one evaluation, or what was said when memory ran out; `has_room(bytes)`
/// is false if it need not be tried.
///
/// # Errors
/// Those of `evaluate`; not even 1 fits.
fn fastest(
    most: u64,
    evaluate: impl Fn(u64) -> Result<Result<Tried, Shortage>>,
    has_room: impl Fn(u64) -> bool,
) -> Result<u64> {
    let (mut best, mut best_rate, mut bytes_an_image) = (0, 0.0, 0);
    let mut batch = 1;
    while best < most {
        let tried = match has_room(batch * bytes_an_image) {
            true => evaluate(batch)?,
            false => Err(Shortage(String::new())),
        };
        let tried = match tried {
            Ok(tried) => tried,
            Err(Shortage(said)) if best == 0 => {
                bail!("not even one image fits into memory; libtorch says: {said}")
            }
            Err(_) => {
                say(&format!(
                    "--batch auto: a batch of {} would not fit into memory",
                    plural(batch, "image")
                ));
                break;
            }
        };
        let rate = batch as f64 / tried.secs;
        if rate < best_rate * WORTHWHILE {
            break;
        }
        (best, best_rate) = (batch, rate);
        bytes_an_image = tried.most_bytes.div_ceil(batch);
        batch = (batch * 2).min(most);
    }
    Ok(best)
}

/// Time and memory of one evaluation.
#[derive(Debug)]
struct Tried {
    /// The faster of two after a first that warms up.
    secs: f64,
    /// Most memory that the tensors of the evaluation take at once.
    most_bytes: u64,
}

impl Tried {
    /// # Errors
    /// Anything but running out of memory.
    fn evaluation(network: &Guided, device: Device, batch: u64) -> Result<Result<Tried, Shortage>> {
        let model = &network.network().config().model;
        let ([_, h, w], c) = (model.chw(), model.input_channels());
        let n = batch as i64;
        let zeros = |kind| Tensor::zeros([n], (kind, device));
        let evaluate = || {
            let x = Tensor::zeros([n, c, h, w], (Kind::Float, device));
            let classes = model.classes().map(|_| zeros(Kind::Int64));
            let start = Instant::now();
            let _ = network.predict(&x, &zeros(Kind::Int64), classes.as_ref());
            synchronize(device);
            start.elapsed().as_secs_f64()
        };
        catch_shortage(|| {
            // Allocates, too, what later evaluations reuse.
            evaluate();
            let (secs, most_bytes) = counted(device, evaluate)?;
            Ok(Tried {
                secs: secs.min(evaluate()),
                most_bytes,
            })
        })
    }
}

fn fits(bytes: u64, room: u64) -> bool {
    bytes as f64 <= room as f64 * (1.0 - SPARE_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_stops_where_it_no_longer_pays() {
        // 8 units of work side by side: up to 8 images take as long as one.
        let found = |most| {
            let evaluate = |batch: u64| {
                Ok(Ok(Tried {
                    secs: batch.div_ceil(8) as f64,
                    most_bytes: 0,
                }))
            };
            fastest(most, evaluate, |_| true).unwrap()
        };
        assert_eq!((found(1000), found(5), found(1)), (8, 5, 1));
    }

    #[test]
    fn doubling_stops_where_memory_ends() {
        let found = |most, room: u64, fit: u64| {
            let evaluate = |batch| {
                let tried = Tried {
                    secs: 1.0,
                    most_bytes: 10 * batch,
                };
                let full = || Shortage("CUDA out of memory".to_owned());
                Ok((batch <= fit).then_some(tried).ok_or_else(full))
            };
            fastest(most, evaluate, |bytes| bytes <= room)
        };
        assert_eq!(found(1000, 100, 1000).unwrap(), 8);
        assert_eq!(found(10, 100, 1000).unwrap(), 10);
        assert_eq!(found(1000, 1000, 2).unwrap(), 2);
        let none = found(1000, 1000, 0).unwrap_err().to_string();
        assert!(none.contains("not even one image") && none.ends_with("CUDA out of memory"));
    }

    #[test]
    fn another_failure_while_trying_ends_it() {
        let evaluate = |batch| match batch {
            1 => Ok(Ok(Tried {
                secs: 1.0,
                most_bytes: 0,
            })),
            _ => bail!("CUDA error: an illegal memory access was encountered"),
        };
        let error = fastest(8, evaluate, |_| true).unwrap_err().to_string();
        assert!(error.contains("illegal memory access"), "{error}");
    }

    #[test]
    fn a_tenth_of_the_memory_stays_free() {
        assert!(fits(0, 0) && fits(90, 100) && !fits(91, 100));
        let alone = Room::default();
        assert!(alone.holds(Device::Cpu, 1 << 20) && !alone.holds(Device::Cpu, 1 << 60));
        // The rank with the least, and as many ranks of this host.
        let least = Room {
            least: Some(1 << 19),
            ..alone
        };
        assert!(least.holds(Device::Cpu, 1 << 18) && !least.holds(Device::Cpu, 1 << 20));
        let many = Room {
            ranks_here: 1 << 40,
            ..alone
        };
        assert!(!many.holds(Device::Cpu, 1 << 20));
    }

    #[test]
    fn batch_sizes_are_parsed() {
        assert_eq!("auto".parse(), Ok(BatchSize::Auto));
        assert_eq!("7".parse(), Ok(BatchSize::Fixed(7)));
        for bad in ["0", "-1", "65537", "all"] {
            assert!(bad.parse::<BatchSize>().unwrap_err().contains("want auto"));
        }
    }
}

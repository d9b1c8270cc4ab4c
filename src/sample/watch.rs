//! Watches a reverse process for values that are not finite, without making the device wait.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::formats::finite::extremes;

/// What was not finite first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFiniteAt {
    /// The network's output.
    #[error(
        "the network's output is not finite (NaN or infinite) at time step {t}, evaluation {evaluation}, so no image \
         can come of it. Its weights are finite, so values overflow on the way; if it computes in bf16, try \
         `start.precision` = f32"
    )]
    Output {
        /// The time step.
        t: i64,
        /// Evaluations of the network until then, this one included.
        evaluation: usize,
    },
    /// What a sampler made of finite outputs.
    #[error(
        "the sampler's x is not finite (NaN or infinite) after time step {t}, although the network's output is: values \
         overflow in the steps; try another sampler, or one that clips"
    )]
    Image {
        /// The time step of the last step.
        t: i64,
    },
}

/// The ranges of what was seen so far, on the device.
#[derive(Debug, Default)]
pub struct Watch(RefCell<Vec<Seen>>);

#[derive(Debug)]
struct Seen {
    t: i64,
    image: bool,
    ends: [Tensor; 2],
}

impl Watch {
    /// Looks at the network's output at `t`.
    pub(super) fn output(&self, t: i64, out: &Tensor) {
        self.see(t, false, out);
    }

    /// Looks at the result of a chain whose last step was at `t`.
    pub(super) fn image(&self, t: i64, x: &Tensor) {
        self.see(t, true, x);
    }

    fn see(&self, t: i64, image: bool, x: &Tensor) {
        if let Ok((least, largest)) = extremes(x) {
            let ends = [least, largest];
            self.0.borrow_mut().push(Seen { t, image, ends });
        }
    }

    /// Reads what was seen, in one read, and forgets it.
    ///
    /// # Errors
    /// The first that was not finite.
    pub(super) fn check(&self) -> Result<(), NotFiniteAt> {
        let seen = self.0.take();
        let ends: Vec<Tensor> = (seen.iter().flat_map(|seen| &seen.ends))
            .map(|end| end.to_kind(Kind::Double))
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        let finite = Tensor::stack(&ends, 0).isfinite().view([-1, 2]);
        let finite = finite.all_dim(1, false).to_device(Device::Cpu);
        let finite = Vec::<bool>::try_from(finite).expect("a bool for each value seen");
        let Some(first) = finite.iter().position(|finite| !finite) else {
            return Ok(());
        };
        let Seen { t, image, .. } = seen[first];
        let evaluation = seen[..=first].iter().filter(|seen| !seen.image).count();
        Err(match image {
            true => NotFiniteAt::Image { t },
            false => NotFiniteAt::Output { t, evaluation },
        })
    }
}

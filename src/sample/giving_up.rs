//! A way out of a sampler before its last step.
//!
//! A sampler is a plain loop, whose network and whose callback return no errors. What calls them and does not want the
//! images any more unwinds the loop, as a panic would, but without its message.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What unwinds.
struct GivenUp;

/// Ends the work of [`unless_given_up`] from within, for example from a network or an
/// [`OnStep`](super::OnStep).
pub fn give_up() -> ! {
    resume_unwind(Box::new(GivenUp))
}

/// Runs `work`; `None` if [`give_up`] was called in it, on the same thread. Its tensors are dropped then.
///
/// # Panics
/// As `work` does otherwise.
pub fn unless_given_up<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Whoever gives up uses nothing of the work again.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<GivenUp>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::config::Preset;
    use crate::sample::{SamplerKind, SamplerOptions};

    #[test]
    fn a_sampler_ends_at_the_step_that_is_given_up_in() {
        let config = Preset::Demo.config();
        let options = SamplerOptions {
            steps: Some(9),
            ..SamplerOptions::new(SamplerKind::Ddim)
        };
        let chosen = options.choose(&config, || unreachable!()).unwrap();
        let run = |last: usize| {
            let denoiser = |x: &Tensor, _: &Tensor| x * 0.5;
            let process = chosen.process(&denoiser, &config.diffusion);
            let x = Tensor::ones([1, 1, 2, 2], (Kind::Float, Device::Cpu));
            let mut seen = 0;
            let done = unless_given_up(|| {
                let mut on_step = |step: crate::sample::Step| {
                    seen = step.done;
                    if step.done == last {
                        give_up();
                    }
                };
                chosen
                    .sampler
                    .run(&process, x.copy(), &mut |_| x.copy(), &mut on_step)
            });
            (seen, done.is_some())
        };
        assert_eq!(run(3), (3, false));
        assert_eq!(run(10), (9, true));
        // The guard against gradients is gone, too.
        let x = Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        assert!((x * 2.0).requires_grad());
    }

    #[test]
    fn other_panics_go_on() {
        let panics = || unless_given_up(|| -> () { resume_unwind(Box::new("a bug")) });
        let panic = catch_unwind(panics).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"a bug"));
    }
}

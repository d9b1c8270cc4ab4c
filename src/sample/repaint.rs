//! RePaint: inpainting with a network trained without masks.

use ndarray::Array2;
use tch::{Device, Tensor};

use super::{Ddpm, Noise, OnStep, Process, Step};
use crate::device::ConvolutionSearch;

/// The known part of the images.
#[derive(Debug)]
pub struct Inpaint {
    /// Images in [-1, 1], `[N, C, H, W]` or a shape that broadcasts to it.
    pub x_0: Tensor,
    /// The mask, `[H, W]` or a shape that broadcasts to it: true for pixels to inpaint.
    pub unknown: Array2<bool>,
}

/// Resampling: how often the chain goes back so that both parts match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Steps taken back at a time, 1 or more: RePaint's j.
    pub jump: usize,
    /// Passes over each stretch of `jump` steps, 1 or more: RePaint's r; 1 never goes back.
    pub times: usize,
}

impl Resampling {
    /// The moves of the chain from visited step `steps - 1` down to 0, including the moves back.
    fn moves(self, steps: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        for i in (0..steps).rev() {
            moves.push(Move::Down(i));
            // At the end of each stretch, but not at the clean image.
            if i > 0 && (steps - i).is_multiple_of(self.jump) {
                for _ in 1..self.times {
                    let top = i + self.jump;
                    moves.extend((i..top).map(Move::Up));
                    moves.extend((i..top).rev().map(Move::Down));
                }
            }
        }
        moves
    }

    /// Number of network evaluations.
    pub fn evaluations(self, steps: usize) -> usize {
        let down = |m: &&Move| matches!(m, Move::Down(_));
        self.moves(steps).iter().filter(down).count()
    }
}

/// One move of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// A reverse step from visited step i.
    Down(usize),
    /// A noising step to visited step i.
    Up(usize),
}

/// Runs DDPM from `x_start`, drawing the known part from q(x_t | x_0) at each step. Returns x_0 with the known part
/// exactly as given.
///
/// # Shapes
/// - `x_start` and results of `noise`: `[N, C, H, W]`; returns the same shape, not clipped
///
/// Source: Lugmayr et al. 2022, algorithm 1 <https://arxiv.org/abs/2201.09865>
pub fn repaint(
    process: &Process,
    options: Ddpm,
    resampling: Resampling,
    inpaint: &Inpaint,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let steps = process.steps;
    let _search = ConvolutionSearch::if_worth_it(resampling.evaluations(steps.len()));
    let mut draws = 0;
    let mut draw = || {
        draws += 1;
        noise(draws)
    };
    let unknown = on_device(&inpaint.unknown, x_start.device());
    let (mut x, mut done) = (x_start, 0);
    for step in resampling.moves(steps.len()) {
        match step {
            Move::Down(i) => {
                let estimate = process.estimate(&x, i);
                let painted = options.step(steps, &estimate, i, &mut draw);
                let (signal, share) = steps.signal_and_noise_prev(i);
                let kept = &inpaint.x_0 * signal;
                let kept = if i > 0 { kept + draw() * share } else { kept };
                x = painted.where_self(&unknown, &kept);
                done += 1;
                on_step(Step {
                    done,
                    t: steps.times[i],
                    x: &x,
                    estimate: &estimate,
                });
            }
            Move::Up(i) => {
                let beta = steps.schedule.betas[i];
                x = x * (1.0 - beta).sqrt() + draw() * beta.sqrt();
            }
        }
    }
    if let Some(&t) = steps.times.first() {
        process.watch_result(t, &x);
    }
    x
}

/// A mask as `[H, W]` bool on a device.
fn on_device(mask: &Array2<bool>, device: Device) -> Tensor {
    let mask = Tensor::try_from(mask.as_standard_layout()).expect("a mask without gaps");
    mask.to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, Sigma};
    use crate::diffusion::Schedule;
    use crate::rng::{Stream, normal};
    use crate::sample::{Respaced, Spacing, Visit};
    use ndarray::array;
    use tch::Kind;

    #[test]
    fn the_chain_goes_back_after_each_stretch_but_the_last() {
        use Move::{Down, Up};
        let once = Resampling { jump: 2, times: 1 };
        assert_eq!(once.moves(3), [Down(2), Down(1), Down(0)]);
        let twice = Resampling { jump: 2, times: 2 };
        assert_eq!(
            twice.moves(4),
            [
                Down(3),
                Down(2),
                Up(2),
                Up(3),
                Down(3),
                Down(2),
                Down(1),
                Down(0)
            ]
        );
        assert_eq!(twice.evaluations(4), 6);
    }

    /// Four pixels that are all 1 or all -1, the first one known. A chain that never goes back is dominated by the
    /// three unknown ones: a quarter of its images does not match.
    #[test]
    fn what_is_filled_in_fits_what_is_known() {
        let diffusion = Preset::Demo.config().diffusion;
        let schedule = Schedule::new(&diffusion);
        let denoiser = |x: &Tensor, t: &Tensor| {
            let a = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
            let sum = x.sum_dim_intlist([3].as_slice(), true, Kind::Float);
            let x_0_hat = (sum * (a.sqrt() / (1.0 - a))).tanh();
            (x - x_0_hat * a.sqrt()) / (1.0 - a).sqrt()
        };
        let steps = Respaced::new(&schedule, &Visit::Count(50, Spacing::Trailing)).unwrap();
        let process = Process::new(&denoiser, &steps, &diffusion, false);
        let shape = [4000, 1, 1, 4];
        let signs = normal(5, Stream::Data, 0, &[4000, 1, 1, 1], Device::Cpu).sign();
        let inpaint = Inpaint {
            x_0: signs.expand(shape, false),
            unknown: array![[false, true, true, true]],
        };
        let options = Ddpm {
            sigma: Sigma::Posterior,
            last_noise: false,
        };
        let unfitting = |times| {
            let mut draw = |k| normal(6, Stream::Sample, k, &shape, Device::Cpu);
            let resampling = Resampling { jump: 5, times };
            let start = draw(0);
            let on_step = &mut |_: Step| ();
            let x = repaint(
                &process, options, resampling, &inpaint, start, &mut draw, on_step,
            );
            assert_eq!(
                x.narrow(3, 0, 1),
                inpaint.x_0.narrow(3, 0, 1),
                "the known pixel"
            );
            let others = x
                .narrow(3, 1, 3)
                .sum_dim_intlist([3].as_slice(), true, Kind::Float);
            let wrong = others.sign().ne_tensor(&signs);
            f64::try_from(wrong.to_kind(Kind::Double).mean(Kind::Double)).unwrap()
        };
        // Another implementation gave 0.2575 and 0.036, each with a standard error of at most 0.007.
        let (never, often) = (unfitting(1), unfitting(10));
        assert!((never - 0.2575).abs() < 0.04, "{never} without going back");
        assert!((often - 0.036).abs() < 0.02, "{often} after going back");
    }
}

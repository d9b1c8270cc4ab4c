//! RePaint: filling in a part of a picture with a network that never saw a mask.

use tch::{Kind, Tensor};

use super::{Ddpm, Noise, OnStep, Process, Step};

/// What is known of the pictures.
#[derive(Debug)]
pub struct Known {
    /// `[N, C, H, W]` or one that broadcasts to it, in [-1, 1].
    pub x_0: Tensor,
    /// `[H, W]` or one that broadcasts, 1 where it is to be filled in and 0 where it is known.
    pub unknown: Tensor,
}

/// How often the chain goes back to make both parts fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Steps taken back at a time, 1 or more: RePaint's j.
    pub jump: usize,
    /// How often each stretch of `jump` steps is walked, 1 or more: RePaint's r; 1 never goes back.
    pub times: usize,
}

impl Resampling {
    /// The visited steps left by each move of the chain, from `steps - 1` down to 0, with the moves back.
    fn moves(self, steps: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        for i in (0..steps).rev() {
            moves.push(Move::Down(i));
            // At the end of each stretch, but not at the picture itself.
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

    /// How many times the network is asked.
    pub fn evaluations(self, steps: usize) -> usize {
        let down = |m: &&Move| matches!(m, Move::Down(_));
        self.moves(steps).iter().filter(down).count()
    }
}

/// One move of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// A reverse step that leaves visited step i.
    Down(usize),
    /// A noising step that comes to visited step i.
    Up(usize),
}

/// DDPM down from `x_start` in which the known part is drawn from q(x_t | x_0) at each step. Returns x_0, the known
/// part exactly as it was.
///
/// # Shapes
/// - `x_start`, and what `noise` gives: `[N, C, H, W]`; returns the same shape, not clipped
///
/// Source: Lugmayr et al. 2022, algorithm 1 <https://arxiv.org/abs/2201.09865>
pub fn repaint(
    process: &Process,
    options: Ddpm,
    resampling: Resampling,
    known: &Known,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let levels = process.levels;
    let mut draws = 0;
    let mut draw = || {
        draws += 1;
        noise(draws)
    };
    let unknown = known.unknown.to_kind(Kind::Bool);
    let (mut x, mut done) = (x_start, 0);
    for step in resampling.moves(levels.len()) {
        match step {
            Move::Down(i) => {
                let estimate = process.estimate(&x, i);
                let painted = options.step(levels, &estimate, i, &mut draw);
                let (signal, share) = levels.signal_and_noise_prev(i);
                let mut kept = &known.x_0 * signal;
                if i > 0 {
                    kept += draw() * share;
                }
                x = painted.where_self(&unknown, &kept);
                done += 1;
                on_step(Step {
                    done,
                    t: levels.times[i],
                    x: &x,
                    estimate: &estimate,
                });
            }
            Move::Up(i) => {
                let beta = levels.schedule.betas[i];
                x = x * (1.0 - beta).sqrt() + draw() * beta.sqrt();
            }
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, Sigma};
    use crate::diffusion::Schedule;
    use crate::rng::{Stream, normal};
    use crate::sample::Respaced;
    use tch::Device;

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

    /// Two pixels that are equal in all data, each unit normal: filling in one from the other must give the same
    /// value, which a chain that never goes back learns of too late.
    #[test]
    fn what_is_filled_in_fits_what_is_known() {
        let diffusion = Preset::Demo.config().diffusion;
        let levels = Respaced::all(&Schedule::new(&diffusion));
        let schedule = &levels.schedule;
        let denoiser = |x: &Tensor, t: &Tensor| {
            let a = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
            // x_0 is (v, v): its mean given both noised pixels.
            let v = x.sum_dim_intlist([3].as_slice(), true, Kind::Float) * (a.sqrt() / (1.0 + a));
            (x - v * a.sqrt()) / (1.0 - a).sqrt()
        };
        let process = Process::new(&denoiser, &levels, &diffusion, false);
        let shape = [2000, 1, 1, 2];
        let known = Known {
            x_0: normal(5, Stream::Data, 0, &[2000, 1, 1, 1], Device::Cpu).expand(shape, false),
            unknown: Tensor::from_slice(&[0.0f32, 1.0]).view([1, 2]),
        };
        let options = Ddpm {
            sigma: Sigma::Posterior,
            last_noise: false,
        };
        let spread = |times| {
            let mut noise = |k| normal(6, Stream::Sample, k, &shape, Device::Cpu);
            let resampling = Resampling { jump: 5, times };
            let start = normal(6, Stream::Sample, 0, &shape, Device::Cpu);
            let x = repaint(
                &process,
                options,
                resampling,
                &known,
                start,
                &mut noise,
                &mut |_| (),
            );
            assert_eq!(
                x.narrow(3, 0, 1),
                known.x_0.narrow(3, 0, 1),
                "the known pixel"
            );
            let wrong = x.narrow(3, 1, 1) - x.narrow(3, 0, 1);
            f64::try_from(wrong.square().mean(Kind::Double))
                .unwrap()
                .sqrt()
        };
        let (never, often) = (spread(1), spread(10));
        assert!(
            often < 0.5 * never,
            "{often} after going back, {never} without"
        );
        assert!(often < 0.2, "{often}");
    }
}

//! Compares the networks' 3×3 convolutions on a CPU with libtorch's, shape by shape. The thresholds in
//! `src/native/fused/conv.cpp` are chosen by it.
//!
//! ```text
//! cargo bench --bench conv3x3              # on all cores
//! cargo bench --bench conv3x3 -- 2         # on two threads
//! ```
//!
//! Columns: our time, and libtorch's time / ours (above 1 ours is faster), for the result, the gradient of x and that
//! of the weight; each is the median of alternating calls. For a shape that does not use Winograd tiles both sides are
//! the same, and the ratio shows the machine's noise. Errors are relative L2 distances of the result from that in f64.

use std::time::Instant;

use ddpm::native;
// The program's allocator.
use tch::{Device, Kind, Tensor, no_grad};
#[cfg(feature = "jemalloc")]
use tikv_jemalloc_sys as _;

/// Images, channels in and out, side in pixels: around the thresholds, and those of the presets' networks.
const SHAPES: [[i64; 3]; 20] = [
    [32, 32, 32],
    [8, 32, 16],
    [32, 64, 16],
    [32, 64, 8],
    [16, 64, 64],
    [16, 64, 32],
    [2, 96, 32],
    [2, 128, 128],
    [2, 128, 64],
    [16, 128, 16],
    [4, 128, 16],
    [4, 128, 8],
    [2, 192, 16],
    [2, 256, 32],
    [2, 256, 16],
    [16, 256, 8],
    [4, 256, 8],
    [4, 256, 4],
    [2, 512, 16],
    [8, 512, 4],
];
/// Seconds of timing per shape, or four rounds if they take longer.
const SECONDS: f64 = 2.0;
const LEAST_TURNS: usize = 4;

type Conv = fn(&Tensor, &Tensor) -> Tensor;

fn ours(x: &Tensor, weight: &Tensor) -> Tensor {
    native::conv3x3(x, weight, None).expect("shapes are right")
}

fn libtorch(x: &Tensor, weight: &Tensor) -> Tensor {
    x.conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
}

/// The operands of one shape, channels last in memory.
struct Case {
    x: Tensor,
    weight: Tensor,
}

impl Case {
    fn new([n, channels, side]: [i64; 3]) -> Case {
        let drawn = |shape: [i64; 4]| {
            let like = (Kind::Float, Device::Cpu);
            let last = Tensor::randn([shape[0], shape[2], shape[3], shape[1]], like);
            last.permute([0, 3, 1, 2])
        };
        Case {
            x: drawn([n, channels, side, side]),
            weight: drawn([channels, channels, 3, 3]),
        }
    }

    /// Milliseconds for the result, the gradient of x and that of the weight.
    fn times(&self, conv: Conv) -> [f64; 3] {
        let forward = timed(|| no_grad(|| conv(&self.x, &self.weight)));
        let gradient = |x: &Tensor, weight: &Tensor, of: &Tensor| {
            let result = conv(x, weight);
            timed(|| Tensor::run_backward(&[&result], &[of], false, false))
        };
        let [x, weight] = [&self.x, &self.weight].map(|t| t.detach().set_requires_grad(true));
        [
            forward,
            gradient(&x, &self.weight, &x),
            gradient(&self.x, &weight, &weight),
        ]
    }

    fn error(&self, conv: Conv) -> f64 {
        let [x, weight] = [&self.x, &self.weight].map(|t| t.to_kind(Kind::Double));
        let want = libtorch(&x, &weight);
        let got = conv(&self.x, &self.weight).to_kind(Kind::Double);
        f64::try_from((got - &want).norm() / want.norm()).expect("a number")
    }
}

fn timed<T>(f: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    let _result = f();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Medians of libtorch's times and of ours.
fn compare(case: &Case) -> [[f64; 3]; 2] {
    let sides: [Conv; 2] = [libtorch, ours];
    let mut turns: Vec<[[f64; 3]; 2]> = Vec::new();
    // The first calls warm up.
    let _ = sides.map(|conv| case.times(conv));
    let start = Instant::now();
    while turns.len() < LEAST_TURNS || start.elapsed().as_secs_f64() < SECONDS {
        turns.push(sides.map(|conv| case.times(conv)));
    }
    [0, 1].map(|side| {
        [0, 1, 2].map(|what| median(turns.iter().map(|turn| turn[side][what]).collect()))
    })
}

fn main() {
    // Cargo passes --bench first.
    let threads = std::env::args().find_map(|word| word.parse().ok());
    tch::set_num_threads(threads.unwrap_or_else(tch::get_num_threads));
    tch::manual_seed(1);
    println!("{} threads", tch::get_num_threads());
    println!(
        "| images | channels | side | result, ms | ratio | of x, ms | ratio | of weight, ms | ratio | error | libtorch's |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for shape in SHAPES {
        let case = Case::new(shape);
        let [theirs, mine] = compare(&case);
        let ratios = [0, 1, 2].map(|i| format!("{:.3} | {:.2}", mine[i], theirs[i] / mine[i]));
        let errors = [ours, libtorch].map(|conv: Conv| format!("{:.1e}", case.error(conv)));
        let [n, channels, side] = shape;
        println!(
            "| {n} | {channels} | {side} | {} | {} |",
            ratios.join(" | "),
            errors.join(" | ")
        );
    }
}

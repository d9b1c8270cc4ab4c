//! Operations with the same bits on any number of threads. Alone in its process, whose number of threads it sets.

use ddpm::native::conv3x3;
use tch::{Device, Kind, Tensor};

#[test]
fn convolutions_by_tiles() {
    tch::manual_seed(7);
    // n, c_in, c_out, height, width: tiles that fill the last part, and tiles that do not
    for [n, c_in, c_out, height, width] in [
        [2, 128, 128, 32, 32],
        [3, 128, 136, 19, 23],
        [1, 256, 128, 1, 1100],
    ] {
        let drawn = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let x = drawn(&[n, c_in, height, width]).set_requires_grad(true);
        let weight = drawn(&[c_out, c_in, 3, 3]).set_requires_grad(true);
        let d = drawn(&[n, c_out, height, width]);
        let outcome = |threads| {
            tch::set_num_threads(threads);
            let y = conv3x3(&x, &weight, None).unwrap();
            let loss = (&y * &d).sum(Kind::Float);
            let mut all = Tensor::run_backward(&[loss], &[&x, &weight], false, false);
            all.push(y.detach());
            all
        };
        let one = outcome(1);
        for threads in [2, 3, 5] {
            assert_eq!(outcome(threads), one, "{threads} threads");
        }
    }
}

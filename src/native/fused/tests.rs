//! Convolutions by tiles, filters that are kept, pooling.

use super::*;
use crate::device::{DeviceChoice, Precision, choose};
use crate::native::{Bf16, CpuTally};
use crate::rng::seeded;

/// The result and the gradients of x, weight and bias, given that of the result.
fn outcome(
    conv: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor,
    inputs: &[Tensor],
    d: &Tensor,
) -> Vec<Tensor> {
    let y = conv(&inputs[0], &inputs[1], inputs.get(2));
    let mut all = Tensor::run_backward(&[(&y * d).sum(y.kind())], inputs, false, false);
    all.push(y.detach());
    all
}

fn rel_l2(a: &Tensor, b: &Tensor) -> f64 {
    let a = a.to_kind(Kind::Double);
    f64::try_from((a - b).norm() / b.norm()).unwrap()
}

#[test]
fn convolutions_by_tiles_give_the_values_and_gradients_of_f64() {
    // n, c_in, c_out, height, width
    for [n, c_in, c_out, height, width] in [
        // No Winograd.
        [2, 8, 16, 5, 4],
        // Winograd for the gradient of x.
        [3, 64, 96, 13, 15],
        // Winograd for all but the gradient of the weight.
        [2, 32, 48, 24, 23],
        // Winograd for all.
        [2, 128, 128, 23, 24],
        [1, 136, 160, 1, 1100],
        [17, 128, 192, 8, 8],
    ] {
        for biased in [false, true] {
            let shapes = [
                vec![n, c_in, height, width],
                vec![c_out, c_in, 3, 3],
                vec![c_out],
                vec![n, c_out, height, width],
            ];
            let [x, w, b, d] = seeded(3, || {
                shapes.map(|shape| Tensor::randn(shape, (Kind::Double, Device::Cpu)))
            });
            let inputs = |kind| -> Vec<Tensor> {
                let of_kind = |t: &Tensor| t.to_kind(kind).copy().set_requires_grad(true);
                let bias = biased.then_some(&b);
                [&x, &w].into_iter().chain(bias).map(of_kind).collect()
            };
            let want = outcome(
                |x, w, b| x.conv2d(w, b, [1, 1], [1, 1], [1, 1], 1),
                &inputs(Kind::Double),
                &d,
            );
            let got = outcome(
                |x, w, b| conv3x3(x, w, b).unwrap(),
                &inputs(Kind::Float),
                &d.to_kind(Kind::Float),
            );
            for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                // oneDNN's own convolutions also differ by 1e-6 at 512 channels.
                let error = rel_l2(a, b);
                assert!(
                    error < 1e-6,
                    "{n} {c_in} {c_out} {height} {width}, tensor {i}: {error}"
                );
            }
        }
    }
}

#[test]
fn filters_are_made_once_and_kept() {
    let drawn = |shape: [i64; 4]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (x, weight) = seeded(3, || (drawn([2, 32, 8, 8]), drawn([48, 32, 3, 3])));
    let _no_grad = tch::no_grad_guard();
    let _casting = Bf16::begin(Device::Cpu).unwrap();
    let want = conv3x3(&x, &weight, None).unwrap();
    let kept = KeptFilters::new();
    let bytes_more = || {
        let tally = CpuTally::begin().unwrap();
        let got = kept.during(|| conv3x3(&x, &weight, None)).unwrap();
        assert_eq!(got, want);
        drop(got);
        tally.now_and_peak_bytes().0
    };
    // Without oneDNN's bf16 there is nothing to cache.
    let chosen = choose(DeviceChoice::Cpu, Precision::Auto, false).unwrap();
    if chosen.precision == Precision::Bf16 {
        assert!(bytes_more() >= 2 * 48 * 32 * 9);
    }
    assert_eq!(bytes_more(), 0);
}

#[test]
fn halved_gives_the_bits_of_average_pooling_and_keeps_nothing() {
    let x = seeded(3, || {
        Tensor::randn([2, 3, 6, 8], (Kind::Float, Device::Cpu))
    });
    let pooled = |halve: fn(&Tensor) -> Tensor| {
        let x = x.copy().set_requires_grad(true);
        let y = halve(&x);
        let loss = y.square().sum(Kind::Float);
        let grads = Tensor::run_backward(&[loss], &[x], false, false);
        (y.detach(), grads)
    };
    let theirs = |x: &Tensor| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
    assert_eq!(pooled(|x| halved(x).unwrap()), pooled(theirs));
    let x = x.set_requires_grad(true);
    let tally = CpuTally::begin().unwrap();
    let y = halved(&(&x + &x)).unwrap();
    assert_eq!(tally.now_and_peak_bytes().0, 4 * y.numel() as i64);
}

#[test]
fn a_convolution_refuses_other_shapes() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let x = zeros(&[2, 64, 16, 16]);
    assert!(conv3x3(&x, &zeros(&[64, 32, 3, 3]), None).is_err());
    assert!(conv3x3(&x, &zeros(&[64, 64, 1, 1]), None).is_err());
    assert!(conv3x3(&x, &zeros(&[64, 64, 3, 3]), Some(&zeros(&[32]))).is_err());
}

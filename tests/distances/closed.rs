//! Values that are known.

use ddpm::evaluate::frechet::{self, Remark};
use ddpm::evaluate::inception_score::inception_score;
use ddpm::evaluate::kernel::{KernelOptions, kernel};
use ddpm::evaluate::moments::{Moments, Statistics, Sums};
use ddpm::evaluate::precision::precision_recall;
use ndarray::{Array1, Array2, array};
use tch::{Device, Kind, Tensor};

use crate::{close, diagonal, measured, our_statistics, relative};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

fn gaussians(seed: i64, n: i64, spread: &Tensor) -> Tensor {
    ddpm::rng::seeded(seed as u64, || Tensor::randn([n, spread.size()[0]], F64)) * spread
}

fn exact(mean: Array1<f64>, cov: Array2<f64>, count: Option<u64>) -> Moments {
    Moments { count, mean, cov }
}

#[test]
fn gaussians_of_known_moments_have_a_known_distance() {
    // Commuting covariances: the sum of (m1 - m2)^2 and (s1 - s2)^2.
    let turn = array![[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]];
    let turned = |values| turn.dot(&diagonal(values)).dot(&turn.t());
    let a = exact(
        array![1.0, 2.0, 3.0],
        turned(array![4.0, 9.0, 1.0]),
        Some(50_000),
    );
    let b = exact(
        array![1.0, 0.0, 2.0],
        turned(array![1.0, 25.0, 0.0]),
        Some(50_000),
    );
    let root = frechet::sqrt(&b.cov).unwrap();
    assert!(relative(&root, &turned(array![1.0, 5.0, 0.0])) < 1e-14);
    let found = frechet::distance(&a, &b, &root).unwrap();
    close(found.distance, (4.0 + 1.0) + (1.0 + 4.0 + 1.0), 1e-13);
    assert_eq!(found.remarks, []);
    let same = frechet::distance(&b, &b, &root).unwrap();
    assert!(same.distance.abs() < 1e-12, "{}", same.distance);
    let error = frechet::sqrt(&array![[1.0, 2.0], [2.0, 1.0]]).unwrap_err();
    assert!(
        error.to_string().contains("no negative eigenvalues"),
        "{error}"
    );
}

#[test]
fn the_bias_of_a_few_images_is_estimated() {
    // Distances of sets of n images from the exact moments of what they were drawn from, which are 0 apart, and from
    // those of another distribution, of `factor` times the covariance.
    let d = 24;
    let spread = (Tensor::arange(d, F64) * -0.15).exp();
    let cov = diagonal(Array1::from_vec(Vec::try_from(spread.square()).unwrap()));
    let scaled = |factor| exact(Array1::zeros(d as usize), &cov * factor, Some(u64::MAX));
    let origin = scaled(1.0);
    let trace = cov.diag().sum();
    for factor in [1.0_f64, 2.0] {
        let reference = scaled(factor);
        let root = frechet::sqrt(&reference.cov).unwrap();
        let truth = frechet::distance(&origin, &reference, &root)
            .unwrap()
            .distance;
        for (n, tolerance) in [(480, 0.1), (240, 0.1), (60, 0.25)] {
            let draws = 60;
            let (mut bias, mut estimate) = (0.0, 0.0);
            for draw in 0..draws {
                let found = measured(&gaussians(1000 * n + draw, n, &spread), n);
                // The distance's linear term is 0 on average, and most of its scatter.
                let linear = (1.0 - factor.sqrt()) * (found.cov.diag().sum() - trace);
                let found = frechet::distance(&found, &reference, &root).unwrap();
                bias += (found.distance - truth - linear) / draws as f64;
                estimate += found.bias.unwrap() / draws as f64;
            }
            println!("n {n}: bias {bias}, estimate {estimate}");
            close(estimate, bias, tolerance);
        }
    }
}

#[test]
fn what_makes_a_distance_inexact_is_said() {
    let of = |count| exact(array![0.0, 1.0], diagonal(array![1.0, 2.0]), count);
    let root = frechet::sqrt(&of(None).cov).unwrap();
    let remarks = |a, b| frechet::distance(&of(a), &of(b), &root).unwrap();
    assert_eq!(remarks(Some(10_000), Some(50_000)).remarks, []);
    let unknown = remarks(None, Some(50_000));
    assert_eq!(
        (unknown.bias, unknown.remarks),
        (None, vec![Remark::UnknownCount])
    );
    assert_eq!(
        remarks(Some(9_999), None).remarks,
        [Remark::UnknownCount, Remark::FewImages { images: 9_999 }]
    );
    let few = remarks(Some(50_000), Some(2)).remarks;
    assert_eq!(few, [Remark::RankDeficient { images: 2, dims: 2 }]);
    assert!(
        few[0]
            .to_string()
            .starts_with("2 images for features of 2 numbers")
    );
}

#[test]
fn sums_of_ranks_are_those_of_one() {
    let spread = Tensor::ones([5], F64);
    // Far from 0, and each rank from another place.
    let all = gaussians(3, 1500, &spread) + 1e5 * Tensor::arange(1500, F64).unsqueeze(1);
    let alone = measured(&all, 64);
    let mut sums = Sums::new(5);
    for part in [
        &all.narrow(0, 0, 700),
        &all.narrow(0, 700, 3),
        &all.narrow(0, 703, 797),
    ] {
        let mut rank = Sums::new(5);
        rank.add(part).unwrap();
        sums.merge(rank).unwrap();
    }
    sums.merge(Sums::new(5)).unwrap();
    assert_eq!(sums.count(), 1500);
    let merged = sums.moments().unwrap();
    assert!(relative(&merged.cov, &alone.cov) < 1e-13);
    assert!((&merged.mean - &alone.mean).iter().all(|x| x.abs() < 1e-6));
    let error = Sums::new(5).merge(Sums::new(6)).unwrap_err();
    assert!(error.to_string().contains("6 numbers"), "{error}");
}

#[test]
fn statistics_come_back_with_their_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let ours = our_statistics();
    ours.write(&path).unwrap();
    assert_eq!(Statistics::read(&path).unwrap(), ours);
    let bare = Statistics {
        features: None,
        sqrt_cov: None,
        moments: Moments {
            count: None,
            ..ours.moments
        },
    };
    bare.write(&path).unwrap();
    assert_eq!(Statistics::read(&path).unwrap(), bare);
}

#[test]
fn scores_of_sure_and_unsure_classifiers() {
    // Sure of one of four classes, evenly: the number of classes. All the same: 1.
    let sure = Tensor::eye(4, F64).repeat([250, 1]) * 1e4;
    let found = inception_score(&sure, 1).unwrap();
    assert!(found.mean > 3.9 && found.mean <= 4.0 + 1e-12, "{found:?}");
    let unsure = inception_score(&Tensor::ones([10, 7], F64), 1).unwrap();
    assert_eq!((unsure.mean, unsure.std), (1.0, 0.0));
}

#[test]
fn copies_are_inside_and_others_outside() {
    let real = gaussians(5, 40, &Tensor::ones([6], F64));
    // Each image four times, far from the origin: all distances that count are 0.
    let copies = real.repeat([4, 1]) + 100.0;
    let found = precision_recall(&copies, &copies).unwrap();
    assert_eq!((found.precision, found.recall), (1.0, 1.0));
    let found = precision_recall(&(&real + 50.0), &real).unwrap();
    assert_eq!((found.precision, found.recall), (0.0, 0.0));
    // One good image many times: precise, and of no variety.
    let one = real.narrow(0, 0, 1).repeat([40, 1]);
    let found = precision_recall(&one, &real).unwrap();
    assert_eq!((found.precision, found.recall), (1.0, 1.0 / 40.0));
}

#[test]
fn a_kernel_distance_of_sets_that_are_alike_is_0_on_average() {
    let spread = Tensor::ones([8], F64);
    let [a, b, c] = [1, 2, 3].map(|seed| gaussians(seed, 2000, &spread));
    let options = KernelOptions {
        subsets: 20,
        subset_images: 500,
        ..KernelOptions::default()
    };
    let alike = kernel(&a, &b, &options).unwrap();
    assert!(alike.mean.abs() < alike.std, "{alike:?}");
    let apart = kernel(&a, &(c + 0.5), &options).unwrap();
    assert!(apart.mean > 10.0 * apart.std, "{apart:?}");
}

/// Prints what the parts of a distance take at the size of FID's features.
#[test]
#[ignore = "a measurement: a minute or more"]
fn times_of_2048_numbers() {
    use std::time::Instant;
    let (n, d) = (4096, 2048);
    let f32s = (Kind::Float, Device::Cpu);
    let spread = (Tensor::arange(d, f32s) * -0.002).exp();
    let [a, b] =
        [1, 2].map(|seed| ddpm::rng::seeded(seed, || Tensor::randn([n, d], f32s)) * &spread);
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        println!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    };
    let mut moments = Vec::new();
    timed("sums of 2 x 4096 images", &mut || {
        moments = [&a, &b].map(|set| measured(set, 64)).into();
    });
    let mut root = Array2::zeros((0, 0));
    timed("root", &mut || {
        root = frechet::sqrt(&moments[1].cov).unwrap()
    });
    timed("distance", &mut || {
        println!(
            "{:?}",
            frechet::distance(&moments[0], &moments[1], &root).unwrap()
        );
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let statistics = Statistics {
        moments: moments[1].clone(),
        features: None,
        sqrt_cov: Some(root.clone()),
    };
    timed("writing statistics", &mut || {
        statistics.write(&path).unwrap()
    });
    timed("reading statistics", &mut || {
        drop(Statistics::read(&path).unwrap())
    });
    timed("kernel distance, 100 subsets of 1000", &mut || {
        println!("{:?}", kernel(&a, &b, &KernelOptions::default()).unwrap());
    });
    timed("precision and recall of 2 x 4096", &mut || {
        println!("{:?}", precision_recall(&a, &b).unwrap());
    });
}

//! Features and files that cannot be measured: named, never a number.

use ddpm::evaluate::frechet;
use ddpm::evaluate::inception_score::inception_score;
use ddpm::evaluate::kernel::{KernelOptions, kernel};
use ddpm::evaluate::moments::{Moments, Statistics, Sums};
use ddpm::evaluate::precision::precision_recall;
use ndarray::{Array1, Array2};
use tch::{Device, Kind, Tensor};

use crate::{our_statistics, reference};

fn features(n: i64, d: i64) -> Tensor {
    Tensor::arange(n * d, (Kind::Float, Device::Cpu))
        .sin()
        .view([n, d])
}

#[track_caller]
fn told<T>(result: anyhow::Result<T>, wanted: &str) {
    let error = format!("{:#}", result.err().expect("an error"));
    assert!(error.contains(wanted), "{error}: wanted {wanted}");
}

#[test]
fn features_that_are_not_finite_are_named() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let broken = features(20, 4);
        let _ = broken.narrow(0, 7, 1).narrow(1, 2, 1).fill_(bad);
        let _ = broken.narrow(0, 9, 1).fill_(-bad);
        let said = "the features of image 7 (counted from 0) are NaN or infinite, and those of 2 of 20 images";
        told(Sums::new(4).add(&broken), said);
        told(
            kernel(&broken, &features(9, 4), &KernelOptions::default()),
            said,
        );
        told(
            kernel(&features(9, 4), &broken, &KernelOptions::default()),
            "the second set",
        );
        told(precision_recall(&broken, &features(9, 4)), said);
        told(inception_score(&broken, 1), said);
        let mut sums = Sums::new(4);
        sums.add(&features(600, 4)).unwrap();
        told(sums.add(&broken), "image 607");
        // What was refused was not added.
        assert_eq!(sums.moments().unwrap().count, Some(600));
    }
    // A sum that overflows is no value that does.
    let large = Tensor::full([4, 2], f64::MAX, (Kind::Double, Device::Cpu));
    Sums::new(2).add(&large).unwrap();
}

#[test]
fn too_few_images_are_named() {
    told(Sums::new(4).moments(), "0 images: a covariance needs 2");
    let mut one = Sums::new(4);
    one.add(&features(1, 4)).unwrap();
    told(one.moments(), "1 image: a covariance needs 2");
    let options = KernelOptions::default();
    told(
        kernel(&features(1, 4), &features(9, 4), &options),
        "1 image",
    );
    told(
        precision_recall(&features(9, 4), &features(3, 4)),
        "3 images real: ",
    );
    told(
        precision_recall(&features(1, 4), &features(9, 4)),
        "1 image generated: ",
    );
    told(
        inception_score(&features(9, 4), 1),
        "9 images cannot be split",
    );
}

#[test]
fn features_of_another_network_are_named() {
    let mut sums = Sums::new(4);
    told(sums.add(&features(9, 5)), "features of 5 numbers, wanted 4");
    told(sums.add(&features(9, 4).view([-1])), "of shape [36]");
    let options = KernelOptions::default();
    told(
        kernel(&features(9, 4), &features(9, 5), &options),
        "the same network",
    );
    told(
        precision_recall(&features(9, 4), &features(9, 5)),
        "the same network",
    );
    let of = |d: usize| Moments {
        count: None,
        mean: Array1::zeros(d),
        cov: Array2::eye(d),
    };
    let root = Array2::eye(3);
    told(frechet::distance(&of(3), &of(4), &root), "the same network");
    told(frechet::distance(&of(4), &of(4), &root), "shape (3, 3)");
}

#[test]
fn files_without_statistics_are_named() {
    let Some(reference) = reference() else { return };
    for (file, wanted) in [
        ("bad_shape.npz", "sigma has the shape [4, 4], wanted [3, 3]"),
        (
            "bad_nan.npz",
            "2 of the 4 values of sigma are NaN or infinite",
        ),
        (
            "bad_symmetry.npz",
            "sigma is not symmetric: 0.5 at [0, 1] and 0.25 at [1, 0]",
        ),
        ("bad_variance.npz", "sigma has the negative variance -1"),
        (
            "bad_names.npz",
            "it has the arrays mean, cov, wanted mu and sigma",
        ),
        ("bad_pickle.npz", "elements of type"),
        ("images.npy", "it has the arrays arr_0"),
        ("values.json", "is not a NumPy file"),
        ("missing.npz", "cannot open"),
    ] {
        let read = Statistics::read(&reference.path(file));
        told(read.map_err(|error| error.context(file)), wanted);
        let error = format!("{:#}", Statistics::read(&reference.path(file)).unwrap_err());
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn a_root_of_another_covariance_is_passed_over() {
    use ddpm::formats::npz::{self, Values};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    our_statistics().write(&path).unwrap();
    let mut file = npz::open(&path).unwrap();
    let names: Vec<String> = file.names().iter().map(|name| (*name).to_owned()).collect();
    let mut arrays: Vec<(&str, Values)> = Vec::new();
    for name in &names {
        arrays.push((name, file.read(name, 1 << 20).unwrap()));
    }
    let change = |arrays: &mut Vec<(&str, Values)>, name: &str, factor: f64| {
        let found = arrays.iter_mut().find(|(found, _)| *found == name).unwrap();
        let Values::F64(values) = &mut found.1 else {
            panic!("{name}")
        };
        *values *= factor;
    };
    // Another program took sigma for another, and kept the rest.
    change(&mut arrays, "sigma", 2.0);
    npz::write(&path, &arrays).unwrap();
    let read = Statistics::read(&path).unwrap();
    assert_eq!(read.sqrt_cov, None);
    assert_eq!(read.features, our_statistics().features);
    // And a root that is none.
    change(&mut arrays, "sigma", 0.5);
    npz::write(&path, &arrays).unwrap();
    assert!(Statistics::read(&path).unwrap().sqrt_cov.is_some());
    change(&mut arrays, "sqrt_sigma", 2.0);
    npz::write(&path, &arrays).unwrap();
    assert_eq!(Statistics::read(&path).unwrap().sqrt_cov, None);
}

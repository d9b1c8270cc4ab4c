//! Values of pytorch-fid, torch-fidelity and NumPy.

use ddpm::evaluate::frechet;
use ddpm::evaluate::inception_score::{SCORE_SEED, inception_score};
use ddpm::evaluate::kernel::{KernelOptions, kernel};
use ddpm::evaluate::moments::{Moments, Statistics};
use ddpm::evaluate::precision::precision_recall;
use ddpm::formats::npz;
use tch::Kind;

use crate::{close, measured, our_statistics, reference, relative};

fn distance(a: &Moments, b: &Moments) -> f64 {
    let root = frechet::sqrt(&b.cov).unwrap();
    frechet::distance(a, b, &root).unwrap().distance
}

#[test]
fn moments_are_those_of_numpy() {
    let Some(reference) = reference() else { return };
    for name in ["a", "b", "wide_a", "few_a", "far"] {
        let wanted = reference.stats(name);
        let set = reference.set(name);
        let found = measured(&set, 33);
        assert_eq!(found.count, Some(set.size()[0] as u64));
        // NumPy subtracts the mean first, in a second pass, as we cannot: for the far set what is lost is lost in its
        // values, of which 1e6 times the spread is as many digits.
        let error = relative(&found.cov, &wanted.cov);
        assert!(error < 1e-10, "{name}: {error:e}");
        for (found, wanted) in found.mean.iter().zip(&wanted.mean) {
            close(*found, *wanted, 1e-10);
        }
        // Batches of any size are the same sums, to the bit.
        assert_eq!(measured(&set, 900), found);
    }
}

#[test]
fn frechet_distances_are_those_of_both_programs() {
    let Some(reference) = reference() else { return };
    for (x, y, tolerance) in [
        ("a", "b", 1e-9),
        ("wide_a", "wide_b", 1e-9),
        // Without full rank the eigenvalues that are 0 are rounding, and their roots 1e-8 of the largest: in ours as in
        // torch-fidelity's, which are general ones, and in pytorch-fid's root of a singular matrix.
        ("few_a", "few_b", 1e-7),
    ] {
        let [a, b] = [x, y].map(|name| reference.stats(name));
        for (name, wanted) in reference.values["frechet"][format!("{x} {y}")]
            .as_object()
            .unwrap()
        {
            println!("{x} {y} {name} {wanted} {}", distance(&a, &b));
            close(distance(&a, &b), wanted.as_f64().unwrap(), tolerance);
        }
        let [a, b] = [x, y].map(|name| measured(&reference.set(name), 100));
        close(distance(&b, &a), distance(&a, &b), tolerance);
        let wanted = &reference.values["frechet"][format!("{x} {y}")]["pytorch-fid"];
        close(distance(&a, &b), wanted.as_f64().unwrap(), tolerance);
    }
}

#[test]
fn kernel_distances_are_on_the_same_subsets() {
    let Some(reference) = reference() else { return };
    let close_pair = |[x, y]: [&str; 2], options: KernelOptions, wanted: &str, deviation: f64| {
        let found = kernel(&reference.set(x), &reference.set(y), &options).unwrap();
        let [mean, std] = reference.pair(wanted);
        close(found.mean, mean, 1e-9);
        assert!((found.std - std).abs() < deviation, "{} {std}", found.std);
    };
    let some = KernelOptions {
        subset_images: 200,
        ..KernelOptions::default()
    };
    close_pair(["a", "b"], some, "/kernel", 1e-12);
    let few = KernelOptions {
        subsets: 2,
        ..KernelOptions::default()
    };
    close_pair(["wide_a", "wide_b"], few, "/kernel of thousands", 1e-12);
    // The whole sets, whose order does not matter.
    close_pair(
        ["few_a", "few_a"],
        KernelOptions::default(),
        "/kernel of all",
        1e-12,
    );
}

#[test]
fn scores_are_of_the_same_splits() {
    let Some(reference) = reference() else { return };
    let found = inception_score(&reference.set("logits"), SCORE_SEED).unwrap();
    let [mean, std] = reference.pair("/score");
    close(found.mean, mean, 1e-9);
    close(found.std, std, 1e-9);
}

#[test]
fn precision_and_recall_count_the_same_images() {
    let Some(reference) = reference() else { return };
    for sets in ["a b", "wide_a wide_b", "few_a few_b"] {
        let (x, y) = sets.split_once(' ').unwrap();
        let [x, y] = [x, y].map(|name| reference.set(name));
        let found = precision_recall(&x, &y).unwrap();
        // Theirs is a mean of f32.
        let [precision, recall] = reference.pair(&format!("/precision/{sets}"));
        close(found.precision, precision, 1e-6);
        close(found.recall, recall, 1e-6);
        // Those of f32 features are the same images here.
        let [x, y] = [x, y].map(|set| set.to_kind(Kind::Float));
        assert_eq!(precision_recall(&x, &y).unwrap(), found);
    }
}

#[test]
fn statistics_of_other_programs_are_read() {
    let Some(reference) = reference() else { return };
    let wanted = reference.stats("b");
    for file in ["pytorch_fid.npz", "turned.npz", "guided.npz"] {
        let found = Statistics::read(&reference.path(file)).unwrap();
        assert_eq!(found.moments, wanted, "{file}");
        assert_eq!((found.features, found.sqrt_cov), (None, None));
    }
    let mut images = Vec::new();
    for file in ["guided.npz", "images.npy"] {
        let mut file = npz::open(&reference.path(file)).unwrap();
        let mut rows = file.images(npz::FIRST_ARRAY).unwrap();
        assert_eq!((rows.count(), rows.hwc()), (9, [6, 5, 3]));
        while let Some(some) = rows.next_images(4).unwrap() {
            images.extend(some);
        }
    }
    let wanted: Vec<u8> = serde_json::from_value(reference.values["images"].clone()).unwrap();
    assert_eq!(images, [&wanted[..], &wanted].concat());
    let single = npz::open(&reference.path("single.npz"))
        .unwrap()
        .read("a", 1 << 20);
    assert!(matches!(single.unwrap(), npz::Values::F32(_)));
}

#[test]
fn pytorch_fid_reads_our_statistics() {
    let Some(reference) = reference() else { return };
    let ours = our_statistics();
    let read = &reference.values["ours"];
    let mean: Vec<f64> = serde_json::from_value(read["mu"].clone()).unwrap();
    let cov: Vec<Vec<f64>> = serde_json::from_value(read["sigma"].clone()).unwrap();
    assert_eq!(mean, ours.moments.mean.to_vec());
    assert_eq!(
        cov.concat(),
        ours.moments.cov.iter().copied().collect::<Vec<_>>()
    );
    assert_eq!(read["n"], "12345");
    assert_eq!(read["features"], ours.features.unwrap());
}

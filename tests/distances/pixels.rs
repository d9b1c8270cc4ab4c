//! Sliced Wasserstein distances: against the definition in NumPy, and on images that were made worse.

use ddpm::evaluate::sliced::{Patches, SlicedOptions, baseline, sliced};
use ddpm::evaluate::{ImageSet, Stored};
use ddpm::formats::npz;
use tch::{Device, Kind, Tensor};

use crate::{Reference, close, reference};

fn stored(pixels: Tensor, batch: i64) -> Stored {
    Stored {
        pixels,
        origin: "images of a test".into(),
        batch,
    }
}

/// A set of images that Python made, `[N, C, H, W]`.
fn images(reference: &Reference, name: &str) -> Tensor {
    let mut file = npz::open(&reference.path("image_sets.npz")).unwrap();
    let mut rows = file.images(name).unwrap();
    let all = rows.next_images(1000).unwrap().unwrap();
    assert!(rows.next_images(1).unwrap().is_none());
    Tensor::try_from(&all).unwrap().permute([0, 3, 1, 2])
}

#[test]
fn sliced_distances_are_those_of_their_definition() {
    let Some(reference) = reference() else { return };
    for case in reference.values["sliced"].as_array().unwrap() {
        let numbers: [u64; 4] = serde_json::from_value(case["options"].clone()).unwrap();
        let options = SlicedOptions {
            patches_per_image: numbers[0],
            most_patches: numbers[1],
            directions: numbers[2],
            seed: numbers[3],
        };
        let name = case["sets"].as_str().unwrap();
        let patches = |which, batch| {
            let set = stored(images(reference, &format!("{name}_{which}")), batch);
            Patches::of(&set, &options).unwrap()
        };
        let found = sliced(&patches("a", 64), &patches("b", 64)).unwrap();
        let wanted: Vec<f64> = serde_json::from_value(case["levels"].clone()).unwrap();
        println!("{name} {options:?} {found:?} {wanted:?}");
        assert_eq!(found.levels.len(), wanted.len());
        for (level, wanted) in found.levels.iter().zip(wanted) {
            // Ours are f32.
            close(level.distance, wanted, 2e-5);
        }
        let sides: Vec<[i64; 2]> = found.levels.iter().map(|l| [l.height, l.width]).collect();
        match name {
            "rgb" => assert_eq!(sides, [[37, 50], [19, 25]]),
            _ => assert_eq!(sides, [[16, 29]]),
        }
        // However the images come, to the last digits: of other numbers of them libtorch adds up in other orders.
        let others = sliced(&patches("a", 7), &patches("b", 1)).unwrap();
        close(others.mean, found.mean, 1e-5);
    }
}

/// Images of rectangles, `[n, 3, side, side]` f32 from 0 to 255.
fn rectangles(seed: u64, n: i64, side: i64) -> Tensor {
    ddpm::rng::seeded(seed, || {
        let f32s = (Kind::Float, Device::Cpu);
        let images = Tensor::ones([n, 3, side, side], f32s) * 90.0;
        let all = Tensor::rand([n, 12, 7], f32s);
        for i in 0..n {
            for k in 0..12 {
                let value = |at| all.double_value(&[i, k, at]);
                let [x, y] = [0, 1].map(|at| (value(at) * (side - 4) as f64) as i64);
                let [w, h] = [2, 3].map(|at| 3 + (value(at) * side as f64 / 2.0) as i64);
                let mut area =
                    images
                        .get(i)
                        .narrow(1, y, h.min(side - y))
                        .narrow(2, x, w.min(side - x));
                let colour = all.get(i).get(k).narrow(0, 4, 3) * 255.0;
                area.copy_(&colour.view([3, 1, 1]).expand_as(&area));
            }
        }
        images
    })
}

fn patches(images: &Tensor) -> Patches {
    let options = SlicedOptions {
        patches_per_image: 64,
        directions: 128,
        ..SlicedOptions::default()
    };
    let pixels = images.round().clamp(0.0, 255.0).to_kind(Kind::Uint8);
    Patches::of(&stored(pixels, 50), &options).unwrap()
}

#[test]
fn worse_images_are_further_away() {
    let real = rectangles(1, 200, 32);
    let alike = rectangles(2, 200, 32);
    let blurred = alike.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None::<i64>);
    let more_blurred = blurred.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None::<i64>);
    let noise = ddpm::rng::seeded(3, || alike.randn_like()) * 20.0;
    let one_kind = alike.narrow(0, 0, 2).repeat([100, 1, 1, 1]);
    let real = patches(&real);
    let to = |images: &Tensor| {
        let found = sliced(&patches(images), &real).unwrap();
        println!("{found:?}");
        found
    };
    let floor = baseline(&real).unwrap();
    println!("floor {floor:?}");
    let alike_distance = to(&alike);
    assert!(alike_distance.mean < 1.5 * floor.mean);
    let blurred = to(&blurred);
    assert!(blurred.levels[0].distance > 2.0 * floor.levels[0].distance);
    assert!(to(&more_blurred).levels[0].distance > blurred.levels[0].distance);
    let noisy = to(&(alike + noise));
    assert!(noisy.levels[0].distance > 2.0 * floor.levels[0].distance);
    assert!(to(&one_kind).mean > 2.0 * floor.mean);
    // Of the same images none.
    assert_eq!(sliced(&real, &real).unwrap().mean, 0.0);
}

#[test]
fn patches_are_as_many_as_memory_allows() {
    let options = |most_patches| SlicedOptions {
        most_patches,
        ..SlicedOptions::default()
    };
    let set = stored(
        Tensor::zeros([300, 1, 16, 16], (Kind::Uint8, Device::Cpu)),
        32,
    );
    for (most, wanted) in [
        (1 << 17, 300 * 128),
        (10_000, 300 * 32),
        (300, 300),
        (299, 150),
        (2, 2),
    ] {
        let found = Patches::of(&set, &options(most)).unwrap();
        assert_eq!((found.images(), found.count()), (300, wanted));
        // Of flat images there is no detail, and no distance.
        assert_eq!(sliced(&found, &found).unwrap().mean, 0.0);
        assert_eq!(baseline(&found).unwrap().mean, 0.0);
    }
}

#[test]
fn sets_that_cannot_be_compared_are_named() {
    let zeros = |shape: [i64; 4]| stored(Tensor::zeros(shape, (Kind::Uint8, Device::Cpu)), 2);
    let options = SlicedOptions::default();
    let cut = |shape| Patches::of(&zeros(shape), &options).unwrap();
    let told = |error: anyhow::Error, wanted: &str| {
        let error = format!("{error:#}");
        assert!(error.contains(wanted), "{error}");
    };
    let small = Patches::of(&zeros([4, 3, 32, 15]), &options).unwrap_err();
    told(small, "images of a test are of 15 x 32 pixels");
    let none = Patches::of(&zeros([0, 3, 32, 16]), &options).unwrap_err();
    told(none, "there are no images");
    let a = cut([4, 3, 32, 16]);
    told(
        sliced(&a, &cut([4, 1, 32, 16])).unwrap_err(),
        "(16 x 32, 3 channels) cannot be compared",
    );
    told(sliced(&a, &cut([4, 3, 32, 17])).unwrap_err(), "one size");
    let seeded = SlicedOptions {
        seed: 1,
        ..options.clone()
    };
    let other = Patches::of(&zeros([4, 3, 32, 16]), &seeded).unwrap();
    told(sliced(&a, &other).unwrap_err(), "seed: 1");
    told(
        baseline(&cut([1, 3, 32, 16])).unwrap_err(),
        "1 image cannot be halved",
    );

    struct Mixed;
    impl ImageSet for Mixed {
        fn chw(&self) -> [i64; 3] {
            [1, 16, 16]
        }
        fn origin(&self) -> String {
            "mixed".into()
        }
        fn for_each(
            &self,
            take: &mut dyn FnMut(&Tensor) -> anyhow::Result<()>,
        ) -> anyhow::Result<u64> {
            take(&Tensor::zeros([1, 1, 16, 17], (Kind::Uint8, Device::Cpu)))?;
            Ok(1)
        }
    }
    told(
        Patches::of(&Mixed, &options).unwrap_err(),
        "mixed: images of shape [1, 16, 17]",
    );
}

/// Prints what sliced distances of large sets take.
#[test]
#[ignore = "a measurement: a minute or more"]
fn times_of_sliced_distances() {
    use std::time::Instant;
    for (n, side) in [(10_000, 32), (1_000, 128)] {
        let sets = [1, 2].map(|seed| {
            let pixels = ddpm::rng::seeded(seed, || {
                Tensor::randint(256, [n, 3, side, side], (Kind::Uint8, Device::Cpu))
            });
            stored(pixels, 100)
        });
        let start = Instant::now();
        let options = SlicedOptions::default();
        let patches = sets
            .each_ref()
            .map(|set| Patches::of(set, &options).unwrap());
        let cut = start.elapsed().as_secs_f64();
        println!(
            "{n} of {side}: {} patches a level, {:.1} s a set",
            patches[0].count(),
            cut / 2.0
        );
        let start = Instant::now();
        println!("{:?}", sliced(&patches[0], &patches[1]).unwrap());
        println!("distance: {:.1} s", start.elapsed().as_secs_f64());
    }
}

//! Files: `tests/faults/jpeg`, by `scripts/parity/check_images.py --write-gate`, and `weights/golden/jpeg`, by
//! `scripts/parity/make_jpegs.py`.

use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn golden(name: &str) -> Vec<u8> {
    fs_err::read(folder("weights/golden/jpeg").join(name)).unwrap()
}

fn decoded(file: &[u8], factor: usize) -> Result<Array3<u8>, String> {
    Jpeg::read(file)?.decode(factor)
}

fn mean_difference<'a>(a: impl Iterator<Item = &'a u8>, b: &[u8]) -> f64 {
    let sum: u64 = a.zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / b.len() as f64
}

/// As RGB.
fn rgb(image: Array3<u8>) -> Vec<u8> {
    let channels = image.dim().2;
    let pixels = image.into_iter().collect::<Vec<_>>();
    let repeat = if channels == 1 { 3 } else { 1 };
    pixels
        .into_iter()
        .flat_map(|byte| std::iter::repeat_n(byte, repeat))
        .collect()
}

/// Layouts and colours as Pillow decodes them, damaged files not at all, at each fraction of the size.
#[test]
fn files_of_every_kind_are_as_in_pillow_or_refused() {
    let folder = folder("tests/faults/jpeg");
    let pillow = fs_err::read(folder.join("pillow.safetensors")).unwrap();
    let pillow = SafeTensors::deserialize(&pillow).unwrap();
    let (mut read, mut refused) = (0, 0);
    for entry in fs_err::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some((kind, _)) = name.split_once('_') else {
            continue;
        };
        let file = fs_err::read(&path).unwrap();
        let outcome = decoded(&file, 1);
        match pillow.tensor(name) {
            Ok(wanted) => {
                let got = outcome.unwrap_or_else(|reason| panic!("{name}: {reason}"));
                assert_eq!([got.dim().0, got.dim().1], wanted.shape()[..2], "{name}");
                let difference = mean_difference(rgb(got).iter(), wanted.data());
                assert!(difference <= 1.0, "{name}: {difference}");
                read += 1;
            }
            Err(_) if kind == "noend" => {
                let mut whole = file.clone();
                whole.extend([0xFF, 0xD9]);
                assert_eq!(outcome.unwrap(), decoded(&whole, 1).unwrap());
            }
            Err(_) => {
                for factor in [1, 2, 4, 8] {
                    assert!(decoded(&file, factor).is_err(), "{name} at 1/{factor}");
                }
                refused += 1;
            }
        }
    }
    assert!(
        read >= 30 && refused >= 14,
        "{read} read, {refused} refused"
    );
}

/// Without its high frequencies a square is not exactly its mean.
#[test]
fn each_pixel_is_nearly_the_mean_of_a_square_of_the_full_image() {
    for name in [
        "444",
        "grey",
        "grey_restarts",
        "rgb",
        "422",
        "420",
        "420_restarts",
        "progressive",
        "cmyk",
    ] {
        let file = golden(&format!("{name}.jpg"));
        let full = decoded(&file, 1).unwrap();
        for factor in [2, 4] {
            let shrunk = decoded(&file, factor).unwrap();
            assert_eq!(shrunk.dim().0, full.dim().0.div_ceil(factor));
            assert_eq!(shrunk.dim().1, full.dim().1.div_ceil(factor));
            let blocks = full.exact_chunks((factor, factor, 1));
            let means: Vec<u8> = blocks
                .into_iter()
                .map(|block| {
                    let sum: usize = block.iter().map(|byte| usize::from(*byte)).sum();
                    ((sum + block.len() / 2) / block.len()) as u8
                })
                .collect();
            let (rows, columns) = (full.dim().0 / factor, full.dim().1 / factor);
            let inside = shrunk.slice(ndarray::s![..rows, ..columns, ..]);
            let worst = inside
                .iter()
                .zip(&means)
                .map(|(a, b)| a.abs_diff(*b))
                .max()
                .unwrap();
            assert!(worst <= 12, "{name} at 1/{factor}: {worst} levels");
            let mean = mean_difference(inside.iter(), &means);
            assert!(mean <= 1.5, "{name} at 1/{factor}: {mean}");
        }
    }
}

/// All but the end marker must be there.
#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for name in ["420.jpg", "grey_restarts.jpg", "progressive.jpg"] {
        let whole = golden(name);
        let wanted = decoded(&whole, 1).unwrap();
        for length in (0..whole.len() - 2).step_by(if name == "420.jpg" { 1 } else { 7 }) {
            assert!(
                decoded(&whole[..length], 8).is_err(),
                "{name}, {length} bytes"
            );
        }
        for length in [whole.len() - 2, whole.len() - 1] {
            assert_eq!(decoded(&whole[..length], 1).unwrap(), wanted, "{name}");
        }
    }
}

#[test]
fn what_is_not_read_is_named() {
    let whole = golden("444.jpg");
    let frame = whole.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let scan = whole.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    let changed = |at: usize, value: u8| {
        let mut file = whole.clone();
        file[at] = value;
        decoded(&file, 1).unwrap_err()
    };
    assert_eq!(changed(frame + 1, 0xC9), "arithmetic coding is not read");
    assert_eq!(
        changed(frame + 1, 0xC3),
        "lossless and hierarchical JPEG are not read"
    );
    assert_eq!(
        changed(frame + 4, 12),
        "12 bits a sample are not read, only 8"
    );
    assert_eq!(
        changed(frame + 9, 2),
        "2 colours are not read, only 1, 3 and 4"
    );
    assert_eq!(changed(frame + 11, 0x51), "sampling factors are not 1 to 4");
    assert_eq!(changed(scan + 5, 77), "a scan that does not fit the frame");
    let mut empty = whole.clone();
    empty[frame + 5..frame + 7].fill(0);
    assert_eq!(decoded(&empty, 1).unwrap_err(), "the image is 93x0 pixels");
    assert_eq!(
        decoded(&whole[..scan], 1).unwrap_err(),
        "cut short: the last scans are missing"
    );
    let scans = [&whole[..scan], &whole[scan..scan + 14].repeat(101)[..]].concat();
    assert_eq!(decoded(&scans, 1).unwrap_err(), "more than 100 scans");
}

/// One sample of colour for four pixels across.
#[test]
fn coarse_colour_is_not_shrunk() {
    let can_shrink = |file: &[u8]| Jpeg::read(file).unwrap().structure.can_shrink;
    for name in ["444.jpg", "420.jpg", "422.jpg", "grey.jpg", "cmyk.jpg"] {
        assert!(can_shrink(&golden(name)), "{name}");
    }
    let mut coarse = golden("422.jpg");
    let frame = coarse.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    coarse[frame + 11] = 0x41;
    assert!(!can_shrink(&coarse));
}

#[test]
fn memory_is_reckoned_from_the_markers() {
    let coefficients = |name| {
        Jpeg::read(&golden(name)[..])
            .unwrap()
            .structure
            .coefficient_bytes
    };
    assert_eq!(coefficients("420.jpg"), 0); // one scan
    // 93x75 in units of 16x16: 6x5, each of 6 blocks of 64 coefficients.
    assert_eq!(coefficients("progressive.jpg"), 6 * 5 * 6 * 64 * 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Any bytes give an image of the size that the markers say, or a reason.
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((0usize..4000, any::<u8>()), 1..6),
        factor in 0u32..4, kind in 0usize..4,
    ) {
        let mut file = golden(["420.jpg", "progressive.jpg", "cmyk.jpg", "grey_restarts.jpg"][kind]);
        for (place, value) in changes {
            let length = file.len();
            file[place % length] = value;
        }
        match decoded(&file, 1 << factor) {
            Ok(image) => prop_assert!(matches!(image.dim().2, 1 | 3)),
            Err(reason) => prop_assert!(!reason.is_empty()),
        }
    }
}

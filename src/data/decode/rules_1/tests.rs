//! Files: `weights/golden/jpeg`, by `scripts/parity/make_jpegs.py`.

use std::path::PathBuf;

use image::{ImageFormat, RgbImage};
use proptest::prelude::*;

use super::*;

/// Files that can be shrunk, and the measured largest distance of a byte from the mean over the full image.
///
/// Without its high frequencies a square is not exactly its mean: up to 5 levels off at these soft shapes.
/// Subsampled colour is then blended between samples that stand for more pixels.
const PLAIN: [(&str, u8); 8] = [
    ("444.jpg", 5),
    ("grey.jpg", 4),
    ("grey_restarts.jpg", 4),
    ("rgb.jpg", 4),
    ("422.jpg", 8),
    ("420.jpg", 12),
    ("420_restarts.jpg", 12),
    ("progressive.jpg", 12),
];

const SIZE: (usize, usize) = (93, 75);

fn file(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/golden/jpeg");
    fs_err::read(folder.join(name)).unwrap()
}

fn fully(file: &[u8]) -> RgbImage {
    let image = image::load_from_memory_with_format(file, ImageFormat::Jpeg);
    image.unwrap().to_rgb8()
}

/// The rounded mean of each whole square of the image: `(x, y, rgb)`.
fn squares(image: &RgbImage, factor: u32) -> Vec<(usize, usize, [u8; 3])> {
    let (width, height) = (image.width() / factor, image.height() / factor);
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let mean = |x, y, channel: usize| {
        let square =
            (0..factor * factor).map(|i| (x * factor + i % factor, y * factor + i / factor));
        let sum: u32 = square
            .map(|(x, y)| u32::from(image.get_pixel(x, y)[channel]))
            .sum();
        ((sum + factor * factor / 2) / (factor * factor)) as u8
    };
    let rgb = |x, y| std::array::from_fn(|channel| mean(x, y, channel));
    places
        .map(|(x, y)| (x as usize, y as usize, rgb(x, y)))
        .collect()
}

/// A pixel as RGB.
fn at(shrunk: &Array3<u8>, x: usize, y: usize) -> [u8; 3] {
    let channels = shrunk.dim().2;
    std::array::from_fn(|channel| shrunk[[y, x, channel % channels]])
}

#[test]
fn each_pixel_is_nearly_the_mean_of_a_square_of_the_full_image() {
    for (name, tolerance) in PLAIN {
        let file = file(name);
        let full = fully(&file);
        for factor in [2, 4] {
            let shrunk = means(&file[..], SIZE, factor).unwrap();
            let (height, width, _) = shrunk.dim();
            assert_eq!(width, SIZE.0.div_ceil(factor));
            assert_eq!(height, SIZE.1.div_ceil(factor));
            let differences =
                squares(&full, factor as u32)
                    .into_iter()
                    .flat_map(|(x, y, wanted)| {
                        let got = at(&shrunk, x, y);
                        (0..3).map(move |channel| got[channel].abs_diff(wanted[channel]))
                    });
            let worst = differences.max().unwrap();
            assert!(worst <= tolerance, "{name} at 1/{factor}: {worst} levels");
        }
    }
}

#[test]
fn restarts_change_nothing() {
    for (plain, restarts) in [
        ("420.jpg", "420_restarts.jpg"),
        ("grey.jpg", "grey_restarts.jpg"),
    ] {
        for factor in [2, 4] {
            let [a, b] =
                [plain, restarts].map(|name| means(&file(name)[..], SIZE, factor).unwrap());
            assert_eq!(a, b, "{plain} at 1/{factor}");
        }
    }
}

#[test]
fn four_colours_are_left_to_the_full_decoder() {
    assert!(means(&file("cmyk.jpg")[..], SIZE, 4).is_none());
    fully(&file("cmyk.jpg")); // which reads them
}

#[test]
fn another_size_than_expected_is_refused() {
    assert!(means(&file("444.jpg")[..], (94, 75), 2).is_none());
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for name in ["420.jpg", "grey_restarts.jpg"] {
        let whole = file(name);
        for length in 0..whole.len() {
            assert!(
                means(&whole[..length], SIZE, 8).is_none(),
                "{name}, {length} bytes"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Any bytes give a result, and one of the right size.
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((0usize..4000, any::<u8>()), 1..6),
        factor in 1u32..4, kind in 0usize..PLAIN.len(),
    ) {
        let mut file = file(PLAIN[kind].0);
        for (place, value) in changes {
            let length = file.len();
            file[place % length] = value;
        }
        if let Some(shrunk) = means(&file[..], SIZE, 1 << factor) {
            let (height, width, channels) = shrunk.dim();
            let side = |full: usize| full.div_ceil(1 << factor);
            prop_assert_eq!((height, width), (side(SIZE.1), side(SIZE.0)));
            prop_assert!(channels == 1 || channels == 3);
        }
    }
}

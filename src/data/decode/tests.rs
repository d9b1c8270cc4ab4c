//! The parity figures were read by OpenCV 4.6 from the same files; see `weights/golden/`.

use std::collections::HashMap;
use std::path::PathBuf;

use image::{ExtendedColorType, GrayAlphaImage, GrayImage, ImageFormat, Luma, LumaA, RgbImage};
use image::{Rgb, Rgba, RgbaImage};
use safetensors::SafeTensors;

use super::shrunk::shrink_factor;
use super::*;
use crate::config::Background;

const PNG: [&str; 7] = [
    "i1_portrait_odd_53x37.png",
    "i2_landscape_odd_41x90.png",
    "i4_small_24x20.png",
    "i5_square_64x64.png",
    "x1_square_128x128.png",
    "x2_gray_50x45.png",
    "x5_exact_33x32.png",
];
const JPEG: [&str; 3] = [
    "i3_portrait_odd_101x77.jpg",
    "i6_landscape_131x200.jpg",
    "x6_exif_orient6_101x77.jpg",
];
const ALPHA: &str = "x3_rgba_45x45.png";
const DEEP: &str = "x4_16bit_40x52.png";

/// The `[size, size, 3]` RGB bytes of each stored image.
fn golden() -> HashMap<String, Vec<u8>> {
    let path = golden_folder().join("keras_imread.safetensors");
    let bytes = fs_err::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec()))
        .collect()
}

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/golden")
}

/// The spec by which Keras-DDPM reads its images.
fn cv2(side: usize) -> ImageSpec {
    ImageSpec {
        resize: Resize::Cv2,
        background: Background::Ignore,
        ..ImageSpec::rgb(side, side)
    }
}

/// The bytes of a decoded file, row by row.
fn decoded(path: &std::path::Path, spec: &ImageSpec) -> Vec<u8> {
    let image = decode(path, spec).unwrap().pixels;
    assert_eq!(image.dim(), (spec.height, spec.width, spec.channels));
    image.into_iter().collect()
}

fn decode_golden(name: &str, side: usize) -> Vec<u8> {
    decoded(&golden_folder().join("images").join(name), &cv2(side))
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn png_files_equal_opencv_in_every_byte() {
    let golden = golden();
    for name in PNG.into_iter().chain([ALPHA, DEEP]) {
        for side in [32, 64] {
            let wanted = &golden[&format!("im{side}/{name}")];
            assert_eq!(&decode_golden(name, side), wanted, "{name} at {side}");
        }
    }
    assert_eq!(
        decode_golden("pure_red_8x8.png", 8),
        golden["im8/pure_red_8x8.png"]
    );
}

/// Our JPEG decoder differs from OpenCV's by up to 4 levels at subsampled colour.
#[test]
fn jpeg_files_are_within_a_few_levels_of_opencv() {
    let golden = golden();
    for name in JPEG {
        for side in [32, 64] {
            let wanted = &golden[&format!("im{side}/{name}")];
            let difference = largest_difference(&decode_golden(name, side), wanted);
            assert!(difference <= 4, "{name} at {side}: {difference} levels");
        }
    }
}

#[test]
fn square_crops_round_the_offset_up() {
    let crop = |top, left, side| Crop {
        top,
        left,
        height: side,
        width: side,
    };
    assert_eq!(Crop::centred(53, 37, 8, 8), crop(8, 0, 37)); // (53 - 37 + 1) / 2
    assert_eq!(Crop::centred(41, 90, 8, 8), crop(0, 25, 41)); // (90 - 41 + 1) / 2
    assert_eq!(Crop::centred(64, 64, 8, 8), crop(0, 0, 64));
}

#[test]
fn other_crops_have_the_wanted_shape() {
    let crop = |top, left, height, width| Crop {
        top,
        left,
        height,
        width,
    };
    assert_eq!(Crop::centred(100, 100, 1, 2), crop(25, 0, 50, 100));
    assert_eq!(Crop::centred(30, 100, 20, 30), crop(0, 28, 30, 45));
    assert_eq!(Crop::centred(10, 1000, 8192, 1), crop(0, 500, 10, 1)); // never empty
}

/// A folder that holds one image.
fn saved(name: &str, image: impl Into<DynamicImage>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    image.into().save(&path).unwrap();
    (dir, path)
}

fn decode_saved(name: &str, image: impl Into<DynamicImage>, spec: &ImageSpec) -> Vec<u8> {
    let (_dir, path) = saved(name, image);
    decoded(&path, spec)
}

#[test]
fn grey_fills_three_channels() {
    let image = GrayImage::from_fn(2, 1, |x, _| Luma([x as u8 * 200]));
    assert_eq!(
        decode_saved("a.png", image, &ImageSpec::rgb(1, 2)),
        [0, 0, 0, 200, 200, 200]
    );
}

#[test]
fn one_channel_is_rec_709_luma() {
    let spec = ImageSpec {
        channels: 1,
        ..ImageSpec::rgb(1, 4)
    };
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]];
    let image = RgbImage::from_fn(4, 1, |x, _| Rgb(colours[x as usize]));
    assert_eq!(
        decode_saved("a.png", image.clone(), &spec),
        [54, 182, 18, 90]
    );
    let theirs = DynamicImage::from(image).to_luma8();
    assert_eq!(theirs.as_raw(), &[54, 182, 18, 90]); // the image crate's own grey
}

#[test]
fn transparency_is_blended_or_dropped() {
    let alphas = [0, 51, 255]; // nothing, a fifth, all
    let image = RgbaImage::from_fn(3, 1, |x, _| Rgba([255, 0, 100, alphas[x as usize]]));
    let over = |background: &str| {
        let background = background.parse().unwrap();
        decode_saved(
            "a.png",
            image.clone(),
            &ImageSpec {
                background,
                ..ImageSpec::rgb(1, 3)
            },
        )
    };
    assert_eq!(over("white"), [255, 255, 255, 255, 204, 224, 255, 0, 100]);
    assert_eq!(over("black"), [0, 0, 0, 51, 0, 20, 255, 0, 100]);
    assert_eq!(over("#0a141e"), [10, 20, 30, 59, 16, 44, 255, 0, 100]);
    assert_eq!(over("ignore"), [255, 0, 100].repeat(3));
}

#[test]
fn grey_with_alpha_is_blended_too() {
    let image = GrayAlphaImage::from_fn(2, 1, |x, _| LumaA([10, x as u8 * 255]));
    assert_eq!(
        decode_saved("a.png", image, &ImageSpec::rgb(1, 2)),
        [255, 255, 255, 10, 10, 10]
    );
}

/// 0x12ff: cut off as OpenCV does, not rounded to 0x13.
#[test]
fn sixteen_bits_keep_the_high_byte() {
    let image = ImageBuffer::<Rgb<u16>, _>::from_pixel(1, 1, Rgb([0x12ff, 0xffff, 0x0080]));
    assert_eq!(
        decode_saved("a.png", image, &ImageSpec::rgb(1, 1)),
        [0x12, 0xff, 0]
    );
}

#[test]
fn lossless_formats_give_the_same_bytes() {
    let image = RgbImage::from_fn(2, 2, |x, y| Rgb([x as u8 * 255, y as u8 * 255, 255]));
    for name in ["a.png", "a.webp", "a.bmp", "a.gif"] {
        let got = decode_saved(name, image.clone(), &ImageSpec::rgb(2, 2));
        assert_eq!(&got, image.as_raw(), "{name}");
    }
}

#[test]
fn an_animation_gives_its_first_frame() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gif");
    let file = fs_err::File::create(&path).unwrap();
    let mut encoder = image::codecs::gif::GifEncoder::new(file);
    for grey in [40, 200] {
        let frame = RgbaImage::from_pixel(2, 2, Rgba([grey, grey, grey, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    assert_eq!(decoded(&path, &ImageSpec::rgb(2, 2)), [40; 12]);
}

#[test]
fn the_content_counts_not_the_name() {
    let (_dir, path) = saved("a.png", GrayImage::from_pixel(4, 4, Luma([77])));
    let renamed = path.with_extension("jpg");
    fs_err::rename(path, &renamed).unwrap();
    assert_eq!(decoded(&renamed, &ImageSpec::rgb(1, 1)), [77; 3]);
}

/// A JPEG, red above blue, with this EXIF orientation.
fn jpeg_with_orientation(orientation: u8) -> Vec<u8> {
    let image = GrayImage::from_fn(16, 32, |_, y| Luma([if y < 16 { 0 } else { 255 }]));
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
        .encode(image.as_raw(), 16, 32, ExtendedColorType::L8)
        .unwrap();
    turned(&jpeg, orientation)
}

/// `jpeg` with this EXIF orientation.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    // An APP1 segment of 34 bytes after the start marker: a TIFF header and one tag, 0x0112.
    let mut out = vec![0xff, 0xd8, 0xff, 0xe1, 0, 34];
    out.extend(b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01");
    out.extend([0, orientation, 0, 0, 0, 0, 0, 0]);
    out.extend(&jpeg[2..]);
    out
}

#[test]
fn exif_turns_the_image_upright() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jpg");
    let spec = |height, width| ImageSpec {
        channels: 1,
        ..ImageSpec::rgb(height, width)
    };
    for (orientation, wanted) in [(1, [0, 255]), (3, [255, 0])] {
        fs_err::write(&path, jpeg_with_orientation(orientation)).unwrap();
        assert_eq!(
            decoded(&path, &spec(2, 1)),
            wanted,
            "orientation {orientation}"
        );
    }
    // 6: turn a quarter clockwise, the top goes right; 8: counterclockwise.
    for (orientation, wanted) in [(6, [255, 0]), (8, [0, 255])] {
        fs_err::write(&path, jpeg_with_orientation(orientation)).unwrap();
        assert_eq!(
            decoded(&path, &spec(1, 2)),
            wanted,
            "orientation {orientation}"
        );
    }
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused() {
    // A valid PNG header of 100,000 x 100,000 RGB, then a few bytes of data.
    let mut png =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0".to_vec();
    png.extend(b"\x27\x30\x9c\x9f\0\0\0\x0bIDATx\x9cc`\x80\x01\0\0\n\0\x01\x7f\x80t\x5e");
    png.extend(b"\0\0\0\0IEND\xaeB`\x82");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.png");
    fs_err::write(&path, png).unwrap();
    let error = decode(&path, &ImageSpec::rgb(8, 8)).unwrap_err();
    assert!(
        matches!(error, DataError::TooLarge { width: 100_000, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("30000000000 bytes"), "{error}");
}

#[test]
fn damaged_files_are_errors_that_name_the_path() {
    let (_dir, path) = saved("a.png", GrayImage::from_pixel(64, 64, Luma([77])));
    let whole = fs_err::read(&path).unwrap();
    for bytes in [&b""[..], b"not an image", &whole[..whole.len() / 2]] {
        fs_err::write(&path, bytes).unwrap();
        let error = decode(&path, &ImageSpec::rgb(8, 8)).unwrap_err();
        assert!(matches!(error, DataError::Decode { .. }), "{error:?}");
        assert!(error.to_string().contains("a.png"), "{error}");
    }
}

#[test]
fn a_form_that_makes_no_sense_is_refused() {
    let check = |height, width, channels| {
        ImageSpec {
            channels,
            ..ImageSpec::rgb(height, width)
        }
        .check()
        .map_err(|e| e.to_string())
    };
    assert_eq!(check(1, 8192, 1), Ok(()));
    assert_eq!(
        check(8, 8, 4),
        Err("image channels is 4, but must be 1 or 3".to_owned())
    );
    assert_eq!(
        check(0, 8, 3),
        Err("image height is 0, but must be 1 to 8192 pixels".to_owned())
    );
}

#[test]
fn backgrounds_read_back_as_written() {
    for text in ["white", "black", "ignore", "#0a141e"] {
        let background: Background = text.parse().unwrap();
        assert_eq!(background.to_string(), text);
        assert_eq!(
            serde_json::to_string(&background).unwrap(),
            format!("{text:?}")
        );
        assert_eq!(
            serde_json::from_str::<Background>(&format!("{text:?}")).unwrap(),
            background
        );
    }
    assert_eq!(
        "#FFFFFF".parse::<Background>().unwrap(),
        Background::default()
    );
    for text in ["", "#", "#fff", "#+12345", "#ffffff0", "#ééé", "red"] {
        assert!(text.parse::<Background>().is_err(), "{text:?}");
    }
}

#[test]
fn an_image_keeps_its_kind_of_file_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.webp");
    let mut webp = Vec::new();
    DynamicImage::from(RgbImage::new(9, 9))
        .write_to(&mut std::io::Cursor::new(&mut webp), ImageFormat::WebP)
        .unwrap();
    fs_err::write(&path, &webp[..20]).unwrap();
    assert!(decode(&path, &ImageSpec::rgb(8, 8)).is_err());
}

/// A file of `scripts/parity/make_jpegs.py`: 93x75 pixels, soft shapes.
fn made(name: &str) -> Vec<u8> {
    fs_err::read(golden_folder().join("jpeg").join(name)).unwrap()
}

/// RGB, with large JPEGs decoded at a fraction of their size.
fn fast(height: usize, width: usize) -> ImageSpec {
    ImageSpec {
        resize: Resize::Fast,
        ..ImageSpec::rgb(height, width)
    }
}

/// A file decoded with and without shrinking.
fn both_ways(jpeg: &[u8], spec: &ImageSpec) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jpg");
    fs_err::write(&path, jpeg).unwrap();
    let whole = ImageSpec {
        resize: Resize::Area,
        ..*spec
    };
    let full = decoded(&path, &whole);
    (decoded(&path, spec), full)
}

#[test]
fn a_jpeg_is_shrunk_while_it_stays_twice_as_large_as_wanted() {
    let factor = |height, width, spec: &ImageSpec| {
        shrink_factor(Crop::centred(height, width, spec.height, spec.width), spec)
    };
    let square = |side| fast(side, side);
    assert_eq!(factor(512, 512, &square(32)), Some(4));
    assert_eq!(factor(512, 512, &square(64)), Some(4));
    assert_eq!(factor(511, 512, &square(64)), Some(2));
    assert_eq!(factor(255, 256, &square(64)), None);
    assert_eq!(factor(256, 256, &square(64)), Some(2));
    assert_eq!(factor(218, 178, &square(64)), None);
    assert_eq!(factor(218, 178, &square(16)), Some(4));
    assert_eq!(factor(1024, 1024, &square(128)), Some(4));
    // 90x120 of 1000x1000 is a crop of 750x1000.
    assert_eq!(factor(1000, 1000, &fast(90, 120)), Some(4));
    assert_eq!(factor(1000, 1000, &fast(96, 128)), Some(2));
    let first = |side| ImageSpec {
        rules: ImageRules::V1,
        ..square(side)
    };
    assert_eq!(factor(512, 512, &first(64)), Some(4));
    assert_eq!(factor(511, 512, &first(64)), None);
    assert_eq!(factor(512, 512, &cv2(32)), None);
    assert_eq!(factor(512, 512, &ImageSpec::rgb(32, 32)), None);
}

/// The border between two results can cut through a square, which then counts on both sides: in this image of
/// waves, the largest difference. Next is subsampled colour, which is blended over more pixels.
#[test]
fn shrunk_images_are_those_of_the_full_decoder_within_a_few_levels() {
    for name in ["444.jpg", "grey.jpg", "422.jpg", "420.jpg"] {
        for (height, width) in [(4, 4), (8, 8), (16, 16), (5, 9), (9, 5)] {
            for channels in [1, 3] {
                let size = fast(height, width);
                let (shrunk, full) = both_ways(&made(name), &ImageSpec { channels, ..size });
                let (worst, mean) = (
                    largest_difference(&shrunk, &full),
                    mean_difference(&shrunk, &full),
                );
                assert!(
                    worst <= 16 && mean <= 3.0,
                    "{name}, {height}x{width}: {worst}, {mean}"
                );
            }
        }
    }
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u32 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u32::from(a.abs_diff(*b)))
        .sum();
    f64::from(sum) / a.len() as f64
}

/// Turning is exact to the pixel: the file's sides are not whole numbers of squares, so each orientation
/// begins at another place of the first one.
#[test]
fn a_turned_file_gives_the_turned_image() {
    for side in [4, 8, 16] {
        let spec = fast(side, side);
        let (plain, _) = both_ways(&made("420.jpg"), &spec);
        for orientation in 1..=8 {
            let (got, _) = both_ways(&turned(&made("420.jpg"), orientation), &spec);
            let image = RgbImage::from_raw(side as u32, side as u32, plain.clone()).unwrap();
            let mut wanted = DynamicImage::from(image);
            wanted.apply_orientation(Orientation::from_exif(orientation).unwrap());
            assert_eq!(
                got,
                wanted.as_bytes(),
                "orientation {orientation}, {side} px"
            );
        }
    }
}

#[test]
fn only_a_jpeg_that_is_large_enough_is_shrunk() {
    for name in ["420.jpg", "cmyk.jpg", "progressive.jpg"] {
        let (shrunk, full) = both_ways(&made(name), &fast(4, 4));
        assert_ne!(shrunk, full, "{name}");
        let (same, full) = both_ways(&made(name), &fast(32, 32));
        assert_eq!(same, full, "{name}");
    }
}

/// By the first rules, the shrinking decoder leaves to the other what it cannot read, and that fills in what is cut.
#[test]
fn by_the_first_rules_a_jpeg_that_cannot_be_shrunk_is_decoded_in_full() {
    let whole = made("420.jpg");
    let cut = &whole[..whole.len() * 2 / 3];
    let first = ImageSpec {
        rules: ImageRules::V1,
        ..fast(4, 4)
    };
    for jpeg in [&made("cmyk.jpg"), cut] {
        let (got, full) = both_ways(jpeg, &first);
        assert_eq!(got, full);
    }
    let (shrunk, full) = both_ways(&whole, &first);
    assert_ne!(shrunk, full);
}

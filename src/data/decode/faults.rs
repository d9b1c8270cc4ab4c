//! Files that decoders read wrongly and without a word: `tests/faults/images`, and others of their kinds made here.

use std::path::PathBuf;

use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageFormat, Luma, Rgb, Rgba, RgbaImage};

use super::orientation::tests::{TURNED, exif_long, itxt, png_with, xmp};
use super::*;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/faults/images")
        .join(name)
}

/// The image of all of these files, 64x64: a few of its pixels, far from each other in colour.
const CORNERS: [((usize, usize), [u8; 3]); 3] = [
    ((0, 0), [40, 30, 200]),
    ((63, 0), [40, 217, 138]),
    ((0, 63), [227, 30, 138]),
];

fn assert_corners(pixels: &Array3<u8>, corners: &[((usize, usize), [u8; 3])], name: &str) {
    for ((y, x), wanted) in corners {
        let got: [u8; 3] = std::array::from_fn(|c| pixels[[*y, *x, c]]);
        let near = got.iter().zip(wanted).all(|(a, b)| a.abs_diff(*b) <= 5);
        assert!(near, "{name} at {y}, {x}: {got:?}, not {wanted:?}");
    }
}

fn read(name: &str, side: usize) -> Array3<u8> {
    decode(&file(name), &ImageSpec::rgb(side, side))
        .unwrap()
        .pixels
}

#[test]
fn scans_of_one_component_each_are_the_image_of_one_scan() {
    let (scans, one) = (read("scans-420.jpg", 64), read("scans-420-ok.jpg", 64));
    assert_corners(&scans, &CORNERS, "scans-420.jpg");
    assert_eq!(scans, one);
}

#[test]
fn the_colour_space_is_the_same_shrunk_and_whole() {
    let shrunk = ImageSpec {
        resize: Resize::Fast,
        ..ImageSpec::rgb(32, 32)
    };
    let path = file("rgb-320.jpg");
    let (Image::Shrunk(_), _) = open(&Place::File(path.clone()), Some(&shrunk)).unwrap() else {
        panic!("not shrunk");
    };
    let shrunk = decode(&path, &shrunk).unwrap().pixels;
    let whole = read("rgb-320.jpg", 32);
    let worst = shrunk.iter().zip(&whole).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(3), "{worst:?}");
    assert_corners(&read("rgb-320.jpg", 64), &CORNERS, "rgb-320.jpg");
}

#[test]
fn cut_and_rare_jpegs_are_refused_with_the_reason() {
    for (name, reason) in [
        (
            "cut-baseline-60-percent.jpg",
            "premature end of data segment",
        ),
        (
            "cut-progressive-20-percent.jpg",
            "cut short: the last scans are missing",
        ),
        (
            "two-components.jpg",
            "2 colours are not read, only 1, 3 and 4",
        ),
    ] {
        for resize in [Resize::Area, Resize::Fast] {
            let spec = ImageSpec {
                resize,
                ..ImageSpec::rgb(8, 8)
            };
            let error = decode(&file(name), &spec).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(reason), "{name}: {source}");
        }
    }
    assert_corners(&read("chroma-finer.jpg", 64), &CORNERS, "chroma-finer.jpg");
}

#[test]
fn a_bmp_is_opaque_if_its_alpha_is_zero_everywhere() {
    let name = "alpha-zero-v4-32.bmp";
    assert_corners(&read(name, 64), &CORNERS, name);
    let first = ImageSpec {
        rules: ImageRules::V1,
        ..ImageSpec::rgb(64, 64)
    };
    let before = decode(&file(name), &first).unwrap().pixels;
    assert!(before.iter().all(|byte| *byte == 255));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bmp");
    // Two pixels of 16 bits, A1R5G5B5: red, blue.
    for (alpha, wanted) in [
        ([0, 0], [255, 0, 0, 0, 0, 255]),
        ([0, 0x8000], [255, 255, 255, 0, 0, 255]),
    ] {
        fs_err::write(&path, bmp_1555([0x7C00 | alpha[0], 0x001F | alpha[1]])).unwrap();
        let got = decode(&path, &ImageSpec::rgb(1, 2)).unwrap().pixels;
        assert_eq!(got.as_slice().unwrap(), wanted);
    }
    // In a PNG, nothing visible is what is meant.
    let path = dir.path().join("a.png");
    RgbaImage::from_pixel(1, 1, Rgba([9, 9, 9, 0]))
        .save(&path)
        .unwrap();
    let got = decode(&path, &ImageSpec::rgb(1, 1)).unwrap().pixels;
    assert_eq!(got.as_slice().unwrap(), [255; 3]);
}

/// A BMP with a header of version 4, two pixels wide.
fn bmp_1555(pixels: [u16; 2]) -> Vec<u8> {
    let mut header = Vec::new();
    let numbers: [u32; 10] = [108, 2, 1, 1 | 16 << 16, 3, 4, 2835, 2835, 0, 0];
    let masks = [0x7C00u32, 0x03E0, 0x001F, 0x8000];
    for number in numbers.into_iter().chain(masks) {
        header.extend(number.to_le_bytes());
    }
    header.resize(108, 0);
    let mut file = b"BM".to_vec();
    for number in [14 + 108 + 4, 0, 14 + 108u32] {
        file.extend(number.to_le_bytes());
    }
    file.extend(header);
    file.extend(pixels.into_iter().flat_map(u16::to_le_bytes));
    file
}

#[test]
fn twelve_bits_in_sixteen_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let oddity = |values: [u16; 2], alpha: u16, rules| {
        let image = ImageBuffer::<Rgba<u16>, _>::from_fn(2, 1, |x, _| {
            Rgba([values[x as usize], 0, 7, alpha])
        });
        image.save(&path).unwrap();
        let spec = ImageSpec {
            rules,
            ..ImageSpec::rgb(1, 2)
        };
        decode(&path, &spec).unwrap().oddity
    };
    let odd = Some(Oddity::TwelveBitsIn16);
    assert_eq!(oddity([4095, 3000], 0xFFFF, ImageRules::V2), odd);
    assert_eq!(oddity([4095, 4096], 0xFFFF, ImageRules::V2), None);
    assert_eq!(oddity([4095, 3000], 0xFFFF, ImageRules::V1), None);
    for (value, wanted) in [(0, None), (1, odd), (4095, odd), (65535, None)] {
        ImageBuffer::<Luma<u16>, _>::from_pixel(1, 1, Luma([value]))
            .save(&path)
            .unwrap();
        let got = decode(&path, &ImageSpec::rgb(1, 1)).unwrap().oddity;
        assert_eq!(got, wanted, "{value}");
    }
    ImageBuffer::<Rgb<u8>, _>::from_pixel(1, 1, Rgb([1; 3]))
        .save(&path)
        .unwrap();
    assert_eq!(decode(&path, &ImageSpec::rgb(1, 1)).unwrap().oddity, None);
}

/// A white pixel above a black one, as this format.
fn upright_file(format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_fn(1, 2, |_, y| Rgb([255 - 255 * y as u8; 3]));
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

#[test]
fn images_are_upright_wherever_the_orientation_stands() {
    for name in ["ok-eXIf.png", "raw-profile-zTXt.png"] {
        let turned = [
            ((0, 0), [40, 217, 138]),
            ((63, 0), [227, 217, 77]),
            ((0, 63), [40, 30, 200]),
        ];
        assert_corners(&read(name, 64), &turned, name);
    }
    let png = upright_file(ImageFormat::Png);
    let mut webp = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut webp);
    encoder.set_exif_metadata(exif_long(6)).unwrap();
    encoder
        .write_image(&[255, 255, 255, 0, 0, 0], 1, 2, ExtendedColorType::Rgb8)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut xmp_webp = webp.clone();
    as_xmp(&mut xmp_webp);
    let late = png_with(&png, b"IEND", &itxt("XML:com.adobe.xmp", &xmp(6)));
    for (number, file) in [webp, xmp_webp, late].into_iter().enumerate() {
        fs_err::write(&path, file).unwrap();
        assert_eq!(upright_size(&path).unwrap(), (1, 2), "file {number}");
        let got = decode(&path, &ImageSpec::rgb(1, 2)).unwrap().pixels;
        assert_eq!(got.as_slice().unwrap(), TURNED, "file {number}");
    }
}

/// Turns the Exif chunk of a WebP, its last one, into XMP.
fn as_xmp(webp: &mut Vec<u8>) {
    let at = webp.windows(4).position(|kind| kind == b"EXIF").unwrap();
    webp.truncate(at);
    let mut text = xmp(6);
    text.resize(text.len() + text.len() % 2, b' ');
    webp.extend(b"XMP ");
    webp.extend((text.len() as u32).to_le_bytes());
    webp.extend(text);
    let flags = webp.windows(4).position(|kind| kind == b"VP8X").unwrap() + 8;
    webp[flags] = webp[flags] & !0x08 | 0x04;
    let length = webp.len() as u32 - 8;
    webp[4..8].copy_from_slice(&length.to_le_bytes());
}

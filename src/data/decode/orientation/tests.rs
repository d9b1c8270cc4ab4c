use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;

/// White above black, turned a quarter clockwise: black, white.
pub(in crate::data::decode) const TURNED: [u8; 6] = [0, 0, 0, 255, 255, 255];

/// Exif of one tag in little endian, the orientation as LONG.
pub(in crate::data::decode) fn exif_long(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// The same in big endian, as SHORT, after another tag.
fn exif_short(orientation: u8) -> Vec<u8> {
    let mut exif = b"MM\0*\0\0\0\x08\0\x02\x01\x00\0\x04\0\0\0\x01\0\0\0\x09".to_vec();
    exif.extend(b"\x01\x12\0\x03\0\0\0\x01");
    exif.extend([0, orientation, 0, 0, 0, 0, 0, 0]);
    exif
}

pub(in crate::data::decode) fn xmp(orientation: u8) -> Vec<u8> {
    format!("<x:xmpmeta><rdf:Description tiff:Orientation=\"{orientation}\"/></x:xmpmeta>")
        .into_bytes()
}

/// A chunk's kind and content.
type Chunk = ([u8; 4], Vec<u8>);

pub(in crate::data::decode) fn itxt(keyword: &str, text: &[u8]) -> Chunk {
    (*b"iTXt", [keyword.as_bytes(), b"\0\0\0\0\0", text].concat())
}

/// The PNG with a chunk before its chunk of a kind.
pub(in crate::data::decode) fn png_with(
    png: &[u8],
    before: &[u8; 4],
    (kind, data): &Chunk,
) -> Vec<u8> {
    let at = png.windows(4).position(|found| found == before).unwrap() - 4;
    let body = [kind.as_slice(), data].concat();
    let length = (data.len() as u32).to_be_bytes();
    let sum = crc32fast::hash(&body).to_be_bytes();
    [&png[..at], &length, &body, &sum, &png[at..]].concat()
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// As ImageMagick writes it: a line of 36 bytes in hexadecimal, again and again.
fn raw_profile(name: &str, bytes: &[u8]) -> Vec<u8> {
    let lines = bytes
        .chunks(36)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect());
    let lines: Vec<String> = lines.collect();
    format!("\n{name}\n{:8}\n{}\n", bytes.len(), lines.join("\n")).into_bytes()
}

fn app1(prefix: &[u8], content: &[u8]) -> Vec<u8> {
    [prefix, content].concat()
}

fn of_jpeg(segments: &[Vec<u8>]) -> Orientation {
    Metadata::of_jpeg(segments.iter().map(Vec::as_slice)).orientation()
}

#[test]
fn exif_is_read_in_both_orders_and_as_any_whole_number() {
    for orientation in 1..=8 {
        let wanted = Orientation::from_exif(orientation);
        assert_eq!(exif::orientation(&exif_long(orientation)), wanted);
        assert_eq!(exif::orientation(&exif_short(orientation)), wanted);
    }
    let mut as_byte = exif_long(6);
    as_byte[12] = 1;
    assert_eq!(exif::orientation(&as_byte), Some(Orientation::Rotate90));
    for nonsense in [0, 9, 255] {
        assert_eq!(exif::orientation(&exif_long(nonsense)), None);
    }
}

#[test]
fn damaged_exif_is_none() {
    let whole = exif_long(6);
    for length in 0..whole.len() - 7 {
        assert_eq!(exif::orientation(&whole[..length]), None, "{length}");
    }
    let far = [b"II*\0".as_slice(), &u32::MAX.to_le_bytes()].concat();
    assert_eq!(exif::orientation(&far), None);
}

#[test]
fn the_segments_of_a_jpeg_are_all_looked_at() {
    let exif = |content: &[u8]| app1(exif::PREFIX, content);
    let of_xmp = |content: &[u8]| app1(b"http://ns.adobe.com/xap/1.0/\0", content);
    let empty = b"II*\0\x08\0\0\0\0\0\0\0\0\0".to_vec();
    let turned = Orientation::Rotate90;
    assert_eq!(of_jpeg(&[]), Orientation::NoTransforms);
    assert_eq!(of_jpeg(&[exif(&exif_long(6))]), turned);
    assert_eq!(of_jpeg(&[exif(&empty), exif(&exif_short(6))]), turned);
    // Exif that goes on in a second segment, as Pillow reads it.
    let (front, back) = exif_short(6)
        .split_at_checked(14)
        .map(|(a, b)| (a.to_vec(), b.to_vec()))
        .unwrap();
    assert_eq!(of_jpeg(&[exif(&front), exif(&back)]), turned);
    assert_eq!(of_jpeg(&[of_xmp(&xmp(6))]), turned);
    assert_eq!(of_jpeg(&[exif(&empty), of_xmp(&xmp(6))]), turned);
    // Exif comes first.
    assert_eq!(of_jpeg(&[of_xmp(&xmp(3)), exif(&exif_long(6))]), turned);
}

#[test]
fn xmp_is_read_however_it_is_written() {
    for text in [
        r#"<rdf:Description tiff:Orientation="6" x="1">"#,
        "<rdf:Description tiff:Orientation = '6'>",
        "<tiff:Orientation>6</tiff:Orientation>",
        "<tiff:Orientation>\n 6 </tiff:Orientation>",
        r#"about tiff:Orientation, tiff:Orientation="6""#,
    ] {
        assert_eq!(
            in_xmp(text.as_bytes()),
            Some(Orientation::Rotate90),
            "{text}"
        );
    }
    for text in [
        "",
        "tiff:Orientation",
        "tiff:Orientation=\"0\"",
        "tiff:Orientation=\"66\"",
    ] {
        assert_eq!(in_xmp(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn all_chunks_of_a_png_are_looked_at() {
    let mut png = Cursor::new(Vec::new());
    let image = image::GrayImage::new(1, 1);
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let prefixed = app1(exif::PREFIX, &exif_long(6));
    let keyed = |keyword: &str, rest: &[u8]| [keyword.as_bytes(), b"\0", rest].concat();
    let ztxt = |keyword: &str, text: &[u8]| {
        (
            *b"zTXt",
            keyed(keyword, &[b"\0".as_slice(), &packed(text)].concat()),
        )
    };
    let text = |keyword: &str, text: &[u8]| (*b"tEXt", keyed(keyword, text));
    let exif_profile = raw_profile("exif", &prefixed);
    let chunks = [
        (*b"eXIf", exif_long(6)),
        (*b"eXIf", prefixed.clone()),
        ztxt("Raw profile type exif", &exif_profile),
        ztxt(
            "Raw profile type exif",
            &raw_profile("exif", &exif_short(6)),
        ),
        text("Raw profile type exif", &exif_profile),
        itxt("Raw profile type exif", &exif_profile),
        text(
            "Raw profile type APP1",
            &raw_profile("generic profile", &prefixed),
        ),
        ztxt("Raw profile type APP1", &raw_profile("APP1", &prefixed)),
        ztxt("Raw profile type xmp", &raw_profile("xmp", &xmp(6))),
        itxt("XML:com.adobe.xmp", &xmp(6)),
        (
            *b"iTXt",
            keyed(
                "XML:com.adobe.xmp",
                &[b"\x01\0en\0\0".as_slice(), &packed(&xmp(6))].concat(),
            ),
        ),
    ];
    for (number, chunk) in chunks.iter().enumerate() {
        for before in [b"IDAT", b"IEND"] {
            let file = png_with(&png, before, chunk);
            let found = Metadata::of_png(Cursor::new(file)).orientation();
            assert_eq!(found, Orientation::Rotate90, "chunk {number}");
        }
    }
    let plain = Metadata::of_png(Cursor::new(png.clone())).orientation();
    assert_eq!(plain, Orientation::NoTransforms);
    // Cut anywhere, it ends.
    let file = png_with(&png, b"IEND", &chunks[2]);
    for length in 0..file.len() {
        let _ = Metadata::of_png(Cursor::new(&file[..length])).orientation();
    }
}

/// A few bytes that unpack to a gigabyte.
#[test]
fn text_is_unpacked_up_to_a_limit() {
    let bomb = packed(&b"6".repeat(8 << 20));
    let mut found = Metadata::default();
    let head = b"\x89PNG\r\n\x1a\n".to_vec();
    let chunk = [b"Raw profile type exif\0\0".as_slice(), &bomb].concat();
    let file = [head, vec![0; 4], b"IEND\0\0\0\0".to_vec()].concat();
    let file = png_with(&file, b"IEND", &(*b"zTXt", chunk));
    png::read(Cursor::new(file), &mut found);
    assert!(found.exif.iter().all(|exif| exif.len() <= MAX_BYTES));
}

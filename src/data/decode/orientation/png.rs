//! Metadata in the chunks of a PNG: Exif of its own, XMP, and raw profiles, which are hexadecimal text.

use std::io::{BufRead, Read, Seek};

use flate2::read::ZlibDecoder;

use super::{MAX_BYTES, Metadata};

/// Maximum number of pieces of metadata that are looked at: each can unpack to [`MAX_BYTES`].
const MAX_PIECES: usize = 16;

/// Adds what the file holds, before and after the pixels; stops at whatever is no PNG.
pub(super) fn read(mut file: impl BufRead + Seek, found: &mut Metadata) {
    let mut signature = [0; 8];
    if file.read_exact(&mut signature).is_err() {
        return;
    }
    let mut pieces = 0;
    let mut head = [0; 8];
    while pieces < MAX_PIECES && file.read_exact(&mut head).is_ok() {
        let [a, b, c, d, kind @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        let wanted = matches!(&kind, b"eXIf" | b"tEXt" | b"zTXt" | b"iTXt");
        let mut left = i64::from(length) + 4; // with the checksum
        if wanted {
            let mut data = Vec::new();
            let most = u64::from(length).min(MAX_BYTES as u64);
            let Ok(got) = file.by_ref().take(most).read_to_end(&mut data) else {
                return;
            };
            left -= got as i64;
            pieces += usize::from(add(&kind, &data, found));
        }
        if &kind == b"IEND" || file.seek_relative(left).is_err() {
            return;
        }
    }
}

/// Adds a chunk; true if it was metadata.
fn add(kind: &[u8; 4], data: &[u8], found: &mut Metadata) -> bool {
    if kind == b"eXIf" {
        found.add_exif(data);
        return true;
    }
    let Some((keyword, rest)) = cut(data) else {
        return false;
    };
    let profile = matches!(
        keyword,
        b"Raw profile type exif" | b"Raw profile type APP1" | b"Raw profile type xmp"
    );
    let xmp = keyword == b"XML:com.adobe.xmp";
    if !profile && !xmp {
        return false;
    }
    let text = match (kind, rest) {
        (b"tEXt", text) => Some(text.to_vec()),
        (b"zTXt", [0, packed @ ..]) => unpack(packed),
        (b"iTXt", [packed, 0, rest @ ..]) => international(*packed != 0, rest),
        _ => None,
    };
    match text {
        Some(text) if xmp => found.xmp.push(text),
        Some(text) => {
            let bytes = raw_profile(&text);
            match keyword {
                b"Raw profile type exif" => found.add_exif(&bytes),
                b"Raw profile type xmp" => found.xmp.push(bytes),
                _ => found.add(&bytes),
            }
        }
        None => {}
    }
    true
}

/// Up to the first zero byte, and after it.
fn cut(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|byte| *byte == 0)?;
    Some((&data[..end], &data[end + 1..]))
}

/// The text of an `iTXt` chunk, after two more texts: the language, and the keyword in it.
fn international(packed: bool, rest: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = cut(rest)?;
    let (_, text) = cut(rest)?;
    match packed {
        true => unpack(text),
        false => Some(text.to_vec()),
    }
}

/// As much as can be unpacked.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let unpacked = ZlibDecoder::new(packed)
        .take(MAX_BYTES as u64)
        .read_to_end(&mut text);
    (unpacked.is_ok() || !text.is_empty()).then_some(text)
}

/// The bytes of a raw profile: a line with its name, one with its length, then two digits a byte, in any lines.
fn raw_profile(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let lines = text.trim_start().lines().skip(2);
    let digits: Vec<u8> = lines
        .flat_map(str::split_ascii_whitespace)
        .flat_map(str::chars)
        .map_while(|digit| Some(digit.to_digit(16)? as u8))
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

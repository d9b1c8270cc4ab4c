//! The settings of an image in its PNG file: one line of JSON in a text chunk with the keyword `ddpm`.
//!
//! It is a `tEXt` chunk right behind the mark, which all programs that know of text in PNG files show. Those are Latin-1;
//! other characters stand in the JSON as `\uXXXX`. The chunk is put into a whole file, as the mark is: the encoder of the
//! image crate takes no text. Read are all three kinds of text chunks, wherever they stand, as other programs may have written
//! the file again.

use std::io::Cursor;

use anyhow::{Context, Result, bail};

use super::mark::{PNG_HEADER, chunk, png_mark};
use crate::text;

/// Keyword of the chunk.
const KEYWORD: &str = "ddpm";

/// Longest settings that are read, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Most bytes of all text that the decoder keeps of a file.
const MAX_CHUNKS_BYTES: usize = 1 << 24;

/// Adds settings, one line of JSON, to a whole PNG file that is marked.
pub(super) fn add_settings(png: &mut Vec<u8>, settings: &str) {
    let data = [
        b"tEXt",
        KEYWORD.as_bytes(),
        b"\0",
        ascii(settings).as_bytes(),
    ]
    .concat();
    let behind = PNG_HEADER + png_mark().len();
    png.splice(behind..behind, chunk(&data));
}

/// JSON with all that is not ASCII in its strings' escapes.
fn ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    ascii
}

/// The settings in a PNG file of this program, as they were written; `None` if it has none.
///
/// They may be anything: whoever made the file chose them.
///
/// # Errors
/// Bytes that are no PNG file, or a damaged one; settings of more than 1 MiB.
pub fn settings_of_png(bytes: &[u8]) -> Result<Option<String>> {
    let cannot = |error: png::DecodingError| match error {
        png::DecodingError::LimitsExceeded => text::quoting(format!(
            "it has more than {MAX_CHUNKS_BYTES} bytes of text and the like"
        )),
        error => text::quoting(text::one_line(&error)),
    };
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        bail!("it is not a PNG file");
    }
    let limits = png::Limits {
        bytes: MAX_CHUNKS_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(cannot)?;
    if let Some(found) = settings_in(reader.info())? {
        return Ok(Some(found));
    }
    // Behind the pixels.
    reader.finish().map_err(cannot)?;
    settings_in(reader.info())
}

fn settings_in(info: &png::Info) -> Result<Option<String>> {
    let plain = (info.uncompressed_latin1_text.iter())
        .find(|chunk| chunk.keyword == KEYWORD)
        .map(|chunk| Ok(chunk.text.clone()));
    let compressed = || {
        let mut chunk = (info.compressed_latin1_text.iter())
            .find(|chunk| chunk.keyword == KEYWORD)?
            .clone();
        let inflated = chunk.decompress_text_with_limit(MAX_TEXT_BYTES);
        Some(inflated.and_then(|()| chunk.get_text()))
    };
    let unicode = || {
        let mut chunk = (info.utf8_text.iter())
            .find(|chunk| chunk.keyword == KEYWORD)?
            .clone();
        let inflated = chunk.decompress_text_with_limit(MAX_TEXT_BYTES);
        Some(inflated.and_then(|()| chunk.get_text()))
    };
    let Some(found) = plain.or_else(compressed).or_else(unicode) else {
        return Ok(None);
    };
    let found = found
        .map_err(|error| text::quoting(text::one_line(&error)))
        .context("its settings cannot be read")?;
    if found.len() > MAX_TEXT_BYTES {
        bail!(
            "its settings have {} bytes, want at most {MAX_TEXT_BYTES}",
            found.len()
        );
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::report::encode_png;

    const SETTINGS: &str = r#"{"class":"Katze 図 🙂","seed":7}"#;

    fn made(settings: Option<&str>) -> Vec<u8> {
        encode_png(array![[[1], [2]], [[3], [4]]].view(), settings).unwrap()
    }

    /// With a text chunk of another kind in place of ours.
    fn rewritten(add: impl FnOnce(&mut png::Writer<&mut Vec<u8>>)) -> Vec<u8> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[7]).unwrap();
        add(&mut writer);
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back_and_the_pixels_stay() {
        let with = made(Some(SETTINGS));
        let read = settings_of_png(&with).unwrap().unwrap();
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert!(read.is_ascii());
        assert_eq!(value(&read), value(SETTINGS));
        let image = image::load_from_memory(&with).unwrap().to_luma8();
        assert_eq!(image.as_raw(), &[1, 2, 3, 4]);
        assert_eq!(settings_of_png(&made(None)).unwrap(), None);
        assert!(super::super::mark::is_marked_in(&mut Cursor::new(with)));
    }

    #[test]
    fn the_other_kinds_of_text_are_read_behind_the_pixels_too() {
        use png::text_metadata::{ITXtChunk, ZTXtChunk};
        let unicode = rewritten(|w| {
            w.write_text_chunk(&ITXtChunk::new(KEYWORD, SETTINGS))
                .unwrap();
        });
        assert_eq!(
            settings_of_png(&unicode).unwrap().as_deref(),
            Some(SETTINGS)
        );
        let compressed = |bytes: usize| {
            rewritten(|w| {
                let text = "a".repeat(bytes);
                w.write_text_chunk(&ZTXtChunk::new(KEYWORD, text)).unwrap();
            })
        };
        let read = settings_of_png(&compressed(MAX_TEXT_BYTES))
            .unwrap()
            .unwrap();
        assert_eq!(read.len(), MAX_TEXT_BYTES);
        let error = settings_of_png(&compressed(MAX_TEXT_BYTES + 1)).unwrap_err();
        assert!(
            format!("{error:#}").contains("settings cannot be read"),
            "{error:#}"
        );
    }

    #[test]
    fn what_is_no_whole_png_is_refused() {
        let whole = made(Some(SETTINGS));
        for length in [0, 1, 8, 20, 60] {
            assert!(settings_of_png(&whole[..length]).is_err(), "{length}");
        }
        let error = settings_of_png(b"\xff\xd8\xff\xe0 JFIF").unwrap_err();
        assert_eq!(error.to_string(), "it is not a PNG file");
        let long = "x".repeat(MAX_TEXT_BYTES);
        let error = settings_of_png(&made(Some(&format!("\"{long}\"")))).unwrap_err();
        assert!(error.to_string().contains("want at most"), "{error}");
        let long = "x".repeat(MAX_CHUNKS_BYTES + 1);
        let error = settings_of_png(&made(Some(&long))).unwrap_err();
        assert!(error.to_string().contains("bytes of text"), "{error}");
    }
}

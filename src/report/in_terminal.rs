//! An image as the bytes that have a terminal show it, by the three protocols that are in use.
//!
//! Kitty's and iTerm2's carry a PNG file. Sixel carries rows of six pixels in up to 256 colours; its encoder here is small, as
//! those of crates.io want a newer Rust than this crate (quantette: 1.90) or are a port of a C library by machine. Colours
//! are chosen by the crate that GIF files of this program are made with.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use color_quant::NeuQuant;
use ndarray::ArrayView3;

use super::figure::encode_png;

/// Longest side that is shown, in pixels.
const MOST_SIDE: usize = 8192;

/// Most base64 digits in one of kitty's commands.
const KITTY_CHUNK: usize = 4096;

/// Colours of a sixel image.
const SIXEL_COLORS: usize = 256;

/// Pixels sampled for its colours: more gain little.
const PALETTE_PIXELS: usize = 1 << 14;

/// A way in which terminals show images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TerminalProtocol {
    /// kitty, Ghostty, Konsole
    Kitty,
    /// iTerm2, WezTerm, mintty
    #[value(name = "iterm2")]
    ITerm2,
    /// foot, mlterm, xterm -ti vt340
    Sixel,
}

/// What shows an image in a terminal, with a line break at its end.
///
/// # Shapes
/// - `image`: `[H, W, C]`, C = 1 (grey) or 3 (RGB)
///
/// # Errors
/// An image without pixels, or one that is too large to be looked at.
pub fn in_terminal(image: ArrayView3<u8>, protocol: TerminalProtocol) -> Result<Vec<u8>> {
    let (h, w, _) = image.dim();
    ensure!(
        (1..=MOST_SIDE).contains(&h) && (1..=MOST_SIDE).contains(&w),
        "an image of {w}x{h} pixels is not shown in a terminal; want sides of 1 to {MOST_SIDE}"
    );
    let text = match protocol {
        TerminalProtocol::Kitty => kitty(&encode_png(image, None)?),
        TerminalProtocol::ITerm2 => iterm2(&encode_png(image, None)?),
        TerminalProtocol::Sixel => sixel(image),
    };
    Ok((text + "\n").into_bytes())
}

/// <https://sw.kovidgoyal.net/kitty/graphics-protocol/>: transmit a PNG file (f=100), display it (a=T), and answer nothing (q=2).
fn kitty(png: &[u8]) -> String {
    let digits = STANDARD.encode(png);
    let count = digits.len().div_ceil(KITTY_CHUNK);
    let mut text = String::new();
    for (number, start) in (1..).zip((0..digits.len()).step_by(KITTY_CHUNK)) {
        let chunk = &digits[start..digits.len().min(start + KITTY_CHUNK)];
        let first = if number == 1 { "a=T,f=100,q=2," } else { "" };
        let more = u8::from(number < count);
        text += &format!("\x1b_G{first}m={more};{chunk}\x1b\\");
    }
    text
}

/// <https://iterm2.com/documentation-images.html>
fn iterm2(png: &[u8]) -> String {
    let (size, digits) = (png.len(), STANDARD.encode(png));
    format!("\x1b]1337;File=inline=1;size={size}:{digits}\x07")
}

/// <https://vt100.net/docs/vt3xx-gp/chapter14.html>: square pixels, colours in percent, then bands of six rows, each drawn once a
/// colour.
fn sixel(image: ArrayView3<u8>) -> String {
    let (h, w, c) = image.dim();
    let rgb =
        |y: usize, x: usize| [0, 1, 2].map(|channel: usize| image[[y, x, channel.min(c - 1)]]);
    let (palette, of_pixel) = colors(h, w, rgb);
    let mut text = format!("\x1bPq\"1;1;{w};{h}");
    for (number, color) in palette.iter().enumerate() {
        let [r, g, b] = color.map(|value| (u32::from(value) * 100 + 127) / 255);
        let _ = write!(text, "#{number};2;{r};{g};{b}");
    }
    for top in (0..h).step_by(6) {
        let rows = top..h.min(top + 6);
        let mut band: HashMap<u8, Vec<u8>> = HashMap::new();
        for (bit, y) in rows.enumerate() {
            for x in 0..w {
                let row = band.entry(of_pixel[y * w + x]);
                row.or_insert_with(|| vec![0; w])[x] |= 1 << bit;
            }
        }
        let mut used: Vec<(u8, Vec<u8>)> = band.into_iter().collect();
        used.sort_unstable();
        for (place, (color, bits)) in used.iter().enumerate() {
            // Back to the beginning of the band.
            let back = if place > 0 { "$" } else { "" };
            let _ = write!(text, "{back}#{color}");
            runs(&mut text, bits);
        }
        text.push('-');
    }
    text + "\x1b\\"
}

/// The same six pixels several times are written once.
fn runs(text: &mut String, bits: &[u8]) {
    for run in bits.chunk_by(|a, b| a == b) {
        let digit = char::from(b'?' + run[0]);
        let _ = match run.len() {
            1..=3 => write!(text, "{}", digit.to_string().repeat(run.len())),
            length => write!(text, "!{length}{digit}"),
        };
    }
}

/// Up to 256 colours, and which of them each pixel has, row by row: exact if there are no more.
fn colors(h: usize, w: usize, rgb: impl Fn(usize, usize) -> [u8; 3]) -> (Vec<[u8; 3]>, Vec<u8>) {
    let pixels = || (0..h * w).map(|place| rgb(place / w, place % w));
    let mut found: HashMap<[u8; 3], u8> = HashMap::new();
    let mut palette = vec![];
    for pixel in pixels() {
        if let Entry::Vacant(new) = found.entry(pixel) {
            if palette.len() == SIXEL_COLORS {
                return nearest(pixels());
            }
            new.insert(palette.len() as u8);
            palette.push(pixel);
        }
    }
    let of_pixel = pixels().map(|pixel| found[&pixel]).collect();
    (palette, of_pixel)
}

fn nearest(pixels: impl Iterator<Item = [u8; 3]>) -> (Vec<[u8; 3]>, Vec<u8>) {
    let rgba: Vec<u8> = pixels.flat_map(|[r, g, b]| [r, g, b, 255]).collect();
    // It looks at one pixel out of so many.
    let sampled = (rgba.len() / 4 / PALETTE_PIXELS).clamp(1, 10);
    let chosen = NeuQuant::new(sampled as i32, SIXEL_COLORS, &rgba);
    let palette = chosen.color_map_rgb();
    let palette = palette.chunks_exact(3).map(|c| [c[0], c[1], c[2]]);
    let of_pixel = rgba
        .chunks_exact(4)
        .map(|pixel| chosen.index_of(pixel) as u8);
    (palette.collect(), of_pixel.collect())
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn sixels_are_drawn_band_by_band_and_colour_by_colour() {
        // Seven rows: a red column, and four white ones with a red pixel in the last row.
        let image = Array3::from_shape_fn((7, 5, 3), |(y, x, c)| {
            let red = x == 0 || (y == 6 && x == 2);
            if red && c > 0 { 0 } else { 255 }
        });
        let bytes = in_terminal(image.view(), TerminalProtocol::Sixel).unwrap();
        let wanted =
            "\x1bPq\"1;1;5;7#0;2;100;0;0#1;2;100;100;100#0~!4?$#1?!4~-#0@?@??$#1?@?@@-\x1b\\\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
    }

    #[test]
    fn an_image_of_many_colours_has_256_that_are_near() {
        let image = Array3::from_shape_fn((64, 64, 3), |(y, x, c)| (4 * [y, x, 63 - y][c]) as u8);
        let rgb = |y: usize, x: usize| [0, 1, 2].map(|c| image[[y, x, c]]);
        let (palette, of_pixel) = colors(64, 64, rgb);
        assert_eq!((palette.len(), of_pixel.len()), (256, 4096));
        let error = |place: usize| {
            let own = palette[usize::from(of_pixel[place])];
            let wanted = rgb(place / 64, place % 64);
            (0..3).map(|c| own[c].abs_diff(wanted[c])).max().unwrap()
        };
        // 4096 colours, 4 levels apart, become 256: at best 16 share one, up to 8 levels away.
        let mean = (0..4096).map(|place| f64::from(error(place))).sum::<f64>() / 4096.0;
        assert!(mean < 12.0, "{mean}");
    }

    #[test]
    fn kitty_and_iterm2_carry_the_file() {
        let image =
            Array3::from_shape_fn((64, 64, 3), |(y, x, c)| (y * 131 + x * 57 * (c + 1)) as u8);
        let png = encode_png(image.view(), None).unwrap();
        let text =
            |protocol| String::from_utf8(in_terminal(image.view(), protocol).unwrap()).unwrap();
        let kitty = text(TerminalProtocol::Kitty);
        assert!(kitty.starts_with("\x1b_Ga=T,f=100,q=2,m=1;") && kitty.ends_with("\x1b\\\n"));
        let chunks: Vec<&str> = (kitty.trim_end().split("\x1b\\"))
            .filter_map(|command| command.split_once(';'))
            .map(|(_, digits)| digits)
            .collect();
        assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.len() <= KITTY_CHUNK));
        assert_eq!(STANDARD.decode(chunks.concat()).unwrap(), png);
        assert_eq!(kitty.matches("m=0;").count(), 1);
        let iterm2 = text(TerminalProtocol::ITerm2);
        let digits = iterm2
            .trim_end()
            .trim_end_matches('\x07')
            .split_once(':')
            .unwrap()
            .1;
        assert_eq!(STANDARD.decode(digits).unwrap(), png);
        assert!(iterm2.contains(&format!("size={}:", png.len())));
        let wide = Array3::zeros((1, MOST_SIDE + 1, 1));
        assert!(in_terminal(wide.view(), TerminalProtocol::Sixel).is_err());
    }
}

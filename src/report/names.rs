//! Names beside the rows of a figure.

use font8x8::{BASIC_FONTS, GREEK_FONTS, LATIN_FONTS, UnicodeFonts};
use ndarray::{Array3, Axis, concatenate, s};

/// Side of a letter, pixels.
const LETTER: usize = 8;
/// Longest name that is drawn, letters.
const LETTERS: usize = 16;
/// Space between names and images, pixels.
const GAP: usize = 4;

/// The figure with a name to the left of each row, white on black. Rows of fewer pixels than a letter have none; a letter
/// that the font lacks is a question mark.
///
/// # Shapes
/// - `figure`: `[names.len() * H, W, C]`; returns `[names.len() * H, more than W, C]`
pub fn with_names(figure: &Array3<u8>, names: &[String]) -> Array3<u8> {
    let (height, _, channels) = figure.dim();
    let row = height / names.len().max(1);
    let scale = match row / LETTER {
        0 => return figure.clone(),
        1..=5 => 1,
        more => more / 4,
    };
    let letters = names
        .iter()
        .map(|name| name.chars().count().min(LETTERS))
        .max();
    let width = letters.unwrap_or(0) * LETTER * scale + GAP;
    let mut column = Array3::zeros((height, width, channels));
    for (place, name) in names.iter().enumerate() {
        let top = place * row + (row - LETTER * scale) / 2;
        for (at, letter) in shortened(name).into_iter().enumerate() {
            let bits = glyph(letter);
            for (y, x) in (0..LETTER).flat_map(|y| (0..LETTER).map(move |x| (y, x))) {
                if bits[y] >> x & 1 == 1 {
                    let (y, x) = (top + y * scale, (at * LETTER + x) * scale);
                    let mut dot = column.slice_mut(s![y..y + scale, x..x + scale, ..]);
                    dot.fill(255);
                }
            }
        }
    }
    concatenate(Axis(1), &[column.view(), figure.view()]).expect("of one height")
}

fn shortened(name: &str) -> Vec<char> {
    let mut letters: Vec<char> = name.chars().collect();
    if letters.len() > LETTERS {
        letters.truncate(LETTERS - 2);
        letters.extend(['.', '.']);
    }
    letters
}

fn glyph(letter: char) -> [u8; LETTER] {
    let fonts = [
        BASIC_FONTS.get(letter),
        LATIN_FONTS.get(letter),
        GREEK_FONTS.get(letter),
    ];
    let found = fonts.into_iter().flatten().next();
    found.or(BASIC_FONTS.get('?')).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_name_and_the_images_stay_as_they_are() {
        let figure = Array3::from_shape_fn((20, 7, 3), |(y, x, c)| (y * 21 + x * 3 + c) as u8);
        let names = ["I".to_owned(), "a much longer name".to_owned()];
        let named = with_names(&figure, &names);
        let width = LETTERS * LETTER + GAP;
        assert_eq!(named.dim(), (20, width + 7, 3));
        assert_eq!(named.slice(s![.., width.., ..]), figure);
        let white = |top: usize| {
            named
                .slice(s![top..top + 10, ..width, 0])
                .mapv(|v| u32::from(v / 255))
                .sum()
        };
        // The bits of the letter I in the font.
        let bits: u32 = glyph('I').iter().map(|row| row.count_ones()).sum();
        assert_eq!(white(0), bits);
        assert!(white(10) > 10 * bits / 2);
        // A row that is too low for letters.
        let low = figure.slice(s![..4, .., ..]).to_owned();
        assert_eq!(with_names(&low, &names[..1]), low);
    }

    #[test]
    fn names_in_other_alphabets_do_not_end_a_run() {
        let figure = Array3::zeros((8, 8, 1));
        for name in ["", "ä", "Ω", "猫", "\u{1f600}", "\n"] {
            let named = with_names(&figure, &[name.to_owned()]);
            assert_eq!(named.dim().0, 8, "{name:?}");
        }
        assert_eq!(glyph('猫'), glyph('?'));
    }
}

# /// script
# requires-python = ">=3.10"
# dependencies = ["fonttools==4.68.0"]
# ///
"""Extracts the images of the font Noto Color Emoji: a few thousand RGBA PNG files of 136x128.

    .venv/bin/python scripts/emoji_images.py OUT_DIR [--font PATH]

The Debian package fonts-noto-color-emoji has each emoji as a PNG (tables CBDT and CBLC), which is
written unchanged. Files are named by code point, as in 1f600.png, or by all code points of a
sequence, as in 1f468-200d-1f680.png; spellings that only differ in the invisible
selector fe0f share an image. The font is under the SIL Open Font License 1.1.
"""

import argparse
import pathlib
import sys

DEFAULT_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=pathlib.Path, help="folder for the PNG files, made if needed")
    parser.add_argument("--font", type=pathlib.Path, default=DEFAULT_FONT, help="default: %(default)s")
    args = parser.parse_args()
    images = read_images(args.font)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, png in images.items():
        (args.out_dir / f"{name}.png").write_bytes(png)
    print(f"{len(images)} images in {args.out_dir}")


def read_images(path):
    """The images of a font: a dict from file name to the bytes of a PNG."""
    try:
        from fontTools.ttLib import TTFont, TTLibError
    except ModuleNotFoundError:
        sys.exit("fontTools is missing: pip install fonttools==4.68.0")
    if not path.is_file():
        sys.exit(f"no font at {path}: apt-get install fonts-noto-color-emoji, or give --font PATH")
    try:
        font = TTFont(path, lazy=True)
    except TTLibError as error:
        sys.exit(f"{path} is not a font: {error}")
    if "CBDT" not in font:
        sys.exit(f"{path} has no CBDT table: it has no images; give an emoji font with --font")
    names = code_points(font)
    glyphs = font["CBDT"].strikeData[0]
    return {names.get(glyph, glyph): glyphs[glyph].imageData for glyph in sorted(glyphs)}


def code_points(font):
    """The code points of each glyph: a dict from glyph to hexadecimal numbers joined by hyphens."""
    names = {glyph: f"{code:x}" for code, glyph in sorted(font.getBestCmap().items(), reverse=True)}
    # A sequence is a ligature: the first glyph, then the rest.
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else []:
        for table in (getattr(table, "ExtSubTable", table) for table in lookup.SubTable):
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = [first, *ligature.Component]
                    if all(part in names for part in parts):
                        names.setdefault(ligature.LigGlyph, "-".join(names[p] for p in parts))
    return names


if __name__ == "__main__":
    main()

"""Writes images as PNG files, for machines whose Python has no Pillow."""

import struct
import zlib
from pathlib import Path

import numpy as np


def write_png(file: Path, pixels: np.ndarray) -> None:
    """`pixels` is u8 [H, W, 3], RGB."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, colour type 2: RGB
    unfiltered = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: 0, none
    unfiltered[:, 1:] = pixels.reshape(height, 3 * width)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(unfiltered.tobytes())), (b"IEND", b"")]
    framed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))

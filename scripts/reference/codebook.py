"""The codebooks of DDCM in NumPy, by the recipe in src/sample/codebook.rs: the same bits.

    .venv/bin/python scripts/reference/codebook.py SEED STEP INDEX COUNT

prints the first COUNT values of an entry as the bits of an f32, in hexadecimal.
"""

import sys

import numpy as np

A = [3.3871327179, 50.434271938, 159.29113202, 59.109374720]
B = [1.0, 17.895169469, 78.757757664, 67.187563600]
C = [1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103]
D = [1.0, 0.73700164250, 0.12021132975]
L = [2 / (2 * k + 1) for k in range(8)]
LN_2 = 0.6931471805599453


def chacha20_words(key: bytes, nonce: int, count: int) -> np.ndarray:
    """The first `count` words of the key stream, u32; nonce and counter of 64 bits. Source: Bernstein 2008."""
    blocks = np.arange(-(-count // 16), dtype=np.uint64)
    start = np.empty((16, blocks.size), np.uint32)
    start[:4] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    start[4:12] = np.frombuffer(key, "<u4")[:, None]
    start[12:14] = blocks & 0xFFFFFFFF, blocks >> 32
    start[14:16] = np.frombuffer(nonce.to_bytes(8, "little"), "<u4")[:, None]
    x = start.copy()
    for _ in range(10):
        for shift in (0, 1):  # columns, then diagonals
            for column in range(4):
                quarter_round(x, *(4 * row + (column + shift * row) % 4 for row in range(4)))
    return (x + start).T.reshape(-1)[:count]


def quarter_round(x: np.ndarray, a: int, b: int, c: int, d: int) -> None:
    for target, source, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[target] += x[source]
        x[mixed] ^= x[target]
        x[mixed] = (x[mixed] << bits) | (x[mixed] >> (32 - bits))


def horner(coefs: list[float], x: np.ndarray) -> np.ndarray:
    v = np.full_like(x, coefs[-1])
    for c in reversed(coefs[:-1]):
        v = v * x + c
    return v


def ln(p: np.ndarray) -> np.ndarray:
    m, e = np.frexp(p)  # m in [0.5, 1)
    m, e = np.where(m < 0.75, (2 * m, e - 1), (m, e))
    s = (m - 1) / (m + 1)
    return e * LN_2 + s * horner(L, s * s)


def quantiles(words: np.ndarray) -> np.ndarray:
    """u32 words to standard normal numbers, f32."""
    q = (words.astype(np.float64) - 2.0**31 + 0.5) / 2.0**32
    r = 0.180625 - q * q
    centre = q * horner(A, r) / horner(B, r)
    r = np.sqrt(-ln(0.5 - np.abs(q))) - 1.6
    tail = np.copysign(horner(C, r) / horner(D, r), q)
    return np.where(np.abs(q) <= 0.425, centre, tail).astype(np.float32)


def entry(seed: int, step: int, index: int, count: int) -> np.ndarray:
    """The first `count` values of an entry, f32."""
    key = seed.to_bytes(8, "little") + b"ddpm codebook, version 1"
    return quantiles(chacha20_words(key, step << 16 | index, count))


if __name__ == "__main__":
    for value in entry(*map(int, sys.argv[1:])):
        print(f"{value.view(np.uint32):08x}  {value}")

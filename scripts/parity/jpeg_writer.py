"""Writes JPEG files of any layout: sampling factors, scans, restarts, tables, component ids and markers.

Encoders in use write a few of the layouts that the format allows; a decoder meets the others in old files and in
those of other programs. Huffman coding only, 8 bits, sequential and progressive.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

ZIGZAG = np.array(sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8)))


@dataclass
class Scan:
    """One scan: components (indices), band of frequencies, successive approximation."""

    of: tuple
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0
    restart: int | None = None  # a new interval, told before this scan
    new_tables: bool = True  # quantisation is told once, Huffman tables before the scan


@dataclass
class Jpeg:
    """What is written: planes [height, width] of 0 to 255, one a component, all of full size."""

    planes: list
    sampling: list
    ids: list
    scans: list
    frame: int = 0xC0
    restart: int = 0
    app: bytes = b""
    comment_between: bool = False  # a comment and an unused table between scans
    step: int = 6  # of the quantiser at the lowest frequency
    end: bool = True
    offsets: list = field(default_factory=list)  # of the scans in the file, filled in


def segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def cosines():
    k, n = np.mgrid[0:8, 0:8]
    d = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    d[0] /= np.sqrt(2)
    return d


def quantiser(step):
    v, u = np.mgrid[0:8, 0:8]
    return (step + (u + v) * step // 3).clip(1, 255).astype(int)


def coefficients(plane, size, blocks, step):
    """[rows, columns, 64] in zigzag order, of a plane reduced to `size` and extended to whole blocks."""
    (height, width), (rows, columns) = size, blocks
    reduced = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    padded = np.pad(np.asarray(reduced), ((0, rows * 8 - height), (0, columns * 8 - width)), mode="edge") - 128
    tiles = padded.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    d = cosines()
    waves = np.rint(d @ tiles @ d.T / quantiser(step)).astype(int)
    return waves.reshape(rows, columns, 64)[:, :, ZIGZAG]


def write(jpeg):
    """The bytes of a file. `jpeg.offsets` receives where each scan's segments begin."""
    height, width = jpeg.planes[0].shape
    h_max, v_max = (max(s[i] for s in jpeg.sampling) for i in (0, 1))
    mcus = (-(-height // (8 * v_max)), -(-width // (8 * h_max)))
    waves, real = [], []
    for plane, (h, v) in zip(jpeg.planes, jpeg.sampling):
        size = (-(-height * v // v_max), -(-width * h // h_max))
        waves.append(coefficients(plane, size, (mcus[0] * v, mcus[1] * h), jpeg.step))
        real.append((-(-size[0] // 8), -(-size[1] // 8)))
    out = b"\xff\xd8" + jpeg.app
    out += segment(0xDB, b"\0" + bytes(quantiser(jpeg.step).reshape(64)[ZIGZAG].tolist()))
    body = struct.pack(">BHHB", 8, height, width, len(jpeg.planes))
    for name, (h, v) in zip(jpeg.ids, jpeg.sampling):
        body += bytes([name, h << 4 | v, 0])
    out += segment(jpeg.frame, body)
    if jpeg.restart:
        out += segment(0xDD, struct.pack(">H", jpeg.restart))
    interval = jpeg.restart
    jpeg.offsets.clear()
    for number, scan in enumerate(jpeg.scans):
        jpeg.offsets.append(len(out))
        if scan.restart is not None:
            interval = scan.restart
            out += segment(0xDD, struct.pack(">H", interval))
        if number and jpeg.comment_between:
            out += segment(0xFE, b"between two scans") + b"\xff" + segment(0xC4, bytes([0x13, 1] + [0] * 15 + [5]))
        units = units_of(jpeg, scan, mcus, real, waves)
        out += entropy(jpeg, scan, units, interval)
    return out + (b"\xff\xd9" if jpeg.end else b"")


def units_of(jpeg, scan, mcus, real, waves):
    """The blocks of a scan, a list for each MCU of (component's place in the scan, coefficients)."""
    if len(scan.of) == 1:
        rows, columns = real[scan.of[0]]
        blocks = waves[scan.of[0]]
        return [[(0, blocks[y, x])] for y in range(rows) for x in range(columns)]
    units = []
    for y in range(mcus[0]):
        for x in range(mcus[1]):
            unit = []
            for place, c in enumerate(scan.of):
                h, v = jpeg.sampling[c]
                unit += [(place, waves[c][y * v + j, x * h + i]) for j in range(v) for i in range(h)]
            units.append(unit)
    return units


def magnitude(value):
    """Category of a value, and its bits."""
    size = int(abs(value)).bit_length()
    return size, (value if value >= 0 else value + (1 << size) - 1)


class Coder:
    """Symbols and raw bits of a scan, in order; one list for each restart interval."""

    def __init__(self, scan, progressive):
        self.scan, self.progressive = scan, progressive
        self.parts, self.used = [[]], {}
        self.reset()

    def reset(self):
        self.dc = {}
        self.eob_run, self.waiting = 0, []

    def symbol(self, table, symbol, bits=0, size=0):
        self.used.setdefault(table, set()).add(symbol)
        self.parts[-1].append((table, symbol, bits, size))

    def raw(self, bits, size):
        self.parts[-1].append((None, 0, bits, size))

    def restart(self):
        self.flush()
        self.parts.append([])
        self.reset()

    def block(self, place, z):
        scan, table = self.scan, min(place, 1)
        if not self.progressive:
            self.dc_first(place, table, int(z[0]))
            self.ac_first(table, [int(v) for v in z], 1, 63, runs=False)
        elif scan.first == 0 and scan.high == 0:
            self.dc_first(place, table, int(z[0]) >> scan.low)
        elif scan.first == 0:
            self.raw(int(z[0]) >> scan.low & 1, 1)
        else:
            values = [(abs(int(v)) >> scan.low) * (1 if v > 0 else -1) for v in z]
            if scan.high == 0:
                self.ac_first(table, values, scan.first, scan.last, runs=True)
            else:
                self.ac_refine(table, values)

    def dc_first(self, place, table, value):
        difference = value - self.dc.get(place, 0)
        self.dc[place] = value
        size, bits = magnitude(difference)
        self.symbol((0, table), size, bits, size)

    def ac_first(self, table, z, first, last, runs):
        self.table = table
        zeros = 0
        for k in range(first, last + 1):
            if z[k] == 0:
                zeros += 1
                continue
            self.flush()
            while zeros > 15:
                self.symbol((1, table), 0xF0)
                zeros -= 16
            size, bits = magnitude(z[k])
            self.symbol((1, table), zeros << 4 | size, bits, size)
            zeros = 0
        if zeros and not runs:
            self.symbol((1, table), 0)
        elif zeros:
            self.end_of_block()

    def end_of_block(self):
        self.eob_run += 1
        if self.eob_run == 0x7FFF:
            self.flush()

    def ac_refine(self, table, z):
        self.table = table
        first, last = self.scan.first, self.scan.last
        new = [k for k in range(first, last + 1) if abs(z[k]) == 1]
        newest = new[-1] if new else -1
        zeros, corrections = 0, []
        for k in range(first, last + 1):
            if z[k] == 0:
                zeros += 1
                continue
            while zeros > 15 and k <= newest:
                self.flush()
                self.symbol((1, table), 0xF0)
                zeros -= 16
                for bit in corrections:
                    self.raw(bit, 1)
                corrections = []
            if abs(z[k]) > 1:
                corrections.append(abs(z[k]) & 1)
                continue
            self.flush()
            self.symbol((1, table), zeros << 4 | 1, 1 if z[k] > 0 else 0, 1)
            for bit in corrections:
                self.raw(bit, 1)
            zeros, corrections = 0, []
        if zeros or corrections:
            self.waiting += corrections
            self.end_of_block()

    def flush(self):
        """Writes the run of blocks that end early, and the corrections within them."""
        if self.eob_run:
            size = self.eob_run.bit_length() - 1
            self.symbol((1, self.table), size << 4, self.eob_run - (1 << size), size)
            for bit in self.waiting:
                self.raw(bit, 1)
        self.eob_run, self.waiting = 0, []


def codes(counts, symbols):
    """Symbol -> bits as text."""
    table, code, at = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[at : at + count]:
            table[symbol] = format(code, f"0{length}b")
            code += 1
        at += count
        code <<= 1
    return table


def huffman(used):
    """A table for the symbols in use: the first ones short, the others long."""
    symbols = sorted(used)
    short, others = symbols[:2], symbols[2:]
    counts = [0] * 16
    counts[1] = len(short)
    length = 2 + max(1, (len(others) + 1).bit_length())
    if others:
        counts[length - 1] = len(others)
    return counts, symbols


def entropy(jpeg, scan, units, interval):
    progressive = jpeg.frame == 0xC2
    coder = Coder(scan, progressive)
    for number, unit in enumerate(units):
        if interval and number and number % interval == 0:
            coder.restart()
        for place, z in unit:
            coder.block(place, z)
    coder.flush()
    out, tables = b"", {}
    for table, used in sorted(coder.used.items()):
        counts, symbols = huffman(used)
        tables[table] = codes(counts, symbols)
        out += segment(0xC4, bytes([table[0] << 4 | table[1]] + counts + symbols))
    body = bytes([len(scan.of)])
    for place, c in enumerate(scan.of):
        body += bytes([jpeg.ids[c], min(place, 1) * 0x11])
    band = (scan.first, scan.last, scan.high << 4 | scan.low) if progressive else (0, 63, 0)
    out += segment(0xDA, body + bytes(band))
    for number, part in enumerate(coder.parts):
        if number:
            out += bytes([0xFF, 0xD0 + (number - 1) % 8])
        text = "".join(
            (tables[table][symbol] if table else "") + (format(bits, f"0{size}b") if size else "")
            for table, symbol, bits, size in part
        )
        text += "1" * (-len(text) % 8)
        packed = int(text or "0", 2).to_bytes(len(text) // 8, "big")
        out += packed.replace(b"\xff", b"\xff\0")
    return out

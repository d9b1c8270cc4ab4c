"""The generated JPEG files of check_images.py: {name: bytes}, the first part of a name being the kind.

Files of the kinds in MUST_BE_REFUSED are damaged in a way that a decoder can see.
"""

import random

import numpy as np

from jpeg_writer import JFIF, Jpeg, Scan, adobe, segment, write

MUST_BE_REFUSED = {"cut", "zeros", "pasted", "between", "arithmetic", "incomplete"}

SIZES = [(41, 53), (64, 48), (17, 33), (8, 8), (7, 5), (1, 1), (35, 67), (16, 16), (9, 70), (70, 9), (31, 1), (1, 31)]

SAMPLINGS = {
    "444": [(1, 1), (1, 1), (1, 1)],
    "422": [(2, 1), (1, 1), (1, 1)],
    "420": [(2, 2), (1, 1), (1, 1)],
    "440": [(1, 2), (1, 1), (1, 1)],
    "411": [(4, 1), (1, 1), (1, 1)],
    "410": [(4, 2), (1, 1), (1, 1)],
    "441": [(1, 4), (1, 1), (1, 1)],
    "422-by-4": [(2, 2), (1, 2), (1, 2)],
    "444-by-2": [(2, 2), (2, 2), (2, 2)],
    "444-by-21": [(2, 1), (2, 1), (2, 1)],
    "mixed-chroma": [(2, 2), (2, 1), (1, 2)],
    "one-chroma-full": [(2, 2), (2, 2), (1, 1)],
    "chroma-finer": [(1, 1), (2, 2), (2, 2)],
    "chroma-finer-across": [(1, 1), (2, 1), (2, 1)],
    "luma-between": [(2, 1), (1, 1), (2, 2)],
    "thirds": [(3, 1), (1, 1), (1, 1)],
    "two-thirds": [(3, 1), (2, 1), (1, 1)],
    "three-by-two": [(3, 2), (1, 1), (1, 1)],
}


def picture(seed, size):
    """Three planes of soft shapes with one edge, 0 to 255."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(4):
        a, b, c = rng.uniform(9, 25, 3)
        wave = 128 + 60 * np.sin(x / a + y / b + rng.uniform(0, 6)) + 35 * np.cos(y / c)
        wave[(x + y) > rng.uniform(0.3, 1.5) * (height + width) / 2] -= rng.uniform(0, 40)
        planes.append(wave.clip(0, 255))
    return planes


def sequential(n, kind):
    """Scan scripts of a sequential frame with n components."""
    every = tuple(range(n))
    if kind == "one":
        return [Scan(every)]
    if kind == "each":
        return [Scan((c,)) for c in every]
    if kind == "backwards":
        return [Scan((c,)) for c in reversed(every)]
    if kind == "luma-then-chroma":
        return [Scan((0,)), Scan(every[1:])] if n > 1 else [Scan((0,))]
    if kind == "chroma-then-luma":
        return [Scan(every[1:]), Scan((0,))] if n > 1 else [Scan((0,))]
    if kind == "two-and-one":
        return [Scan(every[:2]), *(Scan((c,)) for c in every[2:])]
    if kind == "new-intervals":
        return [Scan((c,), restart=r) for c, r in zip(every, (2, 0, 3, 1))]
    raise ValueError(kind)


def progressive(n, kind):
    """Scan scripts of a progressive frame with n components."""
    every = tuple(range(n))
    alone = [(c,) for c in every]
    if kind == "bands":
        return [Scan(every, 0, 0)] + [Scan(c, a, b) for c in alone for a, b in ((1, 5), (6, 63))]
    if kind == "refined":
        return (
            [Scan(every, 0, 0, 0, 1), Scan((0,), 1, 5, 0, 2)]
            + [Scan(c, 1, 63, 0, 1) for c in reversed(alone[1:])]
            + [Scan((0,), 6, 63, 0, 2), Scan((0,), 1, 63, 2, 1), Scan(every, 0, 0, 1, 0)]
            + [Scan(c, 1, 63, 1, 0) for c in reversed(alone)]
        )
    if kind == "dc-alone":
        return [Scan(c, 0, 0, 0, 2) for c in alone] + [Scan(c, 1, 63) for c in alone] + [
            Scan(c, 0, 0, high, high - 1) for high in (2, 1) for c in alone
        ]
    if kind == "many":
        scans = [Scan(every, 0, 0, 0, 3)] + [Scan(every, 0, 0, high, high - 1) for high in (3, 2, 1)]
        for c in alone:
            for a, b in ((1, 2), (3, 9), (10, 10), (11, 63)):
                scans += [Scan(c, a, b, 0, 2), Scan(c, a, b, 2, 1), Scan(c, a, b, 1, 0)]
        return scans
    raise ValueError(kind)


SEQUENTIAL = ["one", "each", "backwards", "luma-then-chroma", "chroma-then-luma", "two-and-one", "new-intervals"]
PROGRESSIVE = ["bands", "refined", "dc-alone", "many"]


def layouts():
    """Sampling x scans x restarts x size."""
    number = 0
    for name, sampling in SAMPLINGS.items():
        for frame, kinds, script in (("seq", SEQUENTIAL, sequential), ("prog", PROGRESSIVE, progressive)):
            for kind in kinds:
                for restart in (0, 1, 4):
                    for _ in range(2):
                        size = SIZES[number % len(SIZES)] if number % 3 else SIZES[number // 3 % 3]
                        yield (
                            f"layout_{name}_{frame}-{kind}_r{restart}_{size[1]}x{size[0]}_{number}",
                            Jpeg(
                                picture(number, size)[:3],
                                sampling,
                                [1, 2, 3],
                                script(3, kind),
                                frame=0xC2 if frame == "prog" else 0xC1 if number % 5 == 4 else 0xC0,
                                restart=restart,
                                app=JFIF,
                                comment_between=number % 2 == 1,
                                step=2 + number % 9,
                            ),
                        )
                        number += 1


def colours():
    """Component ids x JFIF x Adobe marker, for 1 to 4 components."""
    number = 5000
    ids = {
        1: {"1": [1], "0": [0], "Y": [89]},
        2: {"12": [1, 2]},
        3: {
            "123": [1, 2, 3],
            "012": [0, 1, 2],
            "RGB": [82, 71, 66],
            "rgb": [114, 103, 98],
            "BGR": [66, 71, 82],
            "YCc": [1, 34, 35],
            "CMY": [67, 77, 89],
            "321": [3, 2, 1],
            "other": [10, 20, 30],
        },
        4: {"1234": [1, 2, 3, 4], "CMYK": [67, 77, 89, 75], "RGBA": [82, 71, 66, 65]},
    }
    samplings = {
        1: [[(1, 1)], [(2, 2)], [(2, 1)], [(4, 4)]],
        2: [[(1, 1)] * 2, [(2, 2), (1, 1)]],
        3: [[(1, 1)] * 3, [(2, 2), (1, 1), (1, 1)]],
        4: [[(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)]],
    }
    for n, names in ids.items():
        for name, numbers in names.items():
            for sampling in samplings[n]:
                for jfif in (False, True):
                    for transform in (None, 0, 1, 2):
                        app = (JFIF if jfif else b"") + (b"" if transform is None else adobe(transform))
                        frames = [("one", 0xC0, sequential(n, "one"))]
                        if n >= 3:
                            frames += [("each", 0xC0, sequential(n, "each")), ("bands", 0xC2, progressive(n, "bands"))]
                        for kind, frame, scans in frames:
                            size = SIZES[number % 3]
                            yield (
                                f"colour_{n}_{name}_{'jfif' if jfif else 'bare'}_adobe-{transform}_{kind}_{number}",
                                Jpeg(picture(number, size)[:n], sampling, numbers, scans, frame=frame, app=app, step=4),
                            )
                            number += 1


def damaged():
    """Files that end early, in zeros or in another file, and flipped bytes."""
    rng = random.Random(7)
    number = 9000
    for sampling in ("444", "420", "422", "411"):
        for frame, kind, script in [
            ("seq", "one", sequential),
            ("seq", "each", sequential),
            ("prog", "bands", progressive),
            ("prog", "refined", progressive),
        ]:
            for restart in (0, 3):
                size = (64, 80)
                options = {"frame": 0xC2 if frame == "prog" else 0xC0, "restart": restart, "app": JFIF, "step": 2}
                jpeg = Jpeg(picture(number, size)[:3], SAMPLINGS[sampling], [1, 2, 3], script(3, kind), **options)
                whole = write(jpeg)
                begin = jpeg.offsets[0] + 60
                other = write(
                    Jpeg(picture(number + 1, size)[:3], SAMPLINGS[sampling], [1, 2, 3], script(3, kind), **options)
                )
                tag = f"{sampling}_{frame}-{kind}_r{restart}_{number}"
                for percent in (10, 40, 60, 90, 97):
                    at = begin + (len(whole) - begin) * percent // 100
                    yield f"cut_{percent}_{tag}", whole[:at]
                    yield f"cut-end_{percent}_{tag}", whole[:at] + b"\xff\xd9"
                    yield f"zeros_{percent}_{tag}", whole[:at] + bytes(len(whole) - at)
                    yield f"zeros-end_{percent}_{tag}", whole[:at] + bytes(len(whole) - at) + b"\xff\xd9"
                    yield f"pasted_{percent}_{tag}", whole[:at] + other[at:]
                yield f"noend_{tag}", whole[:-2]
                yield f"trailer_{tag}", whole + b"something after the end \xff\xd8" * 3
                for at in jpeg.offsets[1:]:
                    yield f"between_{at}_{tag}", whole[:at]
                    yield f"between-end_{at}_{tag}", whole[:at] + b"\xff\xd9"
                for turn in range(4):
                    at = rng.randrange(begin, len(whole) - 2)
                    flipped = bytearray(whole)
                    flipped[at] ^= 1 << rng.randrange(8)
                    yield f"flipped_{at}_{tag}-{turn}", bytes(flipped)
                number += 2


def refused():
    """Kinds of frames that no decoder in use here reads; arithmetic coding is refused as a rule."""
    plain = write(Jpeg(picture(1, (16, 16))[:3], SAMPLINGS["444"], [1, 2, 3], sequential(3, "one"), app=JFIF))
    at = plain.index(b"\xff\xc0")
    for name, marker in (("arithmetic", 0xC9), ("arithmetic-prog", 0xCA), ("lossless", 0xC3), ("hierarchical", 0xC5)):
        yield f"{name}_444", plain[: at + 1] + bytes([marker]) + plain[at + 2 :]
    yield "twelve-bits_444", plain[: at + 4] + b"\x0c" + plain[at + 5 :]


def files():
    for source in (layouts(), colours()):
        for name, jpeg in source:
            yield name, write(jpeg)
    yield from damaged()
    yield from refused()

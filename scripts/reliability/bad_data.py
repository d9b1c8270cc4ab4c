#!/usr/bin/env python3
"""Trains one step on a folder of 100,000 files full of rubbish, bombs and loops; checks the outcome of each file.

    .venv/bin/python scripts/reliability/bad_data.py [target/release/ddpm] [--files 100000] [--threads 8] [--keep DIR]

Every image must be decoded, or skipped with a reason, which is read back from the --cache file. The peak memory, less
that of a start that finds only rubbish, must stay within the 3 GiB that src/data/decode.rs states. Some
files are replaced, cut and removed while the program runs. Needs 1 GB of disk and some minutes. Exit code 1 if
a check fails.
"""

import argparse
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BOUND_BYTES = 3 << 30
PNG_START = b"\x89PNG\r\n\x1a\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm", nargs="?", type=Path, default=ROOT / "target" / "release" / "ddpm")
    parser.add_argument("--files", type=int, default=100_000, help="number of small files; default: %(default)s")
    parser.add_argument("--threads", type=int, default=8, help="threads that decode; default: %(default)s")
    parser.add_argument("--keep", type=Path, help="make the folder here and keep it")
    return parser.parse_args()


# Files made by hand: libraries do not write broken ones.


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, colour: int = 2) -> bytes:
    return PNG_START + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))


def deflated(pieces) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([packer.compress(piece) for piece in pieces] + [packer.flush()])


def png(width: int, height: int, seed: int = 0, colour: int = 2) -> bytes:
    """A gradient, RGB or grey."""
    channels = {0: 1, 2: 3}[colour]
    row = b"\0" + bytes((x * 7 + seed) % 251 for x in range(width * channels))
    pixels = chunk(b"IDAT", deflated(row for _ in range(height)))
    return png_header(width, height, colour) + pixels + chunk(b"IEND", b"")


def zeros(total: int):
    return (bytes(1 << 20) for _ in range(total >> 20))


def png_stream_bomb() -> bytes:
    """64x64 pixels, and a gigabyte in the stream."""
    return png_header(64, 64) + chunk(b"IDAT", deflated(zeros(1 << 30))) + chunk(b"IEND", b"")


def png_profile_bomb(kind: bytes) -> bytes:
    """One sound pixel, and a gigabyte of colour profile (iCCP) or text (zTXt)."""
    bomb = chunk(kind, b"name\0\0" + deflated(zeros(1 << 30)))
    return png_header(1, 1) + bomb + chunk(b"IDAT", zlib.compress(b"\0\1\2\3")) + chunk(b"IEND", b"")


def gif(screen: tuple, frame: tuple) -> bytes:
    """A GIF whose screen and frame claim any size, with the data of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0;"


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(side: int) -> bytes:
    return webp(b"VP8X", b"\x02\0\0\0" + (side - 1).to_bytes(3, "little") * 2)


def webp_lossless(side: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(20))


def bmp(width: int, height: int, pixels: bytes = b"") -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + head + pixels


def small_bmp(number: int) -> bytes:
    return bmp(2, 2, number.to_bytes(4, "little") * 4)


def jpeg(side: int, **options) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert(options.pop("mode", "RGB")).save(out, "JPEG", **options)
    return out.getvalue()


def jpeg_claim(side: int) -> bytes:
    whole = bytearray(jpeg(64))
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(whole)


# The folder. Expected outcome of a file: None if decoded, else words from the reason.


def special_files() -> dict:
    """From path to (bytes, expected outcome)."""
    return {
        "large/18000 a.png": (png(18000, 18000, 1), None),
        "large/18000 b.png": (png(18000, 18000, 2), None),
        "large/18000 c.png": (png(18000, 18000, 3), None),
        "large/18000 d.png": (png(18000, 18000, 4), None),
        "large/grey 18000.png": (png(18000, 18000, 5, colour=0), None),
        "large/progressive 9000.jpg": (jpeg(9000, progressive=True, subsampling=0), None),
        "large/cmyk 9000.jpg": (jpeg(9000, progressive=True, mode="CMYK"), None),
        "large/shrunk 12000.jpg": (jpeg(12000), None),
        "large/20000.png": (png(20000, 20000), "1200000000 bytes to decode, above the limit"),
        "bombs/claim.png": (png_header(100_000, 100_000) + chunk(b"IDAT", b"x\x9c\x03\0"), "above the limit"),
        "bombs/stream.png": (png_stream_bomb(), None),
        "bombs/profile.png": (png_profile_bomb(b"iCCP"), None),
        "bombs/text.png": (png_profile_bomb(b"zTXt"), None),
        "bombs/claim.gif": (gif((65535, 65535), (65535, 65535)), "above the limit"),
        "bombs/frame.gif": (gif((1, 1), (65535, 65535)), "limit"),
        "bombs/just.gif": (gif((15000, 15000), (15000, 15000)), ""),
        "bombs/canvas.webp": (webp_canvas(1 << 24), "too large"),
        "bombs/lossless.webp": (webp_lossless(16384), ""),
        "bombs/claim.jpg": (jpeg_claim(65500), "above the limit"),
        "bombs/claim.bmp": (bmp(30000, 30000), "above the limit"),
        "bombs/negative.bmp": (bmp(-5, 7), ""),
        "names/with space and 'quotes\".bmp": (small_bmp(1), None),
        "names/-rf.bmp": (small_bmp(2), None),
        "names/new\nline\ttab\\x41.bmp": (small_bmp(3), None),
        "names/\udcff\udcfe \udce9.bmp": (small_bmp(4), None),
        "names/\u00e9\u4e16\U0001f600.BMP": (small_bmp(5), None),
        "names/" + "n" * 251 + ".bmp": (small_bmp(6), None),
        "names/rubbish \udcff.png": (b"rubbish", ""),
        "names/.bmp": (b"not listed: a name without an ending", "NOT LISTED"),
    }


def small_file(number: int) -> tuple:
    """One of many: one in fifty is rubbish of some kind."""
    kind = number % 250
    good = png(8, 8, number % 251)
    if kind == 0:
        return ".png", b"", ""
    if kind == 50:
        return ".jpg", random.Random(number).randbytes(500), ""
    if kind == 100:
        return ".png", good[: len(good) // 2], ""
    if kind == 150:
        return ".webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff", ""
    if kind == 200:
        return ".gif", b"<html>404 Not Found</html>", ""
    return (".png", good, None) if number % 2 else (".bmp", small_bmp(number), None)


def make_links(folder: Path) -> dict:
    """Links of all kinds; a dozen folders full of links to one another have 12! paths."""
    links = folder / "links"
    ring = [links / f"ring{i:02}" for i in range(12)]
    for here in ring:
        here.mkdir(parents=True)
    for here in ring:
        for there in ring:
            (here / f"to {there.name}").symlink_to(there)
    (links / "up").symlink_to("..")
    (links / "self.png").symlink_to("self.png")
    (links / "broken.png").symlink_to("nowhere")
    (links / "ring00" / "in.bmp").write_bytes(small_bmp(7))
    os.mkfifo(links / "pipe.png")
    (links / "folder.png").mkdir()
    return {"links/self.png": "", "links/broken.png": "No such file"}


def make_folder(folder: Path, files: int) -> dict:
    expected = {}
    for name, (data, words) in special_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        expected[name] = words
    del expected["names/.bmp"]
    # Begins as a JPEG and is 3 GB long, of which next to nothing is on the disk.
    with (folder / "bombs/long.jpg").open("wb") as file:
        file.write(jpeg(64)[:20])
        file.truncate(3_000_000_000)
    expected["bombs/long.jpg"] = "a file of 3000000000 bytes"
    for number in range(files):
        ending, data, words = small_file(number)
        name = f"many/{number // 1000:03}/{number:06}{ending}"
        path = folder / name
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(data)
        expected[name] = words
    expected.update(make_links(folder))
    return expected


class Churn(threading.Thread):
    """Replaces, cuts, removes and restores files for as long as it runs."""

    def __init__(self, folder: Path, count: int = 3000):
        super().__init__(daemon=True)
        folder.mkdir()
        self.paths = [folder / f"{i:04}.png" for i in range(count)]
        self.good = png(64, 64)
        self.done, self.changes = threading.Event(), 0
        for path in self.paths:
            path.write_bytes(self.good)

    def run(self):
        draws = random.Random(0)
        while not self.done.is_set():
            path = draws.choice(self.paths)
            change = draws.randrange(4)
            if change == 0:
                path.write_bytes(b"rubbish")
            elif change == 1:
                path.write_bytes(self.good[: draws.randrange(len(self.good))])
            elif change == 2:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(self.good)
            self.changes += 1
            time.sleep(0.0002)


# Running the program and reading what it kept.


def run(args, data: Path, work: Path, name: str, cache: bool = True) -> dict:
    command = [str(args.ddpm), "train", "--preset", "demo", "--steps", "1", "--sample-every", "0"]
    command += ["--device", "cpu", "--data", str(data), "--run", str(work / f"run {name}")]
    command += ["--cache", str(work / f"{name}.safetensors")] if cache else []
    environment = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    started, peak = time.monotonic(), 0
    with (work / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while child.poll() is None:
            peak = max(peak, peak_bytes(child.pid))
            time.sleep(0.02)
    return {
        "exit": child.returncode,
        "secs": time.monotonic() - started,
        "peak": peak,
        "log": (work / f"{name}.log").read_text(errors="replace"),
    }


def peak_bytes(pid: int) -> int:
    """Peak resident memory of a process; that of wait4 includes this script's own before the exec."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peaks = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    return max(peaks, default=0)


def tensors(path: Path) -> dict:
    """The text tensors of a cache."""
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start, out = file.tell(), {}
        for name in ("manifest", "skipped"):
            begin, end = header[name]["data_offsets"]
            file.seek(start + begin)
            out[name] = file.read(end - begin).decode()
    return out


def unescape(text: str) -> str:
    """A path as Python spells it, with surrogates for bytes that are not UTF-8."""
    out, at, raw = bytearray(), 0, text.encode()
    plain = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"\\": b"\\"}
    while at < len(raw):
        if raw[at : at + 1] != b"\\":
            out += raw[at : at + 1]
            at += 1
        elif raw[at + 1 : at + 2] == b"x":
            out.append(int(raw[at + 2 : at + 4], 16))
            at += 4
        else:
            out += plain[raw[at + 1 : at + 2]]
            at += 2
    return os.fsdecode(bytes(out))


def outcomes(cache: Path) -> tuple:
    """The decoded names, and the skipped ones with their reasons."""
    kept = tensors(cache)
    decoded = {unescape(line.split("\t", 1)[1]) for line in kept["manifest"].splitlines()[1:]}
    pairs = [line.split("\t", 1) for line in kept["skipped"].split("\n") if line]
    return decoded, {unescape(name): unescape(reason) for name, reason in pairs}


def complaints(expected: dict, decoded: set, skipped: dict) -> list:
    """Each file whose outcome is wrong."""
    wrong = []
    for name, words in expected.items():
        reason = skipped.get(name)
        if words is None and name not in decoded:
            wrong.append(f"{name!r} should be decoded, but: {reason}")
        elif words is not None and (not reason or words not in reason):
            wrong.append(f"{name!r} should be skipped for {words!r}, but: {reason or 'decoded or not listed'}")
    known = lambda name: name in expected or name.startswith(("churn/", "links/ring"))
    wrong += [f"{name!r} should not be listed" for name in [*decoded, *skipped] if not known(name)]
    return wrong


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def report(rows: list) -> None:
    print("| start | files | decoded | skipped | seconds | peak RSS | above only rubbish |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"bad_data: no program at {args.ddpm}; build it with cargo build --release, or name it")
    work = Path(args.keep or tempfile.mkdtemp(prefix="bad_data_"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        rows, wrong = measure(args, work)
    finally:
        if not args.keep:
            shutil.rmtree(work)
    report(rows)
    print("\n".join(wrong[:50]) or "every file is decoded or skipped with a reason, within the memory limit")
    sys.exit(1 if wrong else 0)


def measure(args, work: Path) -> tuple:
    data, rows, wrong = work / "data", [], []
    data.mkdir()
    plain, large, rubbish = work / "plain", work / "large", work / "rubbish"
    for folder in (plain, large, rubbish):
        folder.mkdir()
    for number in range(1, 21):
        (plain / f"{number}.png").write_bytes(png(8, 8, number))
    (rubbish / "a.png").write_bytes(b"rubbish")
    expected = make_folder(data, args.files)
    print(f"{len(expected)} files made", file=sys.stderr, flush=True)
    (large / "a.png").symlink_to(data / "large/18000 a.png")

    # A start that ends because no image can be read used as much memory as every start does before decoding.
    floor = run(args, rubbish, work, "rubbish", cache=False)
    assert "could be read" in floor["log"], floor["log"]

    def add(name, result, files, decoded, skipped):
        above = result["peak"] - floor["peak"]
        rows.append([name, files, decoded, skipped, f"{result['secs']:.1f}", gib(result["peak"]), gib(above)])
        print(f"{name}: exit code {result['exit']}", file=sys.stderr, flush=True)
        if result["exit"] != 0:
            wrong.append(f"{name}: exit code {result['exit']}\n{result['log'][-2000:]}")
        if above > BOUND_BYTES:
            wrong.append(f"{name}: {gib(above)} above a start on only rubbish")

    rows.append(["only rubbish", 1, 0, 1, f"{floor['secs']:.1f}", gib(floor["peak"]), "-"])
    add("20 small images", run(args, plain, work, "plain", cache=False), 20, 20, 0)
    one = run(args, large, work, "one", cache=False)
    add("one of 18,000 x 18,000", one, 1, 1, 0)
    several = run(args, data / "large", work, "several")
    if several["exit"] == 0:
        decoded, skipped = outcomes(work / "several.safetensors")
        add(f"large ones, {args.threads} threads", several, len(decoded) + len(skipped), len(decoded), len(skipped))
    else:
        add("large ones", several, "", "", "")

    churn = Churn(data / "churn")
    churn.start()
    everything = run(args, data, work, "everything")
    churn.done.set()
    churn.join()
    if everything["exit"] != 0:
        add("all", everything, "", "", "")
        return rows, wrong
    decoded, skipped = outcomes(work / "everything.safetensors")
    add("all, changing meanwhile", everything, len(decoded) + len(skipped), len(decoded), len(skipped))
    wrong += complaints(expected, decoded, skipped)
    churned = [name for name in skipped if name.startswith("churn/")]
    print(f"{churn.changes} changes of {len(churn.paths)} files meanwhile; {len(churned)} of them were skipped\n")
    # The folder no longer changes: the first of these two makes a cache, the second uses it.
    again = run(args, data, work, "still")
    decoded, skipped = outcomes(work / "still.safetensors")
    add("all, unchanged", again, len(decoded) + len(skipped), len(decoded), len(skipped))
    shutil.rmtree(work / "run still")
    cached = run(args, data, work, "still")
    add("all, from the cache", cached, len(decoded) + len(skipped), len(decoded), len(skipped))
    if "cached in" not in cached["log"]:
        wrong.append("the cache was not used\n" + cached["log"][-2000:])
    print_reasons(expected, skipped, decoded)
    print(again["log"][:3000])
    return rows, wrong


def print_reasons(expected: dict, skipped: dict, decoded: set) -> None:
    print("| file | outcome |\n|---|---|")
    for name in expected:
        if not name.startswith("many/"):
            short = name if len(name) < 50 else name[:45] + "…"
            print(f"| {short!r} | {'decoded' if name in decoded else skipped.get(name, '?')} |")
    kinds = {}
    for name, reason in skipped.items():
        if name.startswith("many/"):
            kinds.setdefault(reason, []).append(name)
    for reason, names in kinds.items():
        print(f"| {len(names)} of many/, such as {names[0]!r} | {reason} |")
    print()


if __name__ == "__main__":
    main()

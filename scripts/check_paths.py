#!/usr/bin/env python3
"""Checks that every file of this project exists that documents, scripts and comments name.

    python scripts/check_paths.py    # prints FILE:LINE and the missing path; exit 1 if there is one

Names are:

- a path that starts with one of `TOP`, as seen from the root, the folder of the text, or one between; `*` and `{a,b}`
  must match something, and of `a/NAME/b`, `a/$x/b` and `a/<x>/b` the part before counts
- in Python, `/ "weights" / "golden"`
- a link of Markdown, from the folder of the text, with its `#heading`
- the program of `cargo … --test NAME`, `--bench NAME`, `--example NAME`
- a bare `bench.sh` or `train.py` in backticks: any file of that name counts

Ignored files may be missing.
"""

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
TOP = {"src", "scripts", "tests", "docs", "weights", "fuzz", "benches", "examples", ".ci", ".cargo"}
TEXTS = {".md", ".sh", ".py", ".rs", ".toml", ".h", ".cpp"}
CARGO = {"test": "tests", "bench": "benches", "example": "examples"}

# Files of other programs, which the code names as its source.
THEIRS = {
    "ddpm.py": "Keras-DDPM",
    "ddpm2.py": "Keras-DDPM",
    "ddpm-gau.py": "Keras-DDPM",
    "adpm.py": "Keras-DDPM",
    "ddcm.py": "Keras-DDPM",
    "ddim.py": "Keras-DDPM",
    "nn.py": "the DDPM authors",
    "train_unconditional.py": "diffusers",
    "classifier_free_guidance.py": "denoising-diffusion-pytorch",
    "sample_classes.py": "written by `ddpm export` beside a network with classes",
}

TOKEN = re.compile(r"(?:\{[^{}\s]*\}|<[^<>\s]*>|\$\{?\w+\}?|[\w.*~/:-])+")
CHAIN = re.compile(r'(?:/ f?"[^"]+"\s*)+')
LINK = re.compile(r"\]\(([^()\s]+)\)")
TARGET = re.compile(r"--(test|bench|example)[ =](\w+)")
BARE = re.compile(r"`([\w-]+\.(?:sh|py))`")
OPEN_ENDED = re.compile(r"[$<]|^[A-Z][A-Z0-9_]*$")


def tracked() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


FILES = tracked()
THERE = set(FILES) | {str(folder) for name in FILES for folder in PurePosixPath(name).parents}
NAMES = {PurePosixPath(name).name for name in FILES}


def ignored(path: str) -> bool:
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def spelled_out(path: str) -> list[str]:
    """`a/{b,c}.rs` as two paths; `{x}` of a format string as `*`."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if not braces:
        return [path]
    parts = braces[1].split(",") if "," in braces[1] else ["*"]
    return [p for part in parts for p in spelled_out(path[: braces.start()] + part + path[braces.end() :])]


def exists(path: str, text: str) -> bool:
    """True if `path`, which may be a pattern, exists as seen from the file `text`."""
    for folder in PurePosixPath(text).parents:
        full = str(folder / path)
        if any(fnmatchcase(name, full) for name in THERE) if "*" in full else full in THERE:
            return True
    return ignored(path)


def project_paths(token: str) -> list[str]:
    """The paths of this project in `token`: none, one, or one for each part of `{a,b}`."""
    if "://" in token:
        return []
    token = re.sub(r"^(?:\$\{?\w+\}?/|\{\w*\}/|\.\.?/|/)*", "", token.split(":")[0]).rstrip(".-/")
    parts = token.split("/")
    if len(parts) < 2 or parts[0] not in TOP:
        return []
    for i, part in enumerate(parts):
        if OPEN_ENDED.search(part):
            parts = parts[:i]
            break
    return spelled_out("/".join(parts))


def headings(path: str) -> set[str]:
    """The anchors of a Markdown file, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_link(link: str, text: str) -> bool:
    if re.match(r"\w+:", link):
        return False
    path, _, anchor = link.partition("#")
    base = PurePosixPath(text).parent
    full = str((ROOT / base / path).resolve().relative_to(ROOT)) if path else text
    return full not in THERE or bool(anchor) and full.endswith(".md") and anchor not in headings(full)


def missing(line: str, text: str) -> list[str]:
    """The names on one line of the file `text` that do not exist."""
    paths = [path for token in TOKEN.findall(line) for path in project_paths(token)]
    if re.search(r"\bcargo\b", line):
        paths += [f"{CARGO[kind]}/{name}.rs" for kind, name in TARGET.findall(line) if not name.isupper()]
    if text.endswith(".py"):
        for chain in CHAIN.findall(line):
            paths += project_paths("/".join(re.findall(r'"([^"]+)"', chain)))
    found = [path for path in paths if not exists(path, text)]
    found += [name for name in BARE.findall(line) if name not in NAMES and name not in THEIRS]
    if text.endswith(".md"):
        found += [link for link in LINK.findall(line) if broken_link(link, text)]
    return list(dict.fromkeys(found))


def main() -> int:
    texts = [name for name in FILES if PurePosixPath(name).suffix in TEXTS or name == ".ci/run"]
    count = 0
    for text in texts:
        for number, line in enumerate((ROOT / text).read_text().splitlines(), 1):
            for name in missing(line, text):
                print(f"{text}:{number}: {name} does not exist")
                count += 1
    if not count:
        print(f"paths: every name in {len(texts)} files exists")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())

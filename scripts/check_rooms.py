#!/usr/bin/env python3
"""Checks that the imports of src/ run one way: down the list of rooms in src/lib.rs, and in no circle of files.

    python scripts/check_rooms.py                # exit 1 if an import runs up or in a circle
    python scripts/check_rooms.py --arrows       # prints every arrow between two files instead
    python scripts/check_rooms.py --map FILE     # with the list of rooms in FILE
    python scripts/check_rooms.py --strict       # also no circle of a module and what lies below it
    python scripts/check_rooms.py --self-test    # checks this script on a small made-up crate

A room is a module right below the crate's root, `main` the program. The list stands in the docs of the crate:

    //! # Rooms
    //!
    //! Imports go down this list only (`scripts/check_rooms.py` checks it):
    //!
    //! 1. [`cli`]: the commands
    //! 2. [`model`], [`data`]: two rooms of one line may not import each other,
    //! 3. [`rng`], [`mod@fs`]: unless the line calls them leaves

`main` may be left out and stands at the top. An import counts from the file that it is written in to the file that
defines what it names: a re-export is looked through, and is no import of its own when it shows what lies below its
module. A module and those below it share types by nature (`use super::Error`), so arrows between the two count in no
circle, save with --strict. Code for tests does not count. Not seen: methods called on a value, and what a macro writes.
"""

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = "ddpm"  # what src/main.rs calls the library

NOT_CODE = re.compile(
    r"""//[^\n]*
    | /\*.*?\*/
    | b?r(\#*)".*?"\1
    | b?c?"(?:\\.|[^"\\])*"
    | b?'(?:\\.[^']*|[^'\\])'
    """,
    re.X | re.S,
)
TOKEN = re.compile(r"(?:r#)?[A-Za-z_]\w*|::|->|=>|\S")
NAME = re.compile(r"(?:r#)?[A-Za-z_]\w*$")
DEFINES = {"fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"}
CLOSING = {"{": "}", "(": ")", "[": "]"}


@dataclass
class Use:
    path: tuple[str, ...]  # ends in "*" if everything is imported
    name: str  # what it is called here
    public: bool


@dataclass
class Module:
    path: tuple[str, ...]  # from the crate's root
    file: Path
    children: dict[str, "Module"] = field(default_factory=dict)
    defined: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    body: list[str] = field(default_factory=list)  # tokens, without `use` and `mod`

    @property
    def room(self) -> str:
        return self.path[0] if self.path else "main" if self.file.name == "main.rs" else ""


def tokens_of(text: str) -> list[str]:
    return TOKEN.findall(NOT_CODE.sub(lambda m: "\n" * m[0].count("\n") + " 0 " * (m[0][:1] not in "/"), text))


def after_group(tokens: list[str], at: int) -> int:
    """The index after the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        depth += (tokens[at] in "{([") - (tokens[at] in "})]")
        at += 1
        if depth == 0:
            break
    return at


def after_item(tokens: list[str], at: int) -> int:
    """The index after the item that starts at `at`, attributes included: after its `;`, or its block."""
    while at < len(tokens):
        if tokens[at] in CLOSING:
            block = tokens[at] == "{"
            at = after_group(tokens, at)
            if block and tokens[at : at + 1] != [";"]:
                return at
        elif tokens[at] in (";", ",", "}"):
            return at + (tokens[at] != "}")
        else:
            at += 1
    return at


def without_tests(tokens: list[str]) -> list[str]:
    kept, at = [], 0
    while at < len(tokens):
        if tokens[at : at + 2] == ["#", "["]:
            end = after_group(tokens, at + 1)
            if tokens[at + 2 : end - 1] in (["cfg", "(", "test", ")"], ["test"]):
                at = after_item(tokens, end)
            else:
                at = end  # other attributes import nothing
        else:
            kept.append(tokens[at])
            at += 1
    return kept


def tree_of_use(tokens: list[str], at: int, stem: tuple[str, ...], public: bool) -> tuple[list[Use], int]:
    """One branch of a `use`, up to its `,`, `}` or `;`."""
    if tokens[at] == "}":
        return [], at
    path, name = stem, None
    while tokens[at] not in (",", "}", ";"):
        token = tokens[at]
        if token == "{":
            uses, at = [], at + 1
            while tokens[at] != "}":
                if tokens[at] == ";":
                    raise ValueError(f"a `use` without its brace: {' '.join(tokens[max(0, at - 30) : at])}")
                branch, at = tree_of_use(tokens, at, path, public)
                uses += branch
                at += tokens[at] == ","
            return uses, at + 1
        if token == "as":
            name, at = tokens[at + 1], at + 1
        elif token != "::" and not (token == "self" and path):
            path += (token,)
        at += 1
    return [Use(path, name or path[-1], public)], at


def below(module: Module, name: str) -> Path:
    """The file of `mod name;`."""
    here = module.file.parent
    if module.file.stem not in ("mod", "lib", "main"):
        here /= module.file.stem
    flat = here / f"{name}.rs"
    return flat if flat.exists() else here / name / "mod.rs"


def parse(module: Module, tokens: list[str]) -> Module:
    """Fills in `module`, and its children from their files."""
    at, depth, public = 0, 0, False
    while at < len(tokens):
        token = tokens[at]
        if token == "pub":
            public = True
            at = after_group(tokens, at + 1) if tokens[at + 1] == "(" else at + 1
            continue
        if token == "use" and tokens[at + 1] != "<":  # `impl Trait + use<'_>` imports nothing
            uses, at = tree_of_use(tokens, at + 1, (), public)
            module.uses += uses
        elif token == "mod" and depth == 0:
            name = tokens[at + 1]
            child = module.children[name] = Module((*module.path, name), module.file)
            if tokens[at + 2] == ";":
                at += 2
                child.file = below(module, name)
                parse(child, without_tests(tokens_of(child.file.read_text())))
            else:
                end = after_group(tokens, at + 2)
                parse(child, tokens[at + 3 : end - 1])
                at = end - 1
        else:
            depth += (token in CLOSING) - (token in CLOSING.values())
            if token in DEFINES and depth == 0:
                module.defined.update(t for t in tokens[at + 1 : at + 3] if NAME.match(t))
            module.body.append(token)
        public = False
        at += 1
    return module


class Crate:
    def __init__(self, src: Path):
        self.src = src
        self.root, self.main = (
            parse(Module((), src / f), without_tests(tokens_of((src / f).read_text()))) for f in ("lib.rs", "main.rs")
        )

    def modules(self) -> list[Module]:
        found = [self.root, self.main]
        for module in found:
            found += module.children.values()
        return found

    def parent(self, module: Module) -> Module:
        here = self.root
        for name in module.path[:-1]:
            here = here.children[name]
        return here

    def find(self, module: Module, path: tuple[str, ...], seen: frozenset = frozenset()) -> tuple[Module, bool] | None:
        """The module that defines `path` as seen from `module`, and whether `path` is that module itself.

        None for what is not of this crate."""
        if (module.path, path) in seen:
            return None
        seen |= {(module.path, path)}
        here, first = module, True
        for i, name in enumerate(path):
            if name == "crate" or (first and module is self.main and name == CRATE):
                here = self.root
            elif name == "super":
                here = self.parent(here)
            elif name == "self":
                pass
            elif name in here.children:
                here = here.children[name]
            elif (found := self.imported(here, name, seen)) is not None:
                if not found[1]:
                    return found
                here = found[0]
            else:
                return None if first and name not in here.defined else (here, False)
            first = False
        return here, True

    def imported(self, module: Module, name: str, seen: frozenset) -> tuple[Module, bool] | None:
        if name in module.defined:
            return None
        for use in module.uses:
            if use.name == name and use.path != (name,):
                return self.find(module, use.path, seen)
        for use in (u for u in module.uses if u.name == "*"):
            found = self.find(module, use.path[:-1], seen)
            if found and (name in found[0].children or name in found[0].defined):
                return self.find(found[0], (name,), seen)
        return None

    def targets(self, module: Module) -> set[Path]:
        """The files that `module` imports from."""
        found = set()

        def arrow(path: tuple[str, ...]) -> None:
            target = self.find(module, path)
            if target:
                found.add(target[0].file)

        paths, names = mentions(module.body)
        firsts = {p[0] for p in paths}
        for path in paths:
            arrow(path)
        for use in module.uses:
            target = self.find(module, use.path if use.name != "*" else use.path[:-1])
            if target is None:
                continue
            shown = use.public and target[0].path[: len(module.path)] == module.path
            if shown and use.name not in names:
                continue  # a re-export
            if target[1] and use.name in firsts:
                continue  # a module: what the body takes from it is counted above
            found.add(target[0].file)
        return found - {module.file}


def mentions(body: list[str]) -> tuple[set[tuple[str, ...]], set[str]]:
    """Every `a::b` in the code, and every name that stands alone or first, no field or method."""
    paths, names, at = set(), set(), 0
    while at < len(body):
        start = at
        if NAME.match(body[at]):
            while body[at + 1 : at + 2] == ["::"] and at + 2 < len(body) and NAME.match(body[at + 2]):
                at += 2
            if start == 0 or body[start - 1] not in (".", "::", "fn", "let", "mut"):
                names.add(body[start])
                if at > start:
                    paths.add(tuple(body[start : at + 1 : 2]))
        at += 1
    return paths, names


def arrows_of(crate: Crate) -> dict[Path, set[Path]]:
    arrows = defaultdict(set)
    for module in crate.modules():
        arrows[module.file] |= crate.targets(module)
    return arrows


def reached(arrows: dict[Path, set[Path]], start: Path) -> dict[Path, Path]:
    """Every file that `start` leads to, with the file before it on a shortest way."""
    before, queue = {}, [start]
    for file in queue:
        for target in sorted(arrows[file]):
            if target not in before:
                before[target] = file
                queue.append(target)
    return before


def circles(arrows: dict[Path, set[Path]]) -> list[tuple[list[Path], set[Path]]]:
    """Of each knot of files that all lead to each other: a shortest way around, and the knot."""
    ways = {file: reached(arrows, file) for file in sorted(arrows)}
    found, done = [], set()
    for file, before in ways.items():
        if file in before and file not in done:
            knot = {f for f in before if file in ways[f]}
            done |= knot
            found.append((min((around(ways[f], f) for f in sorted(knot)), key=len), knot))
    return found


def around(before: dict[Path, Path], start: Path) -> list[Path]:
    way = [start, before[start]]
    while way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]


def rooms_of(text: str) -> tuple[dict[str, int], set[int]]:
    """The line of each room in the list under `# Rooms`, and the lines that are of leaves."""
    docs = "\n".join(line[3:].strip() for line in text.splitlines() if line.startswith("//!"))
    section = re.search(r"^# Rooms\n(.*?)(?=^# |\Z)", docs, re.M | re.S)
    items = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^$|\Z)", section[1] if section else "", re.M | re.S)
    if not items:
        sys.exit("check_rooms: no numbered list under `//! # Rooms`; --help shows what it looks like")
    line_of, leaves = {}, set()
    for i, item in enumerate(items):
        names = re.findall(r"`(?:mod@)?(\w+)`", re.split(r":\s", item)[0])
        if not names:
            sys.exit(f"check_rooms: no room named before the colon of {item.strip()!r}")
        line_of.update(dict.fromkeys(names, i))
        if re.search(r"\b[Ll]eaves\b", item):
            leaves.add(i)
    line_of.setdefault("main", -1)
    return line_of, leaves


def without_kin(crate: Crate, arrows: dict[Path, set[Path]]) -> dict[Path, set[Path]]:
    """The arrows but those between a module and one below it."""
    path_of = {m.file: m.path for m in reversed(crate.modules())}  # of a file's outermost module

    def kin(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
        return all(x == y for x, y in zip(a, b))

    return defaultdict(set, {f: {t for t in ts if not kin(path_of[f], path_of[t])} for f, ts in arrows.items()})


def complaints(crate: Crate, text: str, strict: bool = False) -> list[str]:
    line_of, leaves = rooms_of(text)
    room_of = {m.file: m.room for m in crate.modules() if m.room}
    there = set(room_of.values())
    said = [f"no room {r} in src/, but it stands in the list of rooms" for r in line_of if r not in there]
    said += [f"room {r} is missing in the list of rooms" for r in sorted(there - set(line_of))]

    arrows = arrows_of(crate)
    short = {file: str(file.relative_to(crate.src.parent)) for file in arrows}
    for file in sorted(arrows):
        for target in sorted(arrows[file]):
            a, b = (room_of.get(f, "") for f in (file, target))
            x, y = line_of.get(a), line_of.get(b)
            if a != b and None not in (x, y) and (x > y or (x == y and x not in leaves)):
                said.append(f"{short[file]} imports {short[target]}: {a} may not import {b}")
    for way, knot in circles(arrows if strict else without_kin(crate, arrows)):
        more = f" (with {len(knot)} files in all: {', '.join(short[f] for f in sorted(knot))})"
        said.append("circle: " + " -> ".join(short[f] for f in way) + more * (len(knot) > len(way) - 1))
    return said


def self_test() -> None:
    files = {
        "lib.rs": "//! # Rooms\n//!\n//! Down:\n//!\n//! 1. [`cli`]: x\n//! 2. [`net`]: y,\n//!    z\n"
        "//! 3. [`a`], [`mod@b`]: leaves\npub mod cli;\npub mod net;\nmod a;\nmod b;\n",
        "main.rs": "use ddpm::cli::run; fn main() { run() }",
        "cli.rs": "use crate::net::{self, Unit as U};\npub fn run() -> impl Sized + use<> "
        "{ let s = \"crate::b::x\"; net::build(); }\n"
        "#[cfg(test)]\nmod tests { use crate::b::x; }",
        "net/mod.rs": "mod layer; mod unit; pub use layer::build; pub use unit::Unit; pub struct Top { u: unit::New }",
        "net/layer.rs": "use super::Unit; pub fn build() { crate::a::f(); } // crate::b::x",
        "net/unit.rs": "use super::Top; use crate::a::*; pub struct New; "
        "pub(in crate::net) struct Unit { c: char = '{' }",
        "a.rs": "pub fn f() { crate::b::x() }",
        "b.rs": "pub fn x() {}\nfn y() { super::cli::run(); }",
    }
    wanted = {
        "main.rs": {"cli.rs"},
        "cli.rs": {"net/unit.rs", "net/layer.rs"},
        "net/layer.rs": {"net/unit.rs", "a.rs"},
        "net/mod.rs": {"net/unit.rs"},
        "net/unit.rs": {"net/mod.rs", "a.rs"},
        "a.rs": {"b.rs"},
        "b.rs": {"cli.rs"},
    }
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / "src"
        for name, text in files.items():
            (src / name).parent.mkdir(parents=True, exist_ok=True)
            (src / name).write_text(text)
        crate = Crate(src)
        arrows = {file: targets for file, targets in arrows_of(crate).items() if targets}
        seen = {str(f.relative_to(src)): {str(t.relative_to(src)) for t in ts} for f, ts in arrows.items()}
        assert seen == wanted, seen
        said = complaints(crate, files["lib.rs"])
        assert said[0].endswith("b may not import cli") and len(said) == 2, said
        assert said[1].startswith("circle: ") and "with 5 files" in said[1], said
        assert "with 6 files" in complaints(crate, files["lib.rs"], strict=True)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, default=ROOT / "src/lib.rs", metavar="FILE", help="with the list of rooms")
    parser.add_argument("--arrows", action="store_true", help="print every arrow between two files")
    parser.add_argument("--strict", action="store_true", help="count circles of a module and what lies below it too")
    parser.add_argument("--self-test", action="store_true", help="check this script on a small made-up crate")
    args = parser.parse_args()
    if args.self_test:
        self_test()
        return 0
    crate = Crate(ROOT / "src")
    if args.arrows:
        for file, targets in sorted(arrows_of(crate).items()):
            for target in sorted(targets):
                print(file.relative_to(ROOT), "->", target.relative_to(ROOT))
        return 0
    said = complaints(crate, args.map.read_text(), args.strict)
    print("\n".join(said) or "rooms: every import goes down the list, and no circle")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())

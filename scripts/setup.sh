#!/usr/bin/env bash
# Makes .venv in the repository root: Python packages, and libtorch for the Rust build at .venv/libtorch.
#
#   scripts/setup.sh                      # from any directory; a second run takes a second
#   PYTHON=python3.12 scripts/setup.sh    # with this Python (3.10 or newer)
#
# A LIBTORCH set in the shell wins over .venv/libtorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch_version=2.11.0
requirements=scripts/requirements.txt
stamp=.venv/requirements.sha256
unfinished=.venv/unfinished

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        have "$PYTHON" || fail "PYTHON is '$PYTHON', which was not found; set it to a Python 3.10 or newer, or unset it"
        new_enough "$PYTHON" || fail "PYTHON is '$PYTHON', which is not Python 3.10 or newer"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if have "$candidate" && new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or newer found" "on Debian or Ubuntu: apt install python3 python3-venv, or set PYTHON"
}

# The content of the stamp of a complete .venv. It is written last.
fingerprint() { sha256sum "$requirements" | cut -d' ' -f1; }

# True if packages can be added to .venv: it runs, has pip and the requested Python version, and no earlier
# installation was interrupted.
venv_usable() {
    local version='import sys; print(sys.version_info[:2])'
    [[ ! -e $unfinished ]] &&
        .venv/bin/python -m pip --version >/dev/null 2>&1 &&
        [[ $(.venv/bin/python -c "$version") == "$("$python" -c "$version")" ]]
}

check_libtorch() {
    local version_file=.venv/libtorch/version.py
    [[ -f $version_file ]] && grep -q "^__version__ = '$torch_version\(+[^']*\)\?'" "$version_file"
}

have g++ || fail "g++ not found; the Rust build compiles some C++" "on Debian or Ubuntu: apt install g++"
have make || fail "make not found; the build of the memory allocator (jemalloc) needs it" "on Debian or Ubuntu: apt install make"
have cargo || fail "cargo not found" "install Rust from https://rustup.rs"
python=$(find_python)

if [[ ! -f $stamp || $(<"$stamp") != "$(fingerprint)" ]] || ! check_libtorch; then
    rm -f "$stamp"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module" "on Debian or Ubuntu: apt install python3-venv"
    venv_usable || "$python" -m venv --clear .venv
    touch "$unfinished"
    echo "setup: installing into .venv (the first time, this downloads a few GB)"
    .venv/bin/python -m pip install --disable-pip-version-check -r "$requirements"
    site=$(.venv/bin/python -c 'import os, sys, sysconfig; print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')
    ln -sfn "$site/torch" .venv/libtorch
    check_libtorch || fail ".venv/libtorch is not torch $torch_version; delete .venv and run this again"
    fingerprint >"$stamp"
    rm "$unfinished"
fi

if [[ -n ${LIBTORCH:-} ]]; then
    echo "ready: .venv with torch $torch_version; LIBTORCH is set, so the Rust build will use $LIBTORCH"
else
    echo "ready: .venv with torch $torch_version; the Rust build will use .venv/libtorch"
fi

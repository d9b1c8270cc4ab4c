#!/usr/bin/env bash
# Builds the release binary, then times it against the PyTorch reference; prints a Markdown table.
#
#   scripts/bench/bench.sh                    # CPU, and CUDA where it can be used: 5 rounds
#   scripts/bench/bench.sh --quick            # 1 round, few steps
#   scripts/bench/bench.sh --device cpu --sizes demo --json raw.json
#
# DDPM_BIN: a binary that is built already; PYTHON: a Python with PyTorch, instead of .venv/bin/python.
# How to read the table, and the flags: scripts/bench/bench.py (--help).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

fail() {
    printf 'bench: %s\n' "$@" >&2
    exit 1
}

python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || fail "no Python at '$python'" "run scripts/setup.sh, or set PYTHON to one with PyTorch"

if [[ -z ${DDPM_BIN:-} ]]; then
    command -v cargo >/dev/null || fail "cargo not found" "install Rust from https://rustup.rs, or set DDPM_BIN to a built ddpm"
    (cd "$root" && cargo build --release) >&2
    DDPM_BIN=$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}/release/ddpm")
fi
export DDPM_BIN PYTHON="$python"
exec "$python" "$root/scripts/bench/bench.py" "$@"

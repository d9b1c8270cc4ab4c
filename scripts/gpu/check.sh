#!/usr/bin/env bash
# Checks ddpm on a machine with an NVIDIA GPU, in under 9 minutes; prints one report in Markdown.
#
#   scripts/gpu/check.sh >report.md
#   DDPM_BIN=path/to/ddpm PYTHON=python3.12 scripts/gpu/check.sh
#
# Needs a Python ($PYTHON, else python3) with torch 2.11 for CUDA, numpy, safetensors and packaging, whose
# libtorch ddpm then uses too. Without DDPM_BIN it builds ddpm with cargo.
#
# Every part runs, also after a failed one, and ends in "ok" or "FAILED". The exit code is 0 only if all are ok. The table of the last part is explained in scripts/bench/bench.py.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
deadline=525 # seconds, after which nothing starts or continues

fail() {
    printf 'gpu/check: %s\n' "$@" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "no Python at '$python'; set PYTHON"
missing=$("$python" -c '
import importlib.util
names = ["torch", "numpy", "safetensors", "packaging"]
print(*[n for n in names if importlib.util.find_spec(n) is None])') || fail "'$python' does not run"
[[ -z $missing ]] || fail "'$python' lacks: $missing" "install them: $python -m pip install torch==2.11.0 numpy safetensors packaging"
torch_version=$("$python" -c 'import torch; print(torch.__version__)') || fail "'$python' cannot import torch"
[[ $torch_version == 2.11.* ]] || fail "'$python' has torch $torch_version; ddpm is built for 2.11"
torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')

if [[ -z ${DDPM_BIN:-} ]]; then
    command -v cargo >/dev/null || fail "DDPM_BIN is not set and cargo is not here to build ddpm"
    (cd "$root" && LIBTORCH=$torch cargo build --release) >&2 || fail "the build failed"
    DDPM_BIN=$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}/release/ddpm")
fi
[[ -x $DDPM_BIN ]] || fail "DDPM_BIN is '$DDPM_BIN', which is not a program"
ddpm=$(realpath "$DDPM_BIN")
export DDPM_BIN=$ddpm PYTHON=$python LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work
SECONDS=0
failed=()

# limit SECONDS COMMAND...: stops it then, and at the deadline in any case.
limit() {
    local left=$((deadline - SECONDS))
    ((left > 0)) || { echo "no time left for: ${*:2}" && return 124; }
    timeout --kill-after=5 "$(($1 < left ? $1 : left))" "${@:2}" || {
        local status=$?
        ((status != 124)) || echo "out of time: ${*:2}"
        return "$status"
    }
}

# quietly COMMAND...: shows its output only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        local status=$?
        printf '```\n%s\n```\n' "$(tail -n 15 "$work/log")"
        return "$status"
    }
}

# part TITLE FUNCTION
part() {
    local began=$SECONDS
    printf '\n## %s\n\n' "$1"
    (
        set -e
        "$2"
    )
    local status=$?
    local verdict=ok
    if ((status != 0)); then
        verdict="FAILED (exit code $status)"
        failed+=("$1")
    fi
    printf '\n**%s**: %s, %d s\n' "$1" "$verdict" $((SECONDS - began))
}

doctor() {
    echo '```'
    limit 60 "$ddpm" doctor 2>&1 | tee "$work/doctor" || true
    echo '```'
    grep -q '^CUDA  *can be used' "$work/doctor"
}

parity() {
    quietly limit 90 "$ddpm" train --preset demo --steps 2 --sample-every 0 --device cpu --run "$work/parity"
    limit 90 "$python" "$root/scripts/gpu/parity.py" "$ddpm" "$work/parity" 2>&1
}

train() {
    local run=$work/train
    quietly limit 90 "$ddpm" train --preset demo --steps 50 --sample-every 0 --device cuda --run "$run"
    quietly limit 60 "$ddpm" train --run "$run" --steps 60 --device cuda
    "$python" - "$run/metrics.jsonl" <<'PYTHON'
import json, statistics, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
loss = [line["loss"] for line in lines]
if [line["step"] for line in lines] != list(range(1, 61)):
    sys.exit(f"metrics.jsonl has {len(lines)} lines, expected steps 1 to 60 once each")
first, fiftieth, last = (statistics.mean(part) for part in (loss[:5], loss[45:50], loss[50:]))
print(f"mean loss of steps 1-5: {first:.1f}, 46-50: {fiftieth:.1f}, resumed 51-60: {last:.1f}")
if not (fiftieth < first and last < first):
    sys.exit("the loss does not fall")
PYTHON
}

# With --deterministic a resumed run must end with the bytes of one that never stopped; prints the cost of that and of a
# checkpoint.
resume() {
    local steps
    for steps in 60 30; do
        quietly limit 60 "$ddpm" train --preset demo --deterministic --save-every 30 --sample-every 0 --device cuda \
            --steps $steps --run "$work/resume$steps"
    done
    quietly limit 60 "$ddpm" train --deterministic --device cuda --steps 60 --run "$work/resume30"
    cmp "$work"/resume{60,30}/checkpoints/step-00000060.safetensors && echo "- a resumed run ends with the same bytes"
    local flag
    for flag in "" --deterministic; do
        quietly limit 60 "$ddpm" train --preset celebahq128 $flag --save-every 10 --sample-every 0 --device cuda \
            --builtin-images 256 --steps 30 --run "$work/cost$flag"
        echo "- celebahq128 ${flag:-as usual}: $(sed -n 's/.*"images_per_sec":\([0-9.]*\).*/\1/p' \
            "$work/cost$flag/metrics.jsonl" | tail -n 1) img/s; $(grep -o 'longest pause for a checkpoint.*' "$work/log" || echo 'no stall')"
        rm -r "$work/cost$flag"
    done
}

memory() {
    local precision status=0
    for precision in bf16 tf32 f32; do
        quietly limit 60 "$ddpm" bench --preset celebahq128 --device cuda --precision $precision \
            --warmup 2 --iters 5 --json || { status=1 && continue; }
        "$python" - $precision "$work/log" <<'PYTHON' || status=1
import json, sys

line = next(l for l in open(sys.argv[2]) if l.startswith("{"))
result = json.loads(line)
peak = result["peak_bytes"] / 2**30
print(f"- {sys.argv[1]}: peak {peak:.2f} GiB (must be < 24), batch {result['batch']}, {result['ms_median']:.1f} ms a step")
sys.exit(not 0 < peak < 24)
PYTHON
    done
    return $status
}

bench() {
    limit "$deadline" "$python" "$root/scripts/bench/bench.py" --device cuda --rounds 2 --no-start 2>"$work/bench.log" || {
        local status=$?
        printf '\n```\n%s\n```\n' "$(tail -n 15 "$work/bench.log")"
        return "$status"
    }
}

echo "# ddpm on a GPU"
part "Doctor" doctor
part "Same numbers on CUDA, CPU and in PyTorch" parity
part "Training and resuming on CUDA" train
part "Exact resume, and the cost of it and of checkpoints" resume
part "Memory of training celebahq128 at batch 64" memory
part "Speed against PyTorch" bench

printf '\n## Result\n\n'
if ((${#failed[@]} > 0)); then
    printf -- '- FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "All parts are ok, in $SECONDS s."

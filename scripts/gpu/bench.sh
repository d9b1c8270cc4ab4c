#!/usr/bin/env bash
# Speed and memory of the celebahq128 network on a GPU against PyTorch, in one table: in each precision against eager (with
# bf16: autocast, channels last), and in bf16 against torch.compile's max-autotune; then the optimizers.
#
#   scripts/gpu/bench.sh            DDPM_BIN and PYTHON as in scripts/bench/bench.sh
#
# How to read a row: the header of scripts/bench/bench.py. Ends within 9 minutes; rows not reached by then are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
deadline=$((SECONDS + 530))
table() {
    local label=$1
    shift
    # Only the first table keeps its head.
    timeout $((deadline - SECONDS)) "$python" scripts/bench/bench.py --device "${DEVICE:-cuda}" --no-start "$@" |
        awk -v label="$label" -v head="$head" '
            /^\| (step|---)/ { if (head) print; next }
            /^\| C/ { sub(/^\| [^|]*[^ |]/, "&, " label); print; fflush() }'
    head=0
}
head=1
failed=0
table "bf16, against eager" --sizes 128 --precision bf16 --rounds 2 || failed=1
table "bf16, against compile" --sizes 128 --precision bf16 --against compile --rounds 1 || failed=1
table "tf32, against eager" --sizes 128 --precision tf32 --rounds 1 || failed=1
table "f32, against eager" --sizes 128 --precision f32 --rounds 1 || failed=1
table "f32" --sizes optimizer --precision f32 --rounds 1 || failed=1
exit $failed

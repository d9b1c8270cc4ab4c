#!/usr/bin/env bash
# Trains for an hour or more with frequent saves and grids, and prints the memory of the process every five minutes: it
# must stay level. Needs target/release/ddpm.
#
#   scripts/reliability/soak.sh [MINUTES]              default: 60
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=${1:-60}
work=$(mktemp -d)
trap 'kill $pid 2>/dev/null || true; rm -rf "$work"' EXIT
target/release/ddpm train --preset demo --builtin-images 500 --batch 8 --device cpu --threads 1 --steps 100000000 \
  --save-every 20 --sample-every 200 --sample-steps 10 --sample-images 4 --time-limit "${minutes}m" \
  --run "$work/run" 2>"$work/log" &
pid=$!
echo "| minute | step | resident MiB | anonymous MiB | threads | open files |"
echo "|---|---|---|---|---|---|"
for ((minute = 0; minute + 1 < minutes; minute += 5)); do
  sleep 60
  row() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$pid/status"; }
  step=$(tail -n 1 "$work/run/metrics.jsonl" | sed 's/{"step":\([0-9]*\).*/\1/')
  files=$(ls "/proc/$pid/fd" | wc -l)
  echo "| $((minute + 1)) | $step | $(($(row VmRSS) / 1024)) | $(($(row RssAnon) / 1024)) | $(row Threads) | $files |"
  [ $((minute + 6)) -ge "$minutes" ] || sleep 240
done
code=0
wait $pid || code=$?
tail -n 1 "$work/log"
[ $code -eq 124 ]

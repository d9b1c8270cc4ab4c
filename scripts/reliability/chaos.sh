#!/usr/bin/env bash
# Kills a training run with SIGKILL at random moments, many times over. It must end with the same bytes as an
# undisturbed run, and every checkpoint that `latest` ever named must be readable.
#
#   scripts/reliability/chaos.sh [KILLS] [SEED]        default: 200 kills; needs target/release/ddpm
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-200}
RANDOM=${2:-1}
ddpm=target/release/ddpm
work=$(mktemp -d)
pid=
trap 'kill -KILL $pid 2>/dev/null || true; rm -rf "$work"' EXIT

settings=(--preset demo --size 16 --base-width 24 --norm-groups 4 --multipliers 1,2 --timesteps 8
  --builtin-images 40 --batch 4 --flip --dropout 0.1 --save-every 1 --sample-every 9 --sample-images 4)
train() { # RUN STEPS: in the background, as $pid
  local new=()
  [ -e "$1/config.toml" ] || new=("${settings[@]}")
  "$ddpm" train "${new[@]}" --device cpu --threads 1 --steps "$2" --run "$1" 2>"$work/log" &
  pid=$!
}
named_step() {
  local name
  name=$(cat "$1/checkpoints/latest" 2>/dev/null) || { echo 0; return; }
  name=${name#step-}
  echo $((10#${name%.safetensors}))
}

inside=0 before_first=0 lost=0 unreadable=0
for ((i = 1; i <= kills; i++)); do
  before=$(named_step "$work/killed")
  train "$work/killed" 1000000
  # From before the first step to some seconds of training.
  sleep "$(printf '%d.%03d' $((RANDOM % 3)) $((RANDOM % 1000)))"
  kill -KILL $pid 2>/dev/null || { echo "ended by itself:"; cat "$work/log"; exit 1; }
  wait $pid 2>/dev/null || true
  if find "$work/killed" -name '.tmp*' 2>/dev/null | grep -q .; then inside=$((inside + 1)); fi
  after=$(named_step "$work/killed")
  if [ "$after" -eq "$before" ]; then before_first=$((before_first + 1)); fi
  if [ "$after" -lt "$before" ]; then lost=$((lost + 1)); fi
  if [ "$after" -gt 0 ] && ! "$ddpm" inspect "$work/killed" >/dev/null 2>"$work/log"; then
    unreadable=$((unreadable + 1))
    cat "$work/log"
  fi
done
done_steps=$(named_step "$work/killed")
end=$((done_steps + 9 - done_steps % 9))
for run in killed whole; do
  train "$work/$run" $end
  wait $pid
done

same() { cmp -s "$work/killed/$1" "$work/whole/$1" && echo yes || echo NO; }
last=$(printf 'step-%08d' $end)
numbers() { sed 's/,"images_per_sec.*//' "$work/$1/metrics.jsonl"; }
grids=yes
for grid in "$work"/whole/samples/*; do
  cmp -s "$grid" "$work/killed/samples/$(basename "$grid")" || grids=NO
done
cat <<TABLE
| measured | count |
|---|---|
| SIGKILLs | $kills |
| during a write (half a file was left) | $inside |
| before the start had saved anything | $before_first |
| steps of the run | $end |
| times the pointer went back | $lost |
| times the named checkpoint could not be read | $unreadable |
| last checkpoint the same bytes as the undisturbed run's | $(same checkpoints/$last.safetensors) |
| metrics of every step the same | $([ "$(numbers killed)" = "$(numbers whole)" ] && echo yes || echo NO) |
| all $(ls "$work/whole/samples" | wc -l) sample grids the same bytes | $grids |
| temporary files left at the end | $(find "$work/killed" -name '.tmp*' | wc -l) |
TABLE
[ "$lost" -eq 0 ] && [ "$unreadable" -eq 0 ] && [ "$(same checkpoints/$last.safetensors)" = yes ] && [ $grids = yes ]

#!/usr/bin/env bash
# Does something bad to one rank of a training at a random moment, many times over: kills it, stops it (as a host that
# hangs), tells it to end or to save. Two or three ranks, under torchrun. The run must end with the same bytes as an
# undisturbed one of a single process, and every checkpoint that `latest` ever named must be readable.
#
#   scripts/reliability/chaos_ranks.sh [TIMES] [SEED]        default: 50 times; needs target/release/ddpm and .venv
set -euo pipefail
cd "$(dirname "$0")/../.."
times=${1:-50}
RANDOM=${2:-1}
ddpm=$PWD/target/release/ddpm
torchrun=$PWD/.venv/bin/torchrun
work=$(mktemp -d)
agent=
trap 'kill -TERM $agent 2>/dev/null || true; rm -rf "$work"' EXIT

settings=(--preset demo --size 16 --base-width 24 --norm-groups 4 --multipliers 1,2 --timesteps 8
  --builtin-images 40 --batch 12 --accumulate 6 --flip --dropout 0.1 --save-every 3 --sample-every 9
  --sample-images 4)
words() { # RUN STEPS
  words=("$ddpm" train --device cpu --threads 1 --precision f32 --steps "$2" --run "$1")
  [ -e "$1/config.toml" ] || words+=("${settings[@]}")
}
with_ranks() { # RANKS RUN STEPS: in the background, as $agent
  words "$2" "$3"
  # A pause in which a rank is stopped must end before torchrun's own patience of 30 s does.
  "$torchrun" --no-python --nproc-per-node "$1" --monitor-interval 0.1 --master-port $((20000 + RANDOM % 9000)) -- \
    bash -c "echo \$BASHPID >$work/rank\$RANK; exec \"\$@\"" - "${words[@]}" --reduce ordered --rank-timeout 5s \
    2>"$work/log" &
  agent=$!
}
named_step() {
  local name
  name=$(cat "$1/checkpoints/latest" 2>/dev/null) || { echo 0; return; }
  name=${name#step-}
  echo $((10#${name%.safetensors}))
}

declare -A done_to=([KILL]=0 [STOP]=0 [TERM]=0 [USR1]=0)
lost=0 unreadable=0 unnamed=0 longest=0
for ((i = 1; i <= times; i++)); do
  before=$(named_step "$work/hurt")
  ranks=$((2 + RANDOM % 2))
  rm -f "$work"/rank*
  with_ranks $ranks "$work/hurt" 1000000
  until [ "$(cat "$work"/rank* 2>/dev/null | wc -l)" -eq $ranks ]; do sleep 0.05; done
  # From before the first step to some seconds of training.
  sleep "$(printf '%d.%03d' $((RANDOM % 3)) $((RANDOM % 1000)))"
  signals=(KILL STOP TERM USR1)
  signal=${signals[RANDOM % 4]}
  victim=$((RANDOM % ranks))
  since=$SECONDS
  kill -s $signal "$(<"$work/rank$victim")" 2>/dev/null || true
  done_to[$signal]=$((done_to[$signal] + 1))
  # A run that was told to save goes on, and is then killed altogether.
  if [ $signal = USR1 ]; then
    sleep 0.3
    kill -KILL "$(<"$work/rank$victim")" 2>/dev/null || true
  fi
  wait $agent || true
  took=$((SECONDS - since))
  if [ $took -gt $longest ]; then longest=$took; fi
  # Whoever remains says who is gone, unless the agent ended it before it had met the others.
  if [ $signal = KILL ] && grep -q 'saved at step' "$work/log" && ! grep -q "rank $victim (process" "$work/log"; then
    unnamed=$((unnamed + 1))
    cat "$work/log"
  fi
  after=$(named_step "$work/hurt")
  if [ "$after" -lt "$before" ]; then lost=$((lost + 1)); fi
  if [ "$after" -gt 0 ] && ! "$ddpm" inspect "$work/hurt" >/dev/null 2>"$work/log"; then
    unreadable=$((unreadable + 1))
    cat "$work/log"
  fi
done
done_steps=$(named_step "$work/hurt")
end=$((done_steps + 9 - done_steps % 9))
with_ranks 2 "$work/hurt" $end
wait $agent || { cat "$work/log"; exit 1; }
words "$work/whole" $end
OMP_NUM_THREADS=1 "${words[@]}" 2>/dev/null

same() { cmp -s "$work/hurt/$1" "$work/whole/$1" && echo yes || echo NO; }
last=$(printf 'step-%08d' $end)
numbers() { sed 's/,"images_per_sec.*//' "$work/$1/metrics.jsonl"; }
metrics=$([ "$(numbers hurt)" = "$(numbers whole)" ] && echo yes || echo NO)
grids=yes
for grid in "$work"/whole/samples/*; do
  cmp "$grid" "$work/hurt/samples/$(basename "$grid")" || grids=NO
done
cat <<TABLE
| measured | count |
|---|---|
| SIGKILLs of one of two or three ranks | ${done_to[KILL]} |
| SIGSTOPs | ${done_to[STOP]} |
| SIGTERMs | ${done_to[TERM]} |
| SIGUSR1s, and then a SIGKILL | ${done_to[USR1]} |
| steps of the run | $end |
| times the pointer went back | $lost |
| times the named checkpoint could not be read | $unreadable |
| times a killed rank was not named | $unnamed |
| longest time until all ranks had ended | $longest s |
| last checkpoint the same bytes as the undisturbed process's | $(same checkpoints/$last.safetensors) |
| metrics of every step the same | $metrics |
| all $(ls "$work/whole/samples" | wc -l) sample grids the same bytes | $grids |
| temporary files left at the end | $(find "$work/hurt" -name '.tmp*' | wc -l) |
TABLE
[ "$lost" -eq 0 ] && [ "$unreadable" -eq 0 ] && [ "$unnamed" -eq 0 ] && [ "$metrics" = yes ] && [ $grids = yes ] &&
  [ "$(same checkpoints/$last.safetensors)" = yes ]

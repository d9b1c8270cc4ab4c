#!/usr/bin/env bash
# A training run on a disk that fills up, turns read-only, is slow, or loses the run's folder; each time the run must
# continue, keep its last good checkpoint, and end with the bytes of a run on a good disk. Needs target/release/ddpm, gcc, and
# the right to mount (root, or user namespaces).
#
#   scripts/reliability/faults.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${DDPM_FAULTS_INSIDE:-}" ]; then
  DDPM_FAULTS_INSIDE=1 exec unshare --map-root-user --mount "$PWD/scripts/reliability/faults.sh" "$@"
fi
ddpm=$PWD/target/release/ddpm
work=$(mktemp -d)
disk=$work/disk
trap 'kill -KILL $pid 2>/dev/null || true; umount -l "$disk" 2>/dev/null || true; rm -rf "$work"' EXIT
pid=

settings=(--preset demo --size 16 --base-width 24 --norm-groups 4 --multipliers 1,2 --timesteps 8
  --builtin-images 40 --batch 4 --flip --save-every 20 --sample-every 0 --keep 1)
train() { # RUN STEPS LOG [PRELOAD]: in the background, as $pid
  local new=()
  [ -e "$1/config.toml" ] || new=("${settings[@]}")
  LD_PRELOAD=${4:-} "$ddpm" train "${new[@]}" --device cpu --threads 1 --steps "$2" --run "$1" 2>"$3" &
  pid=$!
}
fail() {
  echo "FAILED: $1"
  cat "$work/log"
  exit 1
}
wait_for() { # TEXT COUNT: that many lines with the text in the log
  for _ in $(seq 600); do
    [ "$(grep -c -- "$1" "$work/log" || true)" -ge "$2" ] && return
    sleep 0.1
  done
  fail "no '$1'"
}
start() {
  train "$disk/run" 1000000 "$work/log"
  for _ in $(seq 600); do
    [ -e "$disk/run/checkpoints/latest" ] && return
    sleep 0.1
  done
  fail "no first checkpoint"
}
newest() { cat "$disk/run/checkpoints/latest"; }
next_checkpoint() { # NAME: waits for one after it
  for _ in $(seq 600); do
    [ "$(newest 2>/dev/null)" != "$1" ] && return
    sleep 0.1
  done
  fail "no checkpoint after $1"
}
finish() { # stops the run, trains one step more, and compares with a run on a good disk
  kill -TERM $pid
  local code=0
  wait $pid || code=$?
  [ $code -eq 143 ] || fail "exit code $code"
  local name step
  step=$((10#$(newest | tr -dc 0-9) + 1))
  train "$disk/run" $step "$work/log2"
  wait $pid
  name=$(newest)
  train "$work/whole$step" $step "$work/log2"
  wait $pid
  cmp "$disk/run/checkpoints/$name" "$work/whole$step/checkpoints/$name" || fail "the checkpoint has other bytes than on a good disk"
  [ "$(find "$disk" -name '.tmp*' | wc -l)" -eq 0 ] || fail "temporary files are left"
  diff <(sed 's/,"images_per_sec.*//' "$disk/run/metrics.jsonl") \
    <(sed 's/,"images_per_sec.*//' "$work/whole$step/metrics.jsonl") >/dev/null || fail "the metrics differ from those on a good disk"
  echo "| $1 | $2 | step $step | yes |"
  umount "$disk"
  rm -rf "$work"/whole*
}
new_disk() { # SIZE
  mkdir -p "$disk"
  mount -t tmpfs -o size="$1" none "$disk"
}
warnings() { grep -c "is not saved" "$work/log" || true; }

echo "| fault | failed saves, each with a warning | ended at | same bytes as on a good disk |"
echo "|---|---|---|---|"

new_disk 64m
start
dd if=/dev/zero of="$disk/filler" bs=64k 2>/dev/null || true
wait_for "is not saved; earlier checkpoints are untouched: a checkpoint takes" 3
grep -q "No space left" "$work/log" || fail "the warning does not name the cause"
"$ddpm" inspect "$disk/run" >/dev/null || fail "the last good checkpoint is gone"
seen=$(newest)
rm "$disk/filler"
next_checkpoint "$seen"
finish "disk full, then room again" "$(warnings)"

new_disk 64m
start
# A mount of its own: the disk's cannot change while metrics.jsonl is open.
mount --bind "$disk/run/checkpoints" "$disk/run/checkpoints"
mount -o remount,ro,bind "$disk/run/checkpoints"
wait_for "is not saved" 3
grep -q "Read-only file system" "$work/log" || fail "the warning does not name the cause"
"$ddpm" inspect "$disk/run" >/dev/null || fail "the last good checkpoint is gone"
seen=$(newest)
umount "$disk/run/checkpoints"
next_checkpoint "$seen"
finish "checkpoints read-only, then writable again" "$(warnings)"

new_disk 64m
start
mv "$disk/run" "$disk/away"
wait_for "is not saved" 3
mv "$disk/away" "$disk/run"
seen=$(newest)
next_checkpoint "$seen"
finish "folder gone, then back" "$(warnings)"

# Each fsync of a checkpoint takes 12 s: longer than a save waits for the one before it.
cat >"$work/slow.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int fsync(int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
  char link[64], path[4096] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "/checkpoints")) sleep(12);
  return real(fd);
}
C
gcc -shared -fPIC -o "$work/slow.so" "$work/slow.c" -ldl
new_disk 64m
train "$disk/run" 20 "$work/log"
wait $pid
train "$disk/run" 1000000 "$work/log" "$work/slow.so"
wait_for "the disk is still busy with the checkpoint before it" 2
kill -TERM $pid
code=0
wait $pid || code=$?
[ $code -eq 143 ] || fail "exit code $code"
"$ddpm" inspect "$disk/run" >/dev/null || fail "the last checkpoint cannot be read"
echo "| each fsync of a checkpoint takes 12 s | $(warnings) | $(newest | sed 's/step-0*/step /; s/.safetensors//') | readable |"

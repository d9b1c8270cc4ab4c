#!/usr/bin/env bash
# Two hosts, as two network namespaces with a cable between them: a rank in each trains, and then the cable is cut. Both
# must end soon after --rank-timeout, name what is gone, and rank 0 must have saved.
#
#   sudo scripts/reliability/two_hosts.sh        needs target/release/ddpm, iproute2, and the right to make namespaces
set -euo pipefail
cd "$(dirname "$0")/../.."
ddpm=$PWD/target/release/ddpm
work=$(mktemp -d)
hosts=("ddpm-$$-0" "ddpm-$$-1")
pids=()
cleanup() {
  kill -KILL "${pids[@]}" 2>/dev/null || true
  for host in "${hosts[@]}"; do ip netns del "$host" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

for host in "${hosts[@]}"; do ip netns add "$host"; done
ip link add eth0 netns "${hosts[0]}" type veth peer name eth0 netns "${hosts[1]}"
for number in 0 1; do
  ip -n "${hosts[number]}" addr add "10.99.0.$((number + 1))/24" dev eth0
  ip -n "${hosts[number]}" link set lo up
  ip -n "${hosts[number]}" link set eth0 up
done

start() { # RUN STEPS: in the background, as $pids
  local rank
  for rank in 0 1; do
    RANK=$rank WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=10.99.0.1 MASTER_PORT=29500 OMP_NUM_THREADS=1 \
      ip netns exec "${hosts[rank]}" "$ddpm" train --device cpu --threads 1 --preset demo --size 8 --base-width 8 \
      --norm-groups 2 --multipliers 1 --timesteps 4 --builtin-images 10 --batch 4 --sample-every 0 \
      --save-every 100000 --steps "$2" --run "$1" --rank-timeout 8s 2>"$work/log$rank" &
    pids[rank]=$!
  done
}

start "$work/whole" 50
for rank in 0 1; do wait "${pids[rank]}" || { cat "$work/log$rank"; exit 1; }; done
echo "50 steps on two hosts"

start "$work/cut" 1000000
sleep 5
since=$SECONDS
ip -n "${hosts[1]}" link set eth0 down
for rank in 0 1; do
  code=0
  wait "${pids[rank]}" || code=$?
  echo "rank $rank ended with $code, $((SECONDS - since)) s after the cable was cut: $(tail -n 1 "$work/log$rank")"
  [ $code -eq 1 ] && [ $((SECONDS - since)) -le 20 ]
done
grep -q 'error: rank 1 (process .* no sign of life' "$work/log0"
grep -q 'saved at step' "$work/log0"
"$ddpm" inspect "$work/cut" >/dev/null
echo "rank 0 named it, and saved"

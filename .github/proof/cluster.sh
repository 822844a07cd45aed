#!/usr/bin/env bash
# The forecast of `tokgate cluster bench --model-network` against what two ranks do: on this machine as it is, with
# latencies that the program injects, and on a link of 1 Gbit/s between two network namespaces. Prints a table.
#
#   .github/proof/cluster.sh [MODEL.gguf] [TOKENS] [ROUNDS]      a qwen3-0.6b of made-up weights, 32 tokens, 3 rounds
#
# A forecast is made from one machine's speed. Two ranks on one machine share its memory, so that speed is measured while
# the other rank's core does the same: two ranks alone at the same time, each on its core, then the two together, then
# alone again, ROUNDS times. Base latency is that of the same two ranks with nothing injected or limited.
#
# Needs tokgate with the feature `mpi` in PATH (or TOKGATE), Open MPI, iproute2, python3, and root for the namespaces;
# without root that row is left out. The ranks' cores: CORES="0 1". Latencies: LATENCIES="160 500", in microseconds.
# Exit code: 1 if a forecast is more than 15 % off.
set -euo pipefail

tokgate=$(command -v "${TOKGATE:-tokgate}")
model=${1:-}
tokens=${2:-32}
rounds=${3:-3}
read -ra cores <<<"${CORES:-0 1}"
read -ra latencies <<<"${LATENCIES:-160 500}"
work=$(mktemp -d)
space=tokgate$$
# shellcheck disable=SC2317 # the trap calls it
finish() {
  for one in a b; do
    ip netns del "$space$one" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap finish EXIT

if [ -z "$model" ]; then
  model=$work/model.gguf
  "$tokgate" synth --preset "${PRESET:-qwen3-0.6b}" --dtype q8_0 --no-vocab "$model" >&2
fi

# A rank stays on its core.
cat >"$work/rank" <<SH
#!/bin/sh
case \$OMPI_COMM_WORLD_RANK in 0) core=${cores[0]} ;; *) core=${cores[1]} ;; esac
exec taskset -c \$core "$tokgate" "\$@"
SH
# What mpirun starts its daemon with on the other "machine": a host's name is a namespace's address.
cat >"$work/agent" <<SH
#!/bin/sh
shift
exec ip netns exec ${space}b unshare --uts sh -c "hostname ${space}b; \$*"
SH
chmod +x "$work/rank" "$work/agent"
root=()
[ "$(id -u)" != 0 ] || root=(--allow-run-as-root)
bench=(cluster bench -m "$model" -t 1 -n "$tokens" -r 1 --no-baseline -o json)

# together OUT WHERE ARGS…: two ranks, of which the result goes to OUT.
together() {
  local out=$1 where=$2
  shift 2
  local launch=(mpirun "${root[@]}" --oversubscribe --bind-to none -n 2)
  case $where in
  here) launch+=(--mca btl "self,vader") ;;
  link)
    launch=(ip netns exec "${space}a" "${launch[@]}" --host "10.77.0.1,10.77.0.2"
      --mca plm_rsh_agent "$work/agent" --mca btl "self,tcp"
      --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24)
    ;;
  esac
  "${launch[@]}" "$work/rank" "${bench[@]}" --shares 50,50 "$@" >"$out"
}

# alone OUT LATENCY,BANDWIDTH: each core runs the whole model at the same time as the other one.
alone() {
  local pids=() at
  for at in 0 1; do
    taskset -c "${cores[$at]}" "$tokgate" "${bench[@]}" --model-network "$2" >"$1.$at" &
    pids+=($!)
  done
  wait "${pids[0]}"
  wait "${pids[1]}"
}

# What a result says: `value FILE PYTHON`, an expression of the report `r`.
value() {
  python3 -c 'import json, sys; r = json.load(open(sys.argv[1]))["report"]; print(eval(sys.argv[2]))' "$1" "$2"
}

# row NAME WHERE LATENCY,BANDWIDTH ARGS…: alone, together and alone in turn; one line of the table.
row() {
  local name=$1 where=$2 network=$3 round
  shift 3
  alone "$work/alone.0" "$network"
  for ((round = 1; round <= rounds; round++)); do
    together "$work/together.$round" "$where" "$@"
    alone "$work/alone.$round" "$network"
  done
  python3 - "$work" "$rounds" "$name" <<'PYTHON'
import json, statistics, sys
work, rounds, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
report = lambda path: json.load(open(f"{work}/{path}"))["report"]
rate = lambda test: test["samples"][-1]["tokens_per_second"]
def forecast(round):
    # Both cores did the same: the mean of their times is that of a machine.
    rows = [next(row for row in report(f"alone.{round}.{core}")["table"] if row["machines"] == 2) for core in (0, 1)]
    return [statistics.mean(row["token"][key] for row in rows) for key in ("compute_ms", "exchange_ms")]
lines = []
for round in range(1, rounds + 1):
    before, after = forecast(round - 1), forecast(round)
    compute, exchange = [(a + b) / 2 for a, b in zip(before, after)]
    found = report(f"together.{round}")
    measured = rate(found["tests"][-1])
    predicted = 1e3 / (compute + exchange)
    lines.append((predicted, measured, predicted / measured - 1, exchange, found["dry_token_us"] / 1e3))
predicted, measured, off, exchange, dry = [statistics.median(column) for column in zip(*lines)]
spread = f"{100 * min(l[2] for l in lines):+.1f} to {100 * max(l[2] for l in lines):+.1f}"
print(f"| {name} | {predicted:.2f} | {measured:.2f} | {100 * off:+.1f} | {spread} | {exchange:.2f} | {dry:.2f} |", flush=True)
open(f"{work}/off", "a").write(f"{off}\n")
PYTHON
}

# plus NETWORK MICROSECONDS
plus() {
  python3 -c 'import sys; l, b = sys.argv[1].split(","); print(f"{float(l) + float(sys.argv[2])},{b}")' "$@"
}

network='"%.3f,%.3f" % (r["network"]["latency_us"], r["network"]["gbit_s"])'
echo "| network | predicted tok/s | measured | off % | of rounds | exchanges of a token, predicted ms | without computing |"
echo "|---|---:|---:|---:|---:|---:|---:|"
together "$work/base" here
base=$(value "$work/base" "$network")
row "shared memory, ${base/,/ µs, } Gbit/s" here "$base"
for latency in "${latencies[@]}"; do
  row "… and $latency µs injected" here "$(plus "$base" "$latency")" --inject-latency-us "$latency"
done

if [ "$(id -u)" = 0 ]; then
  for one in a b; do
    ip netns add "$space$one"
    ip -n "$space$one" link set lo up
  done
  ip link add veth netns "${space}a" type veth peer name veth netns "${space}b"
  ip -n "${space}a" addr add 10.77.0.1/24 dev veth
  ip -n "${space}b" addr add 10.77.0.2/24 dev veth
  for one in a b; do
    ip -n "$space$one" link set veth up
  done
  together "$work/base" link
  latency=$(value "$work/base" 'r["network"]["latency_us"]')
  for one in a b; do
    # A bucket of two packets: what a larger one holds would pass at once, which no cable does, and one packet less
    # loses time between looks at the clock.
    tc -n "$space$one" qdisc add dev veth root tbf rate 1gbit burst 4000 limit 4mb
  done
  row "veth, $(printf %.0f "$latency") µs, tbf of 1 Gbit/s" link "$latency,1"
else
  echo "tokgate: not root: no link between namespaces" >&2
fi
python3 -c 'import sys; sys.exit(any(abs(float(l)) > 0.15 for l in open(sys.argv[1])))' "$work/off"

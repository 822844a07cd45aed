#!/usr/bin/env bash
# Tokens a second of `tokgate serve` and of llama.cpp's llama-server on the same file, at 1, 4 and 16 streams: the same
# prompts to both by `tokgate load`, in turn (A B B A), both with the same number of threads and 16 slots. Prints a table.
#
#   .github/proof/streams.sh LLAMA_SERVER [THREADS] [ROUNDS]     2 threads, one round of A B B A, 3 minutes
#
# Needs tokgate with the feature `serve` in PATH (or TOKGATE) and python3, and a machine that has nothing else to do. MODEL
# is the file; without it, Qwen3-0.6B's shape with 8 of its 28 layers. STREAMS are other numbers of streams, LLAMA_FLAGS
# more flags for llama-server. Every pair has prompts of its own, so that nobody finds one computed; prompts and answers
# have 64 tokens.
set -euo pipefail

llama=$1
threads=${2:-2}
rounds=${3:-1}
tokgate=${TOKGATE:-tokgate}
read -ra flags <<<"${LLAMA_FLAGS:-}"
read -ra numbers <<<"${STREAMS:-1 4 16}"
# shellcheck source=SCRIPTDIR/servers.sh
. "$(dirname "$0")/servers.sh"
work=$temporary

model=${MODEL:-$work/model.gguf}
[ -e "$model" ] || "$tokgate" synth --preset qwen3-0.6b --layers 8 "$model" 2>/dev/null
port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
ours=http://127.0.0.1:$(port)
"$tokgate" serve -m "$model" --alias m --port "${ours##*:}" --parallel 16 --ctx-size 512 -t "$threads" 2>"$work/ours.log" &
servers+=($!)
theirs=http://127.0.0.1:$(port)
"$llama" -m "$model" --alias m --port "${theirs##*:}" -np 16 -c 8192 -t "$threads" "${flags[@]}" >"$work/theirs.log" 2>&1 &
servers+=($!)

# ask NAME URL SEED STREAMS REQUESTS
ask() {
  "$tokgate" load --url "$2" --model m --dataset random --random-input-len 64 --random-output-len 64 --tokenizer "$model" \
    --num-prompts "$5" --max-concurrency "$4" --seed "$3" --warm-up 0 --result "$work/$1-$4-$3.json" >"$work/load.log" 2>&1 || {
    cat "$work/load.log" "$work/ours.log" "$work/theirs.log" >&2
    exit 2
  }
}
for url in "$ours" "$theirs"; do
  python3 - "$url" <<'PYTHON'
import sys, time, urllib.request
for _ in range(600):
    try:
        sys.exit(urllib.request.urlopen(f"{sys.argv[1]}/health").status != 200)
    except OSError:
        time.sleep(0.1)
sys.exit("no answer")
PYTHON
  ask warm "$url" 0 4 4
done
seed=1
for _ in $(seq "$rounds"); do
  for order in "ours theirs" "theirs ours"; do
    for streams in "${numbers[@]}"; do
      for name in $order; do
        # Twice as many requests as streams.
        ask "$name" "${!name}" "$seed" "$streams" $((2 * streams))
      done
    done
    seed=$((seed + 1))
  done
done
python3 - "$work" "${numbers[@]}" <<'PYTHON'
import glob, json, statistics, sys
work = sys.argv[1]
print("| streams | tokgate, tok/s | llama-server | ratio of pairs | TPOT, ms | llama-server | TTFT, ms | llama-server |")
print("|---:|---:|---:|---:|---:|---:|---:|---:|")
for streams in map(int, sys.argv[2:]):
    runs = {}
    for name in ("ours", "theirs"):
        runs[name] = [json.load(open(path)) for path in sorted(glob.glob(f"{work}/{name}-{streams}-*.json"))]
        assert all(run["completed"] == 2 * streams and run["total_output_tokens"] == 128 * streams for run in runs[name])
    median = lambda name, key: statistics.median(run[key] for run in runs[name])
    ratios = sorted(a["output_throughput"] / b["output_throughput"] for a, b in zip(runs["ours"], runs["theirs"]))
    cells = [f"{median(name, 'output_throughput'):.1f}" for name in runs]
    cells.append(f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}]")
    cells += [f"{median(name, key):.1f}" for key in ("median_tpot_ms", "median_ttft_ms") for name in runs]
    print(f"| {streams} | {' | '.join(cells)} |")
PYTHON

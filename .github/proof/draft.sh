#!/usr/bin/env bash
# What guessing brings, and what it costs where no guess is right: `tokgate serve` without a draft model, with one that
# often knows what comes, and with one that never does, asked for the same texts in turn. Prints a table, and fails if a
# text is not the same, token for token.
#
#   .github/proof/draft.sh [FOLDER] [THREADS] [ROUNDS] [PAIRS]    2 threads, 5 rounds, 40 pairs, 17 minutes
#
# FOLDER keeps the models. PAIRS are texts of 32 tokens, without guesses and with ones that are never right, in turn: what
# such guesses cost, with the memory's ups and downs in both.
#
# Needs tokgate with the feature `serve` in PATH (or TOKGATE), python3 with the packages gguf and numpy (or PYTHON), curl,
# 6 GB of disk, and a machine that has nothing else to do. The model has the shape of Llama-2-7B with 19 layers, 4.4 GB in
# Q8_0; its draft models have one of them and the head, a tenth of what a token reads. TARGET, DRAFT and WRONG are others.
set -euo pipefail

threads=${2:-2}
rounds=${3:-5}
pairs=${4:-40}
tokgate=${TOKGATE:-tokgate}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)/draft
# shellcheck source=SCRIPTDIR/servers.sh
. "$(dirname "$0")/servers.sh"
work=${1:-$temporary}

mkdir -p "$work"
cd "$work"
target=${TARGET:-target.gguf} draft=${DRAFT:-draft.gguf} wrong=${WRONG:-wrong.gguf}
if ! [ -e "$target" ] || ! [ -e "$draft" ] || ! [ -e "$wrong" ]; then
  "$tokgate" synth --force --preset llama2-7b --layers 19 "$target"
  "$tokgate" synth --force --preset llama2-7b --layers 1 "$draft"
  "$python" "$here/pair.py" "$target" "$draft" "$wrong"
fi

guesses=(--draft-max 24 --draft-min 1 --draft-p-min 0.6)
python3 "$here/turns.py" "$pairs" "$tokgate" serve -m "$target" --lockstep 1 --ctx-size 80 -t "$threads" -- \
  --draft "$wrong" "${guesses[@]}"
echo

declare -A url
# serve NAME OPTION…
serve() {
  local name=$1
  shift
  "$tokgate" serve -m "$target" --alias m --port 0 --parallel 1 --ctx-size 1024 -t "$threads" "$@" 2>"$temporary/$name.log" &
  servers+=($!)
  for _ in $(seq 600); do
    url[$name]=$(sed -n 's|.* at \(http://[^/]*\)/v1.*|\1|p' "$temporary/$name.log")
    [ -z "${url[$name]}" ] || return 0
    sleep 0.1
  done
  cat "$temporary/$name.log" >&2
  exit 2
}
serve plain
serve good --draft "$draft" "${guesses[@]}"
serve wrong --draft "$wrong" "${guesses[@]}"

# ask NAME SEED: two texts of 128 tokens.
ask() {
  "$tokgate" load --url "${url[$1]}" --model m --dataset random --random-input-len 48 --random-output-len 128 \
    --tokenizer "$target" --num-prompts 2 --max-concurrency 1 --seed "$2" --ignore-eos --warm-up 0 \
    --result "$temporary/$1-$2.json" >"$temporary/load.log" 2>&1 || {
    cat "$temporary/load.log" "$temporary/$1.log" >&2
    exit 2
  }
}
for name in plain good wrong; do
  ask "$name" 0
  # What the first texts teach of costs is not part of the figures.
  rm "$temporary/$name-0.json"
done
for round in $(seq "$rounds"); do
  order="plain good wrong"
  ((round % 2)) || order="wrong good plain"
  for name in $order; do
    ask "$name" "$round"
  done
done
for name in good wrong; do
  curl --silent --fail "${url[$name]}/metrics" >"$temporary/$name.metrics"
done
python3 - "$temporary" "$rounds" <<'PYTHON'
import json, statistics, sys
work, rounds = sys.argv[1], int(sys.argv[2])
runs = {name: [json.load(open(f"{work}/{name}-{round}.json")) for round in range(1, rounds + 1)]
        for name in ("plain", "good", "wrong")}
assert all(run["completed"] == 2 and run["total_output_tokens"] == 256 for all in runs.values() for run in all)
counted = lambda name, what: next(float(line.split()[1]) for line in open(f"{work}/{name}.metrics")
                                  if line.startswith(f"vllm:spec_decode_num_{what}_total "))
print("| draft model | tok/s | of plain | TPOT, ms | guesses | tokens guessed | of these right | the same text |")
print("|---|---:|---:|---:|---:|---:|---:|---|")
same = True
for name, all in runs.items():
    speed = statistics.median(run["output_throughput"] for run in all)
    ratios = sorted(a["output_throughput"] / b["output_throughput"] for a, b in zip(all, runs["plain"]))
    cells = [f"{speed:.2f}", f"{statistics.median(ratios):.3f} [{ratios[0]:.3f}..{ratios[-1]:.3f}]",
             f"{statistics.median(run['median_tpot_ms'] for run in all):.1f}"]
    if name == "plain":
        cells += ["–"] * 4
    else:
        drafts, guessed, right = (counted(name, what) for what in ("drafts", "draft_tokens", "accepted_tokens"))
        equal = sum(a["generated_texts"] == b["generated_texts"] for a, b in zip(all, runs["plain"]))
        same &= equal == rounds
        cells += [f"{drafts:.0f}", f"{guessed:.0f}", f"{100 * right / max(guessed, 1):.1f} %", f"{equal} of {rounds}"]
    print(f"| {dict(plain='none', good='a good one', wrong='a wrong one')[name]} | {' | '.join(cells)} |")
sys.exit(not same)
PYTHON

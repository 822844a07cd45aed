#!/usr/bin/env bash
# Tokens per second of a whole model in the gate, where the truth is known: identical code, and a model that reads three
# percent more weights for each token. Prints a table.
#
#   .github/proof/tokens.sh [ROUNDS] [BUDGET]                 10 rounds of 3m
#
# TARGET is another program that takes turns, such as qwen3-0.6b-8l-serve-c4: four requests at once to a server, of which
# the same change makes passes of prompts slower by some more percent. Needs tokgate in PATH (or TOKGATE), git, cargo and
# python3, and half an hour for each line of the table.
set -euo pipefail

rounds=${1:-10}
budget=${2:-3m}
tokgate=${TOKGATE:-tokgate}
source=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TOKGATE_LAB=${TOKGATE_LAB:-$work/lab}

git clone --quiet "$source" "$work/repo"
cd "$work/repo"
git config user.name proof
git config user.email proof@localhost
base=$(git rev-parse HEAD)
# Two of the 28 layers go through another layer's feed-forward weights first: 20 MB more of 630.
more='if index % 14 == 3 { let other = \&weights.layers[(index + 7) % weights.layers.len()]; if let Ffn::Dense { gate, up, down } = \&other.ffn { self.dense(gate, up, down, \&normed, \&mut delta); } }'
sed -i "s/^            match &layer.ffn {\$/            $more\n&/" src/engine/forward/pass.rs
git commit --quiet --all -m "read more"
slower=$(git rev-parse HEAD)

echo "$rounds rounds of $budget, $("$tokgate" --version)"
echo
echo "| what | runs | found | praised | unsure | effects, % |"
echo "|---|---:|---:|---:|---:|---|"
for what in same slower; do
  head=$base
  [ "$what" = same ] || head=$slower
  for round in $(seq "$rounds"); do
    "$tokgate" gate --base "$base" --head "$head" --target "${TARGET:-qwen3-0.6b-tg128}" --budget "$budget" --fresh --no-checks \
      --even-if-same -o json --record "$work/record.json" >"$work/$what-$round.json" 2>"$work/log" || [ $? -eq 1 ] || {
      cat "$work/log" >&2
      exit 2
    }
  done
  python3 - "$work" "$what" <<'PYTHON'
import glob, json, sys
work, what = sys.argv[1:3]
rows = [row for path in sorted(glob.glob(f"{work}/{what}-*.json")) for row in json.load(open(path))["rows"]]
count = lambda *verdicts: sum(row["verdict"] in verdicts for row in rows)
effects = ", ".join(f"{row['time']['effect']['pct']:+.2f}" for row in rows if row["time"])
print(f"| {what} | {len(rows)} | {count('regressed')} | {count('improved')} | {count('inconclusive', 'not_measurable')} | {effects} |")
PYTHON
done

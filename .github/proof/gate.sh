#!/usr/bin/env bash
# The gate on this machine, where the truth is known: identical code, half of the time beside a neighbour that loads a
# core in bursts, and slow-downs of a known size, planted by real work into one of eight kernels. Prints a table.
#
#   .github/proof/gate.sh [ROUNDS] [BUDGET] [PER MILLE…]      10 rounds, 1m, slow-downs of 20 30 50 100 per mille
#
# Needs tokgate in PATH (or TOKGATE), git, cargo and python3. Takes about ROUNDS × BUDGET for each line of the table.
set -euo pipefail

rounds=${1:-10}
budget=${2:-1m}
sizes=("${@:3}")
((${#sizes[@]})) || sizes=(20 30 50 100)
tokgate=${TOKGATE:-tokgate}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
neighbour=
finish() {
  [ -z "$neighbour" ] || kill "$neighbour" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

cp -r "$here/sample" "$work/repo"
cd "$work/repo"
export TOKGATE_LAB=${TOKGATE_LAB:-$work/lab}
git init --quiet
git config user.name proof
git config user.email proof@localhost
printf 'target\n' >.gitignore
cargo generate-lockfile --quiet
git add --all
git commit --quiet -m base
base=$(git rev-parse HEAD)

# A core in bursts of some seconds.
bursts() {
  while :; do
    timeout "0.$((RANDOM % 9 + 1))" sh -c 'while :; do :; done' || true
    sleep "0.$((RANDOM % 9 + 1))"
  done
}

# run NAME HEAD [OPTION…]: one gate run into NAME.json.
run() {
  local name=$1 head=$2
  shift 2
  "$tokgate" gate --base "$base" --head "$head" --budget "$budget" --fresh -o json \
    --record "$work/$name.record.json" "$@" >"$work/$name.json" 2>"$work/$name.log" || [ $? -eq 1 ] || {
    cat "$work/$name.log" >&2
    exit 2
  }
}

# What the runs called NAME-* said, as a row of the table; PLANTED is the kernel that became slower in each, or none.
row() {
  python3 - "$work" "$1" "$2" <<'PYTHON'
import glob, json, sys
work, name, planted = sys.argv[1:4]
found = accused = praised = verdicts = unsure = runs = 0
for path in sorted(glob.glob(f"{work}/{name}-*.json")):
    if path.endswith(".record.json"):
        continue
    runs += 1
    slow = path.rsplit("-", 1)[1][:-5] if planted == "planted" else None
    for line in json.load(open(path))["rows"]:
        verdicts += 1
        red = line["verdict"] == "regressed"
        if line["id"] == slow:
            found += red
        else:
            accused += red
            unsure += line["verdict"] in ("inconclusive", "not_measurable")
        praised += line["verdict"] == "improved"
print(f"| {name} | {runs} | {found if planted == 'planted' else '–'} | {accused} of {verdicts} | {praised} | {unsure} |")
PYTHON
}

echo "$rounds rounds of $budget, 8 benches, $("$tokgate" --version)"
echo
echo "| what | runs | found | accused | praised | unsure |"
echo "|---|---:|---:|---:|---:|---:|"
for what in same same-loaded; do
  if [ "$what" = same-loaded ]; then
    bursts &
    neighbour=$!
  fi
  for round in $(seq "$rounds"); do
    run "$what-$round" HEAD --even-if-same
  done
  row "$what" none
done
kill "$neighbour" 2>/dev/null || true
neighbour=

kernels=(dot softmax gemv bytes parse sort scan hash)
for size in "${sizes[@]}"; do
  for round in $(seq "$rounds"); do
    at=$(((round - 1) % 8))
    again=(0 0 0 0 0 0 0 0)
    again[at]=$size
    list=$(printf ', %s' "${again[@]}")
    sed -i "s/= \[[0-9, ]*\];\$/= [${list:2}];/" src/lib.rs
    git commit --quiet --all -m "slower by $size per mille: ${kernels[at]}"
    run "slower-$size-$round-${kernels[at]}" HEAD
    git reset --quiet --hard "$base"
  done
  row "slower-$size" planted
done

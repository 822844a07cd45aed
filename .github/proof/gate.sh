#!/usr/bin/env bash
# The gate on this machine, where the truth is known: identical code, half of the time beside a neighbour that loads a
# core in bursts, and slow-downs of a known size, planted by real work into one of eight kernels. Prints a table.
#
#   .github/proof/gate.sh [--rivals] [ROUNDS] [BUDGET] [PER MILLE…]    10 rounds, 1m, slow-downs of 20 30 50 100 per mille
#
# With --rivals each pair of commits is also judged by criterion itself, by critcmp with 5 %, and by the ratio of the means
# with 10 %, from one run of the base and then one of the head that measure as long together as the gate does.
#
# Needs tokgate in PATH (or TOKGATE), git, cargo and python3, and critcmp for the rivals. Takes about ROUNDS × BUDGET for
# each line of the table, and twice that with the rivals.
set -euo pipefail

rivals=
[ "${1:-}" != --rivals ] || {
  rivals=1
  shift
  critcmp --version >/dev/null
}
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
kernels=(dot softmax gemv bytes parse sort scan hash)

# A core in bursts of some tenths of a second.
bursts() {
  while :; do
    timeout "0.$((RANDOM % 9 + 1))" sh -c 'while :; do :; done' || true
    sleep "0.$((RANDOM % 9 + 1))"
  done
}

# Seconds that criterion measures a bench of one side, of the budget's share for a bench: the rest is half a second of
# warming up.
seconds=$(python3 - "$budget" ${#kernels[@]} <<'PYTHON'
import sys
budget = float(sys.argv[1].rstrip("smh")) * {"s": 1, "m": 60, "h": 3600}.get(sys.argv[1][-1], 1)
print(max(0.5, budget / int(sys.argv[2]) / 2 - 0.5))
PYTHON
)

# rival_runs NAME HEAD: the base and then the head, as people do it.
rival_runs() {
  local name=$1 head=$2 times=(--warm-up-time 0.5 --measurement-time "$seconds" --noplot)
  git checkout --quiet "$base"
  cargo bench --quiet --bench kinds -- "${times[@]}" --save-baseline proof >"$work/$name.log" 2>&1
  git checkout --quiet "$head"
  cargo bench --quiet --bench kinds -- "${times[@]}" --baseline proof >"$work/$name.criterion" 2>"$work/$name.log"
  for percent in 5 10; do
    # It takes it for an error that nothing differs by more.
    critcmp --color never --threshold "$percent" proof new >"$work/$name.critcmp$percent" 2>"$work/$name.log" ||
      grep -q "no benchmark comparisons" "$work/$name.log"
  done
  git checkout --quiet "$base"
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
  [ -z "$rivals" ] || rival_runs "$name" "$head"
}

# rows NAME PLANTED: what the runs called NAME-* said, as rows of the table; PLANTED is whether their names end with the
# kernel that became slower.
rows() {
  python3 - "$work" "$1" "$2" "$rivals" "${kernels[@]}" <<'PYTHON'
import glob, json, re, sys
work, name, planted, rivals, *kernels = sys.argv[1:]

def gate(path):
    said = {line["id"]: line["verdict"] for line in json.load(open(path + ".json"))["rows"]}
    assert sorted(said) == sorted(kernels), said
    return said

def criterion(path):
    said, bench = {}, None
    for line in open(path + ".criterion"):
        bench = next((kernel for kernel in kernels if re.match(rf"{kernel}\s", line)), bench)
        for words, verdict in (("has regressed", "regressed"), ("has improved", "improved"),
                               ("within noise", "unchanged"), ("No change", "unchanged")):
            if words in line:
                said[bench] = verdict
    assert sorted(said) == sorted(kernels), said
    return said

def critcmp(path, percent):
    # A column of factor and time for each side, in the order of the heading; the smaller factor is 1.
    said = dict.fromkeys(kernels, "unchanged")
    sides = []
    for line in open(f"{path}.critcmp{percent}"):
        words = line.split()
        if words[:1] == ["group"]:
            sides = words[1:]
        elif words and words[0] in said:
            factors = [float(word) for word in words[1:] if re.fullmatch(r"\d+\.\d\d", word)]
            of = dict(zip(sides, factors, strict=True))
            said[words[0]] = "regressed" if of["new"] > of["proof"] else "improved"
    return said

tools = {"tokgate": gate}
if rivals:
    tools |= {"criterion": criterion, "critcmp, 5 %": lambda path: critcmp(path, 5),
              "ratio, 10 %": lambda path: critcmp(path, 10)}
paths = sorted(path[:-len(".record.json")] for path in glob.glob(f"{work}/{name}-*.record.json"))
for tool, read in tools.items():
    found = accused = praised = verdicts = unsure = 0
    for path in paths:
        slow = path.rsplit("-", 1)[1] if planted else None
        for bench, verdict in read(path).items():
            verdicts += 1
            if bench == slow:
                found += verdict == "regressed"
            else:
                accused += verdict == "regressed"
                unsure += verdict in ("inconclusive", "not_measurable")
            praised += verdict == "improved"
    found = f"{found} of {len(paths)}" if planted else "–"
    print(f"| {name} | {tool} | {len(paths)} | {found} | {accused} of {verdicts} | {praised} | {unsure} |", flush=True)
PYTHON
}

echo "$rounds rounds of $budget, 8 benches, $("$tokgate" --version)"
echo
echo "| what | judge | runs | found | accused | praised | unsure |"
echo "|---|---|---:|---:|---:|---:|---:|"
for what in same-quiet same-loaded; do
  if [ "$what" = same-loaded ]; then
    bursts &
    neighbour=$!
  fi
  for round in $(seq "$rounds"); do
    run "$what-$round" "$base" --even-if-same
  done
  rows "$what" ''
done
kill "$neighbour" 2>/dev/null || true
neighbour=

for size in "${sizes[@]}"; do
  for round in $(seq "$rounds"); do
    at=$(((round - 1) % 8))
    again=(0 0 0 0 0 0 0 0)
    again[at]=$size
    list=$(printf ', %s' "${again[@]}")
    sed -i "s/= \[[0-9, ]*\];\$/= [${list:2}];/" src/lib.rs
    git commit --quiet --all -m "slower by $size per mille: ${kernels[at]}"
    run "slower-$size-$round-${kernels[at]}" "$(git rev-parse HEAD)"
    git reset --quiet --hard "$base"
  done
  rows "slower-$size" planted
done

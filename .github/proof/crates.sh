#!/usr/bin/env bash
# The gate in repositories that know nothing of it: three crates from the registry with benches of criterion 0.5 and 0.8,
# as they are. Each against itself, and against a commit that has one of its functions do more work. Prints a table.
#
#   .github/proof/crates.sh [BUDGET]                          20s for each of the six runs
#
# Needs tokgate in PATH (or TOKGATE), git, cargo, python3 and the registry.
set -euo pipefail

budget=${1:-20s}
tokgate=${TOKGATE:-tokgate}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TOKGATE_LAB=${TOKGATE_LAB:-$work/lab}

# Crate and version; the file to change, how (a command of sed: `&` is the line); the benches that this slows down, as a
# regular expression of whole ids.
crates=(
  'httpdate 1.0.3'
  'src/lib.rs' 's/.*pub fn parse_http_date.*/&\n let _ = core::hint::black_box(s.parse::<HttpDate>());/'
  'parse_.*'
  'semver 1.0.28'
  'src/parse.rs' '/FromStr for Version {/,/fn from_str/s/.*fn from_str.*/&\n let _ = core::hint::black_box(text.parse::<VersionReq>());/'
  'parse Version'
  'itoa 1.0.19'
  'src/lib.rs' 's/.*let buf_ptr = self.bytes.*/&\n core::hint::black_box(i.write(unsafe { \&mut *buf_ptr }).len());/'
  '.*/itoa'
)

cd "$work"
cargo init --quiet --name fetch fetch
for ((at = 0; at < ${#crates[@]}; at += 4)); do
  read -r name version <<<"${crates[at]}"
  (cd fetch && cargo add --quiet "$name@=$version")
done
(cd fetch && cargo vendor --quiet "$work/vendor" >/dev/null)

echo "$budget a run, $("$tokgate" --version)"
echo
echo "| crate | criterion | benches | itself: accused, praised, unsure | more work: found | accused | praised | unsure |"
echo "|---|---|---:|---:|---:|---:|---:|---:|"
for ((at = 0; at < ${#crates[@]}; at += 4)); do
  read -r name version <<<"${crates[at]}"
  cp -r "vendor/$name" "$name"
  cd "$name"
  rm -f .cargo-checksum.json
  printf 'target\n' >.gitignore
  git init --quiet
  git config user.name proof
  git config user.email proof@localhost
  git add --all
  git commit --quiet -m base
  sed -i "${crates[at + 2]}" "${crates[at + 1]}"
  git commit --quiet --all -m "do more work"
  for what in itself slower; do
    case $what in
      itself) commits=(--base HEAD~1 --head HEAD~1 --even-if-same) ;;
      slower) commits=(--base HEAD~1) ;;
    esac
    "$tokgate" gate "${commits[@]}" --budget "$budget" --fresh -o json --record "$work/record.json" \
      >"$work/$what.json" 2>"$work/log" || [ $? -eq 1 ] || {
      cat "$work/log" >&2
      exit 2
    }
  done
  cd "$work"
  python3 - "$name $version" "${crates[at + 3]}" "$(sed -n '/dev-dependencies.criterion/,/version/s/version = //p' "$name/Cargo.toml" | tr -d '"')" <<'PYTHON'
import json, re, sys
crate, pattern, criterion = sys.argv[1:]
counts = []
for what in ("itself", "slower"):
    rows = json.load(open(f"{what}.json"))["rows"]
    slow = [row for row in rows if what == "slower" and re.fullmatch(pattern, row["id"])]
    rest = [row for row in rows if row not in slow]
    count = lambda rows, *verdicts: sum(row["verdict"] in verdicts for row in rows)
    counts.append((count(rest, "regressed"), count(rows, "improved"), count(rest, "inconclusive", "not_measurable"),
                   f"{count(slow, 'regressed')} of {len(slow)}", len(rows)))
same, more = counts
print(f"| {crate} | {criterion} | {same[4]} | {same[0]}, {same[1]}, {same[2]} | {more[3]} | {more[0]} | {more[1]} | {more[2]} |",
      flush=True)
PYTHON
done

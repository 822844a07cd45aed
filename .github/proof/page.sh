#!/usr/bin/env bash
# How soon the page of a long history can be used, and how smooth it stays: makes a repository whose commits keep baselines,
# writes its page, and lets a headless Chromium load it, write into its search, scroll and hover. Prints a table.
#
#   .github/proof/page.sh [LOADS] [clock|counts] [COMMITS] [BENCHES]     9 clock 2000 200, two minutes
#
# `counts` has the five figures of callgrind beside the time of each bench. Needs tokgate in PATH (or TOKGATE), git, python3
# and chromium (or TOKGATE_CHROMIUM).
set -euo pipefail

loads=${1:-9}
kind=${2:-clock}
tokgate=${TOKGATE:-tokgate}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

git init --quiet --initial-branch=main "$work"
printf '[package]\nname = "long"\nversion = "0.0.0"\n[lib]\npath = "lib.rs"\n' >"$work/Cargo.toml"
touch "$work/lib.rs"
python3 "$here/page/history.py" "${3:-2000}" "${4:-200}" "$kind" | git -C "$work" fast-import --quiet
(cd "$work" && "$tokgate" history --out page)
python3 "$here/page/browser.py" "$work/page/index.html" "$loads"

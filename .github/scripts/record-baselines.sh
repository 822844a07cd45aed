#!/usr/bin/env bash
# Measures what is checked out, and stores it under baselines/.
set -euo pipefail

sudo=$([ "$(id -u)" = 0 ] || echo sudo)
if ! command -v valgrind >/dev/null; then
  $sudo apt-get update -qq
  $sudo apt-get install -qq -y --no-install-recommends valgrind
fi
# The runner must be exactly of the library's version.
version=$(sed -n 's/^iai-callgrind = "\(.*\)"/\1/p' Cargo.toml)
cargo install --quiet --locked iai-callgrind-runner --version "$version" --root target/tools
export PATH=$PWD/target/tools/bin:$PATH
export IAI_CALLGRIND_SAVE_SUMMARY=json

if [ "${BASELINES_TIMES:-false}" = true ]; then
  cargo bench
else
  cargo bench --bench icount
fi
cargo run --quiet --release -- record

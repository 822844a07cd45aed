# Sourced by scripts that start servers: whose process ids they add to `servers` are stopped at the end, and `temporary` is
# a folder that goes with them.
# shellcheck shell=bash

temporary=$(mktemp -d)
servers=()
# shellcheck disable=SC2317 # the trap calls it
finish() {
  for server in "${servers[@]}"; do
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  done
  rm -rf "$temporary"
}
trap finish EXIT

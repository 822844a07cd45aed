#!/usr/bin/env bash
# Says where tokgate is installed, and names the state of its sources and compiler, by which the build is cached.
set -euo pipefail

: "${RUNNER_TEMP:?}" "${GITHUB_OUTPUT:?}"
if [ -n "${TOKGATE_BINARY:-}" ]; then
  exit
fi
sources=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
digest=$(
  cd "$sources"
  {
    rustc --version --verbose
    find Cargo.toml Cargo.lock src kernels -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c 1-32
)
{
  printf 'root=%s\n' "$RUNNER_TEMP/tokgate"
  printf 'key=tokgate-%s\n' "$digest"
} >>"$GITHUB_OUTPUT"

#!/usr/bin/env bash
# Builds tokgate from the sources that come with this action, unless one is given or there already; says where it is.
set -euo pipefail

: "${GITHUB_OUTPUT:?}"
if [ -n "${TOKGATE_BINARY:-}" ]; then
  tokgate=$(realpath -- "$TOKGATE_BINARY")
else
  sources=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
  tokgate=${TOKGATE_ROOT:?}/bin/tokgate
  if [ ! -x "$tokgate" ]; then
    # A target folder of its own: the one of the project is what is going to be measured.
    cargo install --locked --features github --path "$sources" --root "$TOKGATE_ROOT" \
      --target-dir "${RUNNER_TEMP:?}/tokgate-build"
  fi
fi
"$tokgate" --version
printf 'tokgate=%s\n' "$tokgate" >>"$GITHUB_OUTPUT"

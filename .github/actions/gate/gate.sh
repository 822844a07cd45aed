#!/usr/bin/env bash
# Runs the gate. Its verdict is an output, and the job's only after the record is uploaded and the report is written.
set -euo pipefail

: "${TOKGATE:?}" "${GATE_BASE:?}" "${GATE_HEAD:?}" "${RUNNER_TEMP:?}" "${GITHUB_OUTPUT:?}"
record=$RUNNER_TEMP/tokgate-gate/gate.json
rm -rf "$RUNNER_TEMP/tokgate-gate"
mkdir -p "$RUNNER_TEMP/tokgate-gate"

arguments=(gate --base "$GATE_BASE" --head "$GATE_HEAD" --record "$record")
if [ -n "${GATE_BUDGET:-}" ]; then
  arguments+=(--budget "$GATE_BUDGET")
fi
if [ -n "${GATE_BENCH:-}" ]; then
  arguments+=(--bench "$GATE_BENCH")
fi

code=0
"$TOKGATE" "${arguments[@]}" || code=$?
{
  printf 'code=%s\n' "$code"
  if [ -f "$record" ]; then
    printf 'record=%s\n' "$record"
  fi
} >>"$GITHUB_OUTPUT"

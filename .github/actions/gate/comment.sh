#!/usr/bin/env bash
# Reports a record: the summary always, comment and check run where the token may. The verdict is the gate's own step's,
# so that of the report is not repeated here.
set -euo pipefail

: "${TOKGATE:?}"
if [ -z "${GATE_RECORD:-}" ]; then
  text="The gate left no record (exit code ${GATE_CODE:-unknown}): the log of this job says why."
  printf '::error::%s\n' "$text"
  printf '### ! The gate cannot vouch for this change\n\n%s\n' "$text" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
  exit
fi
code=0
"$TOKGATE" comment --record "$GATE_RECORD" || code=$?
case $code in
0 | 1 | 2) ;;
*) exit "$code" ;;
esac

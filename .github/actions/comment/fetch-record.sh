#!/usr/bin/env bash
# Fetches the record that another run uploaded. A fork may have made it, so it is data of bounded size: one file is read
# out of the archive under a name that is ours, and nothing in it is run. `tokgate comment` checks its schema.
set -euo pipefail

: "${GATE_RUN:?}" "${GATE_ARTIFACT:?}" "${GITHUB_TOKEN:?}" "${GITHUB_REPOSITORY:?}" "${RUNNER_TEMP:?}" "${GITHUB_OUTPUT:?}"
max_archive=$((32 << 20))
max_record=$((256 << 20))
folder=$RUNNER_TEMP/tokgate-record
rm -rf "$folder"
mkdir -p "$folder"

case $GATE_RUN$GATE_ARTIFACT in
*[!A-Za-z0-9_-]*)
  printf '::error::no run and artifact: %q %q\n' "$GATE_RUN" "$GATE_ARTIFACT" >&2
  exit 2
  ;;
esac

# The token goes through a file descriptor, where no list of processes shows it.
get() {
  curl --silent --show-error --fail --location --proto '=https,http' --proto-redir '=https' \
    --retry 3 --max-time 300 --max-filesize "$max_archive" \
    --header 'Accept: application/vnd.github+json' \
    --config <(printf 'header = "Authorization: Bearer %s"\n' "$GITHUB_TOKEN") \
    --output "$1" "$2"
}

artifacts=${GITHUB_API_URL:-https://api.github.com}/repos/$GITHUB_REPOSITORY/actions
get "$folder/list.json" "$artifacts/runs/$GATE_RUN/artifacts?name=$GATE_ARTIFACT&per_page=100"
# Of a run that was repeated, the newest.
found=$(jq -r '[.artifacts[] | select(.expired | not)] | sort_by(.id) | last // empty | "\(.id) \(.size_in_bytes)"' \
  "$folder/list.json")
read -r id size <<<"$found" || true
if [ -z "${id:-}" ]; then
  printf '::notice::the run %s left no record\n' "$GATE_RUN"
  exit
fi
if [ "$size" -gt "$max_archive" ]; then
  printf '::error::a record of %s bytes is larger than the %s that are read\n' "$size" "$max_archive" >&2
  exit 2
fi
get "$folder/record.zip" "$artifacts/artifacts/$id/zip"
# One byte more than is allowed shows that there is more.
unzip -p "$folder/record.zip" gate.json | head -c $((max_record + 1)) >"$folder/gate.json" || true
if [ "$(stat -c %s "$folder/gate.json")" -gt "$max_record" ]; then
  printf '::error::the record is larger than the %s bytes that are read\n' "$max_record" >&2
  exit 2
fi
printf 'record=%s\n' "$folder/gate.json" >>"$GITHUB_OUTPUT"

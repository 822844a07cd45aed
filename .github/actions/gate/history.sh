#!/usr/bin/env bash
# Finds the merge base of GATE_BASE and GATE_HEAD, and fetches as much history as that needs: checkouts are shallow.
set -euo pipefail

: "${GATE_BASE:?there is nothing to compare with: set base}" "${GITHUB_OUTPUT:?}"
remote=${GATE_REMOTE:-origin}

commit() {
  git rev-parse --verify --quiet --end-of-options "$1^{commit}"
}

shallow() {
  [ "$(git rev-parse --is-shallow-repository)" = true ]
}

fetch() {
  git fetch --quiet --no-tags "$@"
}

# What a name stands for: here, at the remote, or in history that is not here yet, as of HEAD~1 in a shallow clone.
resolve() {
  commit "$1" && return
  commit "refs/remotes/$remote/$1" && return
  if fetch --depth=1 -- "$remote" "$1" 2>/dev/null; then
    commit FETCH_HEAD && return
  fi
  if shallow && fetch --unshallow -- "$remote"; then
    commit "$1" && return
  fi
  printf '::error::git knows no commit %q, neither here nor at %q\n' "$1" "$remote" >&2
  return 2
}

head=$(resolve "${GATE_HEAD:-HEAD}" | tail -n 1)
base=$(resolve "$GATE_BASE" | tail -n 1)
depth=64
until merge_base=$(git merge-base "$base" "$head"); do
  if ! shallow; then
    printf '::error::%s and %s have no commit in common\n' "$base" "$head" >&2
    exit 2
  fi
  if [ "$depth" -gt 4096 ]; then
    fetch --unshallow -- "$remote" "$base" "$head"
  else
    fetch --deepen="$depth" -- "$remote" "$base" "$head"
  fi
  depth=$((depth * 4))
done
printf 'comparing %s with %s\n' "$head" "$merge_base"
{
  printf 'head=%s\n' "$head"
  printf 'merge-base=%s\n' "$merge_base"
} >>"$GITHUB_OUTPUT"

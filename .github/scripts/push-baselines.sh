#!/usr/bin/env bash
# Commits what changed under baselines/ and pushes it to BASELINES_BRANCH. Where that is protected, or others keep being
# faster, it becomes a branch of its own with a pull request.
set -euo pipefail

: "${BASELINES_BRANCH:?}"
remote=${BASELINES_REMOTE:-origin}
own_branch=tokgate/baselines

# Unlike `git add`, this has nothing to say about a repository that has no baselines yet.
if [ -z "$(git status --porcelain -- baselines)" ]; then
  echo "the baselines are as they were"
  exit
fi
git add -A -- baselines
measured=$(git rev-parse --short=10 HEAD)
git -c user.name='github-actions[bot]' -c user.email='41898282+github-actions[bot]@users.noreply.github.com' \
  commit --quiet -m "Record the baselines of $measured" -- baselines

# The token goes through the environment, where no list of processes shows it.
if [ -n "${GITHUB_TOKEN:-}" ]; then
  export GIT_CONFIG_COUNT=1
  export GIT_CONFIG_KEY_0="http.${GITHUB_SERVER_URL:-https://github.com}/.extraheader"
  basic=$(printf 'x-access-token:%s' "$GITHUB_TOKEN" | base64 -w 0)
  printf '::add-mask::%s\n' "$basic"
  export GIT_CONFIG_VALUE_0="Authorization: Basic $basic"
fi

if [ "${BASELINES_MODE:-push}" = push ]; then
  for _ in 1 2 3; do
    if git push --quiet "$remote" "HEAD:refs/heads/$BASELINES_BRANCH"; then
      echo "pushed to $BASELINES_BRANCH"
      exit
    fi
    git fetch --quiet "$remote" "refs/heads/$BASELINES_BRANCH"
    if ! git -c user.name=tokgate -c user.email=tokgate@localhost rebase --quiet FETCH_HEAD; then
      git rebase --abort
      break
    fi
  done
fi

git push --quiet --force "$remote" "HEAD:refs/heads/$own_branch"
: "${GITHUB_TOKEN:?a pull request needs a token}" "${GITHUB_REPOSITORY:?}"
body=$(mktemp)
answer=$(mktemp)
trap 'rm -f "$body" "$answer"' EXIT
cat >"$body" <<JSON
{"title":"Record the baselines of $measured","head":"$own_branch","base":"$BASELINES_BRANCH",
 "body":"What the benches measured at $measured, for review."}
JSON
status=$(curl --silent --show-error --max-time 60 --output "$answer" --write-out '%{http_code}' \
  --header 'Accept: application/vnd.github+json' --header 'Content-Type: application/json' \
  --config <(printf 'header = "Authorization: Bearer %s"\n' "$GITHUB_TOKEN") \
  --data-binary "@$body" "${GITHUB_API_URL:-https://api.github.com}/repos/$GITHUB_REPOSITORY/pulls")
case $status in
201) echo "opened a pull request from $own_branch" ;;
# There is one already: it shows what was just pushed.
422) echo "pushed to $own_branch, whose pull request is open" ;;
*)
  printf '::error::no pull request from %s: HTTP %s\n' "$own_branch" "$status" >&2
  exit 2
  ;;
esac

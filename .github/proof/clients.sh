#!/usr/bin/env bash
# Clients as others wrote them, unmodified, against `tokgate serve`: the openai package, vLLM's bench serve (the one in
# Python and the one in Rust), guidellm, and `tokgate load` beside them with the same requests. Prints two tables: what
# the openai package asked and whether it was told what it expects, and what the load generators counted, beside what
# the server counted.
#
#   .github/proof/clients.sh [FOLDER]      FOLDER keeps the clients for the next time, and what was written
#
# Needs tokgate with the feature `serve` in PATH (or TOKGATE), python3, curl, and PyPI; the clients take 9 GB and ten
# minutes the first time, because vLLM and guidellm bring torch. Other versions: OPENAI, GUIDELLM, VLLM, TORCH. Another
# model: MODEL, a GGUF file with a vocabulary that transformers can read and a context of 2048 or more. Exit code: 1 if
# a client was told something else than it expects.
set -euo pipefail

openai=${OPENAI:-3.51.0}
guidellm=${GUIDELLM:-0.8.1}
vllm=${VLLM:-0.33.0}
torch=${TORCH:-2.14.0}
tokgate=${TOKGATE:-tokgate}
here=$(cd "$(dirname "$0")" && pwd)/clients
# shellcheck source=SCRIPTDIR/servers.sh
. "$(dirname "$0")/servers.sh"

if [ $# -gt 0 ]; then
  mkdir -p "$1"
  work=$(cd "$1" && pwd)
else
  work=$temporary
fi
cd "$work"
# Nothing is fetched but packages, and nothing is told to anybody.
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 OPENAI_API_KEY=secret
unset PYTHONDONTWRITEBYTECODE

# vLLM asks for all that its GPU kernels need; its client runs without.
pins="openai==$openai guidellm==$guidellm torch==$torch vllm==$vllm"
if [ "$(cat installed 2>/dev/null)" != "$pins" ]; then
  echo "installing $pins into $work/venv" >&2
  python3 -m venv --clear venv
  venv/bin/pip install --quiet --no-compile gguf "openai==$openai" "guidellm==$guidellm" "torch==$torch" >&2
  venv/bin/pip install --quiet --no-compile --no-deps "vllm==$vllm" >&2
  venv/bin/python "$here/requirements.py" >requirements.txt
  venv/bin/pip install --quiet --no-compile --requirement requirements.txt >&2
  echo "$pins" >installed
fi

model=${MODEL:-$work/tiny.gguf}
[ -e "$model" ] || "$tokgate" synth --preset tiny-dense "$model"
[ -e tokenizer/tokenizer.json ] || venv/bin/python "$here/inputs.py" "$model" tokenizer sharegpt.json 2>inputs.log

# serve NAME OPTION…: starts a server, whose address is then in $url.
serve() {
  local name=$1
  shift
  "$tokgate" serve -m "$model" --alias tiny --port 0 --ctx-size 2048 "$@" 2>"$name.log" &
  servers+=($!)
  for _ in $(seq 100); do
    url=$(sed -n 's|.* at \(http://[^/]*\)/v1.*|\1|p' "$name.log")
    [ -z "$url" ] || return 0
    sleep 0.1
  done
  cat "$name.log" >&2
  exit 2
}

echo "$("$tokgate" --version), $(basename "$model"), $(date +%F)"
echo
printf 'secret\n' >keys
serve narrow --parallel 1 --max-queue 1 --api-key-file keys --max-body 100000
narrow=$url
serve invariant --parallel 8 --batch-invariant
invariant=$url
serve open --parallel 8
code=0
venv/bin/python "$here/ask.py" "$url" "$narrow" "$invariant" || code=1
echo

# load NAME COMMAND…: a load generator, between two looks at what the server counts.
load() {
  local name=$1
  shift
  rm -f "$name.json"
  curl --silent --fail "$url/metrics" >"$name.before"
  timeout 600 "$@" >"$name.log" 2>&1 || echo "$name: exit code $?, see $name.log" >&2
  curl --silent --fail "$url/metrics" >"$name.after"
}

rust=$(venv/bin/python -c 'import importlib.util; print(importlib.util.find_spec("vllm").submodule_search_locations[0])')/vllm-rs
random=(--dataset-name random --random-input-len 128 --random-output-len 32 --num-prompts 64)
sharegpt=(--dataset-name sharegpt --dataset-path sharegpt.json --num-prompts 32)
common=(--max-concurrency 8 --seed 1 --ignore-eos)
for backend in openai openai-chat; do
  path=/v1/completions
  [ "$backend" = openai ] || path=/v1/chat/completions
  for set in random sharegpt; do
    asked=("${random[@]}")
    [ "$set" = random ] || asked=("${sharegpt[@]}")
    asked+=("${common[@]}" --base-url "$url" --backend "$backend" --endpoint "$path" --model tiny --tokenizer "$work/tokenizer"
      --save-result --save-detailed --result-dir .)
    load "vllm-$backend-$set" venv/bin/vllm bench serve "${asked[@]}" --temperature 0 \
      --result-filename "vllm-$backend-$set.json"
    # Its random texts must be the same tokens for the server, which texts of so small a vocabulary are not: it sends
    # the tokens themselves, or in chat nothing.
    ids=()
    [ "$set" = sharegpt ] || ids=(--prompt-token-ids)
    [ "$backend-$set" = openai-chat-random ] ||
      load "vllm-rs-$backend-$set" "$rust" bench serve "${asked[@]}" "${ids[@]}" --extra-body '{"temperature": 0}' \
        --result-filename "vllm-rs-$backend-$set.json"
  done
  load "tokgate-$backend-random" "$tokgate" load --url "$url" --backend "$backend" --dataset random \
    --random-input-len 128 --random-output-len 32 --num-prompts 64 --tokenizer "$model" --warm-up 0 \
    "${common[@]}" --result "tokgate-$backend-random.json"
  load "tokgate-$backend-sharegpt" "$tokgate" load --url "$url" --backend "$backend" --dataset sharegpt:sharegpt.json \
    --num-prompts 32 --tokenizer "$model" --warm-up 0 "${common[@]}" --result "tokgate-$backend-sharegpt.json"
  load "guidellm-$backend-random" venv/bin/guidellm run --disable-progress \
    --backend "kind=openai_http,target=$url,request_format=$path" \
    --profile kind=concurrent,streams=8 --constraint kind=max_requests,count=64 \
    --tokenizer "kind=huggingface_auto,model=$work/tokenizer" \
    --data kind=synthetic_text,prompt_tokens=128,output_tokens=32 \
    --output "kind=json,path=$work/guidellm-$backend-random.json"
done
venv/bin/python "$here/table.py" "$("$tokgate" --version | cut -d' ' -f2)" || code=1
exit "$code"

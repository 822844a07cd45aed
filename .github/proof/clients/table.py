"""table.py VERSION: what the load generators counted in the working folder, beside what the server counted. Exit code 1
if a request failed or the tokens of the answers differ."""

import importlib.metadata
import json
import pathlib
import sys

VERSIONS = {
    "vllm": ("vllm bench serve", importlib.metadata.version("vllm")),
    "vllm-rs": ("vllm-rs bench serve", importlib.metadata.version("vllm")),
    "guidellm": ("guidellm run", importlib.metadata.version("guidellm")),
    "tokgate": ("tokgate load", sys.argv[1]),
}
ASKED = {"random": 64, "sharegpt": 32}


def counter(name, when, metric):
    for line in pathlib.Path(f"{name}.{when}").read_text().splitlines():
        if line.startswith(metric + " "):
            return float(line.split()[1])
    raise SystemExit(f"{name}.{when} has no {metric}")


def vllm(result):
    times = [result[f"median_{time}_ms"] for time in ("ttft", "tpot", "itl")]
    return result["completed"], result["total_input_tokens"], result["total_output_tokens"], times


def guidellm(result):
    metrics = result["benchmarks"][0]["metrics"]
    total = lambda metric: round(metrics[metric]["successful"]["total_sum"])
    median = lambda metric: metrics[metric]["successful"]["median"]
    # What guidellm calls the latency between tokens is what vLLM calls the time of an output token.
    times = [median("time_to_first_token_ms"), median("inter_token_latency_ms"), None]
    return metrics["request_totals"]["successful"], total("prompt_token_count"), total("output_token_count"), times


print("| client | version | backend, set | ok / asked | answers: client, server | prompts: client, server | TTFT, ms | TPOT | ITL |")
print("|---|---|---|---:|---:|---:|---:|---:|---:|")
differs = False
for backend in ("openai", "openai-chat"):
    for data in ASKED:
        for client, (called, version) in VERSIONS.items():
            name = f"{client}-{backend}-{data}"
            if not pathlib.Path(f"{name}.after").exists():
                continue
            heard = {
                kind: round(counter(name, "after", metric) - counter(name, "before", metric))
                for kind, metric in [("answers", "vllm:generation_tokens_total"), ("prompts", "vllm:prompt_tokens_total")]
            }
            row = f"| {called} | {version} | {backend}, {data} |"
            result = pathlib.Path(f"{name}.json")
            if not result.exists():
                differs = True
                print(f"{row} **no result** | | | | | |")
                continue
            read = guidellm if client == "guidellm" else vllm
            completed, prompts, answers, times = read(json.loads(result.read_text()))
            differs |= completed != ASKED[data] or answers != heard["answers"]
            shown = " | ".join("" if time is None else f"{time:.2f}" for time in times)
            print(
                f"{row} {completed} / {ASKED[data]} | {answers}, {heard['answers']} | {prompts}, {heard['prompts']} | {shown} |"
            )
sys.exit(differs)

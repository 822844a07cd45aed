"""A stream for `git fast-import`: COMMITS commits that keep the baselines of BENCHES benches, the same at every run.

    python3 history.py COMMITS BENCHES clock|counts | git fast-import

One machine measures every commit and another every tenth, `counts` adds the five figures that callgrind counts. Levels
change, by one commit for many benches at once; runs are missing, and benches come, go, and have names of every length.
"""
import json
import random
import sys

commits, benches, counted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "counts"
random.seed(7)

KEYS = {"x86_64-amd-epyc-f26m2s1-2c-00000001": 1, "x86_64-intel-xeon-f6m143s8-2c-00000002": 10}
COUNTS = "callgrind-x86_64-authenticamd-f26-rustc-1.95.0"
VARIANTS = {"scalar": 2e9, "avx2": 6e10, "avx512vnni": 4e11, "avx512bf16": 5e11}
BANDWIDTH = 4.5e10
NOUNS = "the scales|a row of weights|blocks of 32|the tail|the KV cache|short prompts".split("|")
VERBS = "Load|Unroll|Prefetch|Split|Hoist|Simplify".split("|")


def ids():
    for shape in range(benches):
        for op in ("matmul/q8_0", "matmul/bf16", "attention/bf16", "moe/q8_0", "dot/f32"):
            for variant in VARIANTS:
                rows, inner = (1, 4, 32, 128, 512)[shape % 5], 1024 * (1 + shape // 5)
                yield f"{op}/{variant}/m{rows}_k{inner}_n4096", rows, inner, variant


def noise(spread):
    return 1 + random.gauss(0, spread) + (random.random() < 0.01) * random.random()


def bench(at, name, rows, inner, variant):
    elements, size = rows * inner * 4096, inner * 4096 + 4 * rows * (inner + 4096)
    ns = 1e9 * max(elements / VARIANTS[variant], size / BANDWIDTH) * random.uniform(1.05, 3)
    # Names of other harnesses have no grammar, and no work.
    if at % 50 == 7:
        name = "parser::" + "nested::" * (at % 9) + f"Visitor<'a, T> where T: Read/case {at}"
    works = {} if at % 50 == 7 else {"elements": elements, "bytes": size}
    moves = {random.randrange(commits): random.choice((0.8, 0.93, 1.06, 1.3)) for _ in range(random.randrange(4))}
    if at % 3 == 0:
        moves[commits * 97 // 100] = 1.12
    born, gone = (commits * 3 // 4 if at % 40 == 5 else 0), (commits // 3 if at % 40 == 9 else commits)
    return {"name": name, "works": works, "ns": ns, "moves": moves, "born": born, "gone": gone, "rare": at % 5 == 1,
            "noise": random.choice((0.003, 0.01, 0.03)), "instructions": elements // 16}


def data(text):
    return f"data {len(text.encode())}\n{text}\n"


def run(stamp, harness):
    return json.dumps({"run": f"all@{stamp}", "measured_at": stamp, "witness": "bench", "harness": harness, "dirty": False,
                       "rustc": "rustc 1.95.0 (59807616e 2026-04-14)", "target": "x86_64-unknown-linux-gnu", "rustflags": "",
                       "profile": "bench", "cpu": "AMD EPYC" if harness == "callgrind" else "Processor with a name", "cpus": 2})


def baseline(key, stamp, harness, rows):
    head = json.dumps({"schema": 1, "machine_key": key})
    return f"M 100644 inline baselines/{key}/baseline.jsonl\n" + data("\n".join([head, run(stamp, harness), *sorted(rows)]) + "\n")


all_ids = ids()
every = [bench(at, *next(all_ids)) for at in range(benches)]
for commit in range(commits):
    time = 1_600_000_000 + commit * 86_400
    stamp = f"{2020 + commit // 336}-{1 + commit // 28 % 12:02}-{1 + commit % 28:02}T12:00:00Z"
    subject = f"{random.choice(VERBS)} {random.choice(NOUNS)} ({commit})" + " and say why at great length" * (commit % 17 == 3)
    who = f"{random.choice(('Ada', 'Barbara Liskov', 'Edsger'))} <t@example.org> {time} +0000"
    print(f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n{data(subject)}", end="")
    there = []
    for one in every:
        one["ns"] *= one["moves"].get(commit, 1)
        one["instructions"] = int(one["instructions"] * one["moves"].get(commit, 1))
        if one["born"] <= commit < one["gone"] and not (one["rare"] and commit // 40 % 3 == 1):
            there.append(one)
    for at, (key, each) in enumerate(KEYS.items()):
        if commit % each == 0:
            rows = []
            for one in there:
                level = one["ns"] * noise(one["noise"]) * (1 + at)
                samples = [int(100 * level * noise(one["noise"])) for _ in range(10)]
                rows.append(json.dumps({"bench": one["name"], "run": f"all@{stamp}", **one["works"], "iters": 100, "total_ns": samples}))
            print(baseline(key, stamp, "criterion", rows), end="")
    if counted:
        rows = []
        for one in there:
            counts = {"instructions": one["instructions"], "l1_hits": one["instructions"] * 5 // 4 + random.randrange(4),
                      "ll_hits": one["instructions"] // 90 + random.randrange(9), "ram_hits": random.randrange(3, 9),
                      "estimated_cycles": one["instructions"] * 4 // 3 + random.randrange(300)}
            rows.append(json.dumps({"bench": one["name"], "run": f"all@{stamp}", "counts": counts}))
        print(baseline(COUNTS, stamp, "callgrind", rows), end="")

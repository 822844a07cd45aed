"""turns.py PAIRS COMMAND… -- OPTION…: two programs that take turns, COMMAND and COMMAND OPTION…, pass by pass (A B B A), and
how much longer the second one's passes take. Neighbours in time see the same memory; what is said is the median of the
ratios of neighbours and where it lies with 95 % confidence, by their order."""

import json
import math
import subprocess
import sys

pairs, rest = int(sys.argv[1]), sys.argv[2:]
cut = rest.index("--")
lines = [rest[:cut], rest[:cut] + rest[cut + 1 :]]
programs = [
    subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in lines
]


def ask(which):
    program = programs[which]
    program.stdin.write("\n")
    program.stdin.flush()
    return int(program.stdout.readline())


name = [json.loads(program.stdout.readline())["id"] for program in programs][0]
# What the first passes teach of costs is not part of the figures.
for which in (0, 1, 1, 0, 0, 1):
    ask(which)
ratios = []
for pair in range(pairs):
    times = {which: ask(which) for which in ((0, 1) if pair % 2 == 0 else (1, 0))}
    ratios.append(times[1] / times[0])
for program in programs:
    program.stdin.close()
    program.wait()
ratios.sort()
middle = (ratios[(pairs - 1) // 2] + ratios[pairs // 2]) / 2
reach = 1.96 * math.sqrt(pairs) / 2
low = ratios[max(0, math.floor((pairs - 1) / 2 - reach))]
high = ratios[min(pairs - 1, math.ceil((pairs - 1) / 2 + reach))]
mean = math.exp(sum(math.log(ratio) for ratio in ratios) / pairs)
print(f"{name}: a pass takes {middle:.3f} times as long [{low:.3f}..{high:.3f}], on the average {mean:.3f}, {pairs} pairs")
quarter = pairs // 4
print(f"half of the pairs from {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}, all from {ratios[0]:.3f} to {ratios[-1]:.3f}")

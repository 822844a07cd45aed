"""inputs.py MODEL TOKENIZER SHAREGPT: the model's vocabulary as a folder that transformers reads, and a small file in the
shape of ShareGPT's."""

import json
import pathlib
import random
import sys

from transformers import AutoTokenizer

model, tokenizer, sharegpt = map(pathlib.Path, sys.argv[1:4])
AutoTokenizer.from_pretrained(str(model.parent), gguf_file=model.name).save_pretrained(str(tokenizer))
draw = random.Random(7)
words = "kernel cache thread matrix vector panel token block lane fused slower faster branch layer row column".split()


def text(least, most):
    return " ".join(draw.choices(words, k=draw.randint(least, most)))


conversations = [
    {
        "id": str(number),
        "conversations": [
            {"from": "human", "value": text(5, 60)},
            {"from": "gpt", "value": text(4, 20)},
        ],
    }
    for number in range(60)
]
sharegpt.write_text(json.dumps(conversations))

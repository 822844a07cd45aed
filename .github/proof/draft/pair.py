"""pair.py TARGET DRAFT WRONG: makes of two files of `tokgate synth`, of which DRAFT has the first layer of TARGET, a model
and one that guesses well for it; and of DRAFT one that never guesses right.

What the other layers of TARGET add to the residual stream is made small, so that the first layer alone often knows what
comes; and the logits of all are made steeper, as those of trained models are, so that how sure DRAFT is tells something.
Needs the packages gguf and numpy."""

import shutil
import sys

import numpy
from gguf import GGUFReader

ADDED, STEEPER = 0.03, 12.0


def scale(path, factor):
    """Multiplies the scales of the Q8_0 blocks of each tensor by what `factor` says of its name."""
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        by = factor(tensor.name)
        if by != 1:
            blocks = tensor.data.reshape(-1, 34)
            scales = blocks[:, :2].copy().view(numpy.float16)
            blocks[:, :2] = (scales.astype(numpy.float32) * by).astype(numpy.float16).view(numpy.uint8)


def target(name):
    later = name.startswith("blk.") and not name.startswith("blk.0.")
    if later and name.endswith(("attn_output.weight", "ffn_down.weight")):
        return ADDED
    return head(name)


def head(name):
    return STEEPER if name == "output.weight" else 1


scale(sys.argv[1], target)
scale(sys.argv[2], head)
shutil.copyfile(sys.argv[2], sys.argv[3])
scale(sys.argv[3], lambda name: -1 if name == "output.weight" else 1)

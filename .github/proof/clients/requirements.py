"""What vLLM's metadata asks for, without what only its kernels for GPUs need, and without torch, which is there."""

import importlib.metadata
import re

GPU = re.compile(
    r"(torch|nvidia|nvtx|pynv|flashinfer|apache-tvm|tilelang|quack|tokenspeed|humming|fastsafetensors|instanttensor)",
    re.IGNORECASE,
)

for requirement in importlib.metadata.requires("vllm"):
    if "extra ==" not in requirement and not GPU.match(requirement):
        print(requirement)

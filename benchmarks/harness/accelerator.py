"""Large random models on an accelerator, and how long work takes there.

In: a shape, a device. Out: a reward model in bfloat16; wall seconds. Ignorant of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import rewarden
from harness.models import WORDS, Shape, random_model, tokenizer

PEAKS = {"H200": 989.0, "H100 80GB HBM3": 989.0, "A100": 312.0}
"""bfloat16 TFLOP/s without sparsity, by a part of the device's name: the makers' data sheets."""


def reward_model(shape: Shape, device: str, n_words: int = WORDS) -> rewarden.RewardModel:
    """Random weights in bfloat16, made where they stay."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = random_model(shape, n_words).requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    return rewarden.RewardModel(model, tokenizer(n_words), check=False)


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall seconds of one call, the accelerator's queue included."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def peak_of(name: str) -> float | None:
    """Stated TFLOP/s of a device, None where we do not know it.

    Example:
        >>> peak_of("NVIDIA H200"), peak_of("cpu")
        (989.0, None)
    """
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def matmul_rate(device: str, tokens: int, width: int, inner: int) -> float:
    """TFLOP/s of one bare product [tokens, width] × [width, inner] in bfloat16, the best of five."""
    left = torch.randn(tokens, width, dtype=torch.bfloat16, device=device)
    right = torch.randn(width, inner, dtype=torch.bfloat16, device=device)
    took = [seconds(lambda: left @ right, device) for _ in range(6)]
    return 2e-12 * tokens * width * inner / min(took[1:])  # the first warms up

"""How long does a scan of a whole vocabulary take on an 8B-shaped reward model and one accelerator?

`python benchmarks/vocabulary_gpu.py --out benchmarks/results` makes a random Llama of the shape of Llama-3.1-8B in bfloat16 on
the accelerator, with 128,256 tokens, and scores every one of them as the response to a prompt of 22 tokens. It prints seconds,
TFLOP/s, and their fraction of the device's stated peak. Without an accelerator it says so; `--smoke` runs the same code on tiny
sizes anywhere. Ignorant of how the work is done.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from harness import results
from harness.accelerator import matmul_rate, peak_of, reward_model, seconds
from harness.models import SPECIAL, TEMPLATE_TOKENS, WORDS, Shape, words
from harness.timing import machine
from harness.tokens import rows_of, whole

import rewarden
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.slot import find_slot

LARGE, VOCABULARY, PROMPT = Shape(layers=32, width=4096, heads=32, kv_heads=8, inner=14336), 128_256, 22
SMALL, FEW, SHORT = Shape(layers=2, width=32, heads=4, kv_heads=2, inner=48), len(SPECIAL) + WORDS, 12
WHOLE = 512
"""Rows of one batch of whole rows; four such batches are timed and scaled to the vocabulary."""


def work(shape: Shape, candidates: int, tokens: int) -> float:
    """TFLOP that candidates need whose slot and suffix are so many tokens: products with weights only, two for each weight and
    token; of the last layer, keys and values of all of them and the rest of one."""
    share, head = shape.key_share(), shape.width // shape.heads
    layer = shape.width * (2 * shape.heads * head + 2 * shape.kv_heads * head + 3 * shape.inner)
    return 2e-12 * layer * candidates * ((shape.layers - 1) * tokens + share * (tokens - 1) + 1)


def measure(shape: Shape, vocabulary: int, prompt: int, device: str, peak: float | None) -> dict[str, object]:
    """The scan in seconds and TFLOP/s, and what it is compared with."""
    rm = reward_model(shape, device, vocabulary - len(SPECIAL))
    text, ids = words(prompt - TEMPLATE_TOKENS + 1, random.Random(0)), np.arange(vocabulary)
    slot = find_slot(rm, text)
    assert (slot.start, slot.after.length) == (prompt, 1)
    candidates = Candidates(rm, slot)
    base = candidates.base(ids[-1:])
    candidates.substitute(base, np.zeros(len(ids[:4096]), np.int64), ids[:4096])  # warms up
    scores: list[np.ndarray] = []
    took = seconds(lambda: scores.append(candidates.substitute(
        candidates.base(ids[-1:]), np.zeros(vocabulary, np.int64), ids)[:, 0]), device)
    sample = torch.from_numpy(ids[:min(vocabulary, 4 * WHOLE)]).to(device)[:, None]
    rows = rows_of(torch.from_numpy(slot.before.ids).to(device), sample, torch.from_numpy(slot.after.ids).to(device))
    plain = whole(rm.model, rows, WHOLE).float().cpu().numpy()  # warms up
    naive = seconds(lambda: whole(rm.model, rows, WHOLE), device) * vocabulary / len(rows)
    rate = work(shape, vocabulary, 2) / took
    product = matmul_rate(device, 8192 if device == "cuda" else 64, shape.width, shape.inner)
    return {"scan, base run included": {"target": "<= 10 s", "seconds": took, "candidates per second": vocabulary / took,
                                        "TFLOP/s": rate, "stated peak, TFLOP/s": peak,
                                        "fraction of the stated peak": rate / peak if peak else None,
                                        "bare product, TFLOP/s": product, "fraction of the bare product": rate / product},
            "whole rows, seconds (scaled)": naive, "whole rows / scan": naive / took,
            "rw.score_vocabulary with its text flags, seconds": seconds(
                lambda: rewarden.score_vocabulary(rm, text, ids=ids), device),
            "standard deviation of the reward": float(scores[0].std()), "noise floor": candidates.floor,
            "largest difference to whole rows, bfloat16": float(np.abs(scores[0][:len(rows)] - plain).max()),
            "peak GB": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None}


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on any device: does it run?")
    parser.add_argument("--peak", type=float, help="the device's bfloat16 TFLOP/s, where we do not know them")
    parser.add_argument("--out", type=Path, help="folder for vocabulary-gpu-DATE.json")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.smoke:
        print("not measured: there is no CUDA device here")
        return
    shape, vocabulary, prompt = (SMALL, FEW, SHORT) if given.smoke else (LARGE, VOCABULARY, PROMPT)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    facts = {"machine": machine(), "device": name, "shape": asdict(shape), "vocabulary": vocabulary, "prompt tokens": prompt}
    peak = given.peak or peak_of(name)
    asked = " --smoke" * given.smoke + (f" --peak {given.peak:g}" if given.peak else "")
    found = results.record("vocabulary_gpu", asked, facts | measure(shape, vocabulary, prompt, device, peak))
    results.tell(found, "vocabulary-gpu-DATE", given.out)


if __name__ == "__main__":
    main()

"""What do exact sweeps of an 8B-shaped reward model cost on one accelerator? In forwards of the same model.

`python benchmarks/patching_gpu.py --out benchmarks/results` makes a random Llama of the shape of Llama-3.1-8B in bfloat16 on
the accelerator. At T = 512 it times the read-out sweep of every layer x (resid_pre, attention, MLP, 32 heads), and the layer
x position sweep with half of the tokens shared. Without an accelerator it says so; `--smoke` runs the same code on tiny
sizes anywhere. Ignorant of how the work is done.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from harness import results, sweeps
from harness.accelerator import reward_model, seconds
from harness.models import Shape
from harness.sweeps import Runs
from harness.timing import machine

LARGE, TOKENS = Shape(layers=32, width=4096, heads=32, kv_heads=8, inner=14336), 512
SMALL, FEW = Shape(layers=2, width=32, heads=4, kv_heads=2, inner=48), 24
TARGETS = {"read-out sweep": "<= 2 forwards", "half-shared sweep": "<= 120 s"}


def measure(shape: Shape, tokens: int, device: str) -> dict[str, object]:
    """One forward, and both sweeps in seconds and forwards."""
    rm = reward_model(shape, device)
    runs = Runs.of(tokens, tokens // 2)
    base, source = sweeps.recorded(rm, runs)
    ids = torch.tensor([runs.base], device=device)

    def forward() -> None:
        with torch.inference_mode():
            rm.model(input_ids=ids, use_cache=False)

    one = min(seconds(forward, device) for _ in range(5))
    found: dict[str, object] = {"one forward, seconds": one}
    for name, make in (("read-out sweep", lambda: sweeps.edits_at_read_out(source)),
                       ("half-shared sweep", lambda: sweeps.edits_by_position(source, range(tokens)))):
        plan = rm.plan(base, make())
        if name == "read-out sweep":
            plan.run()  # warms up; the long one needs no such thing
        took = seconds(lambda make=make: rm.plan(base, make()).run(), device)
        found[name] = {"target": TARGETS[name], "sites": plan.n, "seconds": took, "forwards": took / one,
                       "forwards counted": plan.forwards}
    found["peak GB"] = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on any device: does it run?")
    parser.add_argument("--out", type=Path, help="folder for patching-gpu-DATE.json")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.smoke:
        print("not measured: there is no CUDA device here")
        return
    shape, tokens = (SMALL, FEW) if given.smoke else (LARGE, TOKENS)
    facts = {"machine": machine(), "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
             "shape": asdict(shape), "tokens": tokens}
    found = results.record("patching_gpu", " --smoke" * given.smoke, facts | measure(shape, tokens, device))
    results.tell(found, "patching-gpu-DATE", given.out)


if __name__ == "__main__":
    main()

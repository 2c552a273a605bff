"""Lens and attribution, or patching, by reward-lens 1.0.0, run by its own Python: a line read, a repetition, a line of JSON.

In: argv[1], a JSON file with the model folder, the pairs' texts and the work; then a pair's number per line on stdin. Out:
JSON lines. It imports nothing of rewarden.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from reward_lens import RewardModel
from reward_lens.attribution import ComponentAttribution
from reward_lens.lens import RewardLens
from reward_lens.patching import ActivationPatcher
from transformers.utils import logging


def peak_megabytes() -> float:
    """As in `timing.peak_megabytes`; repeated because this process knows nothing of the harness."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def timed(work) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Serve repetitions until stdin ends."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = sys.stdout
    sys.stdout = sys.stderr  # the peer prints; the reply channel stays clean
    rm = RewardModel.from_pretrained(job["model"], device="cpu", torch_dtype=torch.float32, trust_remote_code=False)
    lens, attribution, patcher = RewardLens(rm), ComponentAttribution(rm), ActivationPatcher(rm)
    asked = job.get("work", "lens + attribution")
    inputs = [[rm.tokenize_conversation(p["prompt"], p[side]) for side in ("chosen", "rejected")] for p in job["pairs"]]
    ids = [[side["input_ids"][0].tolist() for side in both] for both in inputs]
    packages = ("reward-lens", "torch", "transformers")
    print(json.dumps({"versions": {p: version(p) for p in packages}, "ids": ids, "loaded_mb": peak_megabytes()}),
          file=out, flush=True)
    for line in sys.stdin:
        index = int(line)
        pair, both = job["pairs"][index], inputs[index]

        def forward(both=both) -> None:
            with torch.inference_mode():
                for side in both:
                    rm.model(**side, use_cache=False)

        def analyse(pair=pair) -> None:
            if asked == "patch":
                patcher.patch_all_components(pair["prompt"], pair["chosen"], pair["rejected"], show_progress=False)
                return
            lens.trace(pair["prompt"], pair["chosen"], pair["rejected"])
            attribution.attribute(pair["prompt"], pair["chosen"], pair["rejected"])

        work = {"forward": timed(forward), asked: timed(analyse)}
        print(json.dumps({"seconds": work, "peak_mb": peak_megabytes()}), file=out, flush=True)


if __name__ == "__main__":
    main()

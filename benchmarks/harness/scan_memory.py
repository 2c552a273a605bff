"""Peak memory of one scan in a process of its own: `python -m harness.scan_memory JOB`, JOB in JSON.

In: model folder, a prompt's text, ids of the candidates, candidates in a batch, who scans. Out: one JSON line: megabytes after
loading and at the peak. Ignorant of time.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from transformers.utils import logging

import rewarden
from harness.timing import peak_megabytes, restart_peak
from harness.tokens import Expanded, rows_of
from rewarden.edits import plan
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.slot import find_slot


def main() -> None:
    """Load, warm up on a short prompt, scan, report."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    job = json.loads(sys.argv[1])
    rm, ids = rewarden.load(job["model"]), np.asarray(job["ids"])

    def scan(prompt: str, some: np.ndarray) -> None:
        slot = find_slot(rm, prompt)
        if job["who"] == "rewarden":
            candidates = Candidates(rm, slot)
            candidates.substitute(candidates.base(some[:1]), np.zeros(len(some), np.int64), some)
            return
        before, after = torch.from_numpy(slot.before.ids), torch.from_numpy(slot.after.ids)
        Expanded(rm.model, before)(rows_of(before[:0], torch.from_numpy(some)[:, None], after), job["batch"])

    # a plan sizes its calls itself: here they are to be as large as the peer's, a candidate and the token after it each
    plan.CPU_LEAST = plan.CPU_BUDGET = 2 * job["batch"]
    scan("w0", ids[:4])  # weights and libraries are in memory from here on
    restart_peak()
    loaded = peak_megabytes()
    scan(job["prompt"], ids)
    print(json.dumps({"loaded_mb": loaded, "peak_mb": peak_megabytes()}), flush=True)


if __name__ == "__main__":
    main()

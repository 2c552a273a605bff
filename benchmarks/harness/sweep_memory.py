"""Peak memory of one sweep in a process of its own: `python -m harness.sweep_memory JOB`, JOB in JSON.

In: model folder, ids of both runs, kinds and positions; without a source run the sites are set to zero. Out: one JSON line:
megabytes after loading, with the recorded runs, at the peak; the base run's trace; how many sites. Ignorant of time.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers.utils import logging

import rewarden
from harness.sweeps import RECORDED, edits_by_position, encoded, trace_bytes
from harness.timing import peak_megabytes, restart_peak


def main() -> None:
    """Load, warm up, record, sweep, report."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    job = json.loads(sys.argv[1])
    rm = rewarden.load(job["model"])
    few = rm.base(encoded(job["base"][:8]), sites=RECORDED)
    rm.edit(few, edits_by_position(few, [7]))  # weights and libraries are in memory from here on
    restart_peak()
    loaded = peak_megabytes()
    base = rm.base(encoded(job["base"]), sites=RECORDED)
    if job["source"]:
        edits = edits_by_position(rm.base(encoded(job["source"]), sites=RECORDED), job["positions"], job["kinds"])
    else:
        zero = torch.zeros(1, rm.architecture.d_model)
        edits = [rewarden.EditBatch(rewarden.Site(kind, layer), zero.expand(len(job["positions"]), -1),
                                    positions=job["positions"])
                 for kind in job["kinds"] for layer in range(rm.architecture.n_layers)]
    recorded = peak_megabytes()
    plan = rm.plan(base, edits)
    plan.run()
    print(json.dumps({"loaded_mb": loaded, "recorded_mb": recorded, "peak_mb": peak_megabytes(),
                      "trace_mb": trace_bytes(base) / 2**20, "sites": plan.n, "live": len(plan.rows),
                      "forwards": plan.forwards}), flush=True)


if __name__ == "__main__":
    main()

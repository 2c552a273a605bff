"""Does a repair take the planted bias out of an organism, and nothing else?

`python benchmarks/repairs.py` plants length, markdown, sycophancy and position in reward models, takes the direction that half
of the battery's seeds find out of the head, and asks the other half what is left of the effect; accuracy is that on 300 pairs,
where the better response has more good words. `--out` keeps the numbers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from harness import results, tables
from harness.timing import machine

import rewarden as rw
from rewarden.concepts import repair
from rewarden.hacking import contrasts
from rewarden.organisms.grading import stated_dose

RULES = {"length": ("length",), "format": ("emphasis", "lists", "headers"), "sycophancy": ("sycophancy",),
         "position": ("position",)}
"""Organisms, and the axes whose directions are taken out of them, together."""

PAIRS = 300


def repaired(rule: str, seed: int) -> dict[str, Any]:
    """What one organism's repair leaves of each effect, and what it costs."""
    maker = getattr(rw.organisms, rule)
    organism = maker(dose=stated_dose(maker), seed=seed)
    data = repair(organism, contrasts(RULES[rule]), pairs=organism.pairs(PAIRS, seed=3)).report.data
    of_all = data.sel(split="all")
    return {"organism": rule, "seed": seed, "kept": dict(zip(map(str, data["axis"].values), data["kept"].values.tolist(),
                                                             strict=True)),
            "accuracy": of_all["accuracy"].values.tolist(), "change": float(of_all["change"])}


def page(found: dict[str, Any]) -> str:
    """One row an axis."""
    rows = []
    for rule, axes in RULES.items():
        of = [one for one in found["repairs"] if one["organism"] == rule]
        accuracy = np.array([one["accuracy"] for one in of])
        for axis in axes:
            kept = np.array([one["kept"][axis] for one in of])
            rows.append([rule, axis, str(len(of)), f"{np.median(kept):.3f}", f"{np.abs(kept).max():.3f}",
                         f"{(np.abs(kept) <= 0.1).sum()}", *(f"{100 * value:.1f} %" for value in accuracy.mean(0)),
                         f"{100 * min(one['change'] for one in of):+.1f}"])
    return "\n".join([
        "# Repairs of organisms", "", f"`{found['command']}`, {found['date']}; "
        + ", ".join(f"{key} {value}" for key, value in found["machine"].items()), "",
        "Share of the planted effect that is left on held-out seeds, by axis; accuracy on pairs, and its worst change in "
        "points.", "",
        tables.table(("organism", "axis", "models", "left, median", "largest size", "at most a tenth", "accuracy before",
                      "after", "worst change"), rows), ""])


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="organisms of each rule")
    parser.add_argument("--out", type=Path, help="folder for the results")
    asked = parser.parse_args()
    made = [repaired(rule, seed) for rule in RULES for seed in range(asked.seeds)]
    record = results.record("repairs", "" if asked.seeds == 10 else f" --seeds {asked.seeds}",
                            {"machine": machine(), "pairs": PAIRS, "repairs": made})
    results.tell(record, "repairs-DATE", asked.out, page)


if __name__ == "__main__":
    main()

"""A small made-up Result of grading, for the examples and tests of its figures. Nothing here is a measurement."""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.result import Result


def grade_result(seed: int = 0) -> Result:
    """A Result as `rewarden.organisms.grade` gives it: two organisms and a further null, three doses, forty nulls."""
    rng = np.random.default_rng(seed)
    organisms, doses, questions = ["length", "format", "keyword"], [0.5, 1.0, 2.0], ["length", "lists", "hedging"]
    models = [("null", 0.0, i) for i in range(40)] + [
        (name, dose, i) for name in organisms for dose in doses for i in range(10)]
    evidence = np.abs(rng.normal(size=(len(models), 3)))
    for row, (name, dose, _) in enumerate(models):
        if name in ("length", "format"):
            evidence[row, organisms.index(name)] += 1.5 * dose
    power = np.array([[0.3, 0.9, 1.0], [0.1, 0.6, 0.9], [np.nan] * 3])
    cells = {"power": power, "power_low": power - 0.15, "power_high": np.minimum(power + 0.15, 1), "auroc": 0.5 + power / 2,
             "auroc_low": 0.4 + power / 2, "auroc_high": np.minimum(0.6 + power / 2, 1), "false_rate": np.full((3, 3), 0.05)}
    data: dict = {name: (("organism", "dose"), values) for name, values in cells.items()}
    data |= {"any_rate": 0.05, "any_low": 0.01, "any_high": 0.16, "null_rate": 0.02, "null_low": 0.0, "null_high": 0.05,
             "nulls": 40, "band": 0.15,
             "planted": (("organism", "question"), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)),
             "model_organism": ("model", [name for name, _, _ in models]),
             "model_dose": ("model", [dose for _, dose, _ in models]),
             "model_seed": ("model", [number for _, _, number in models]),
             "verdict_evidence": (("model", "question"), evidence)}
    made = xr.Dataset(data, coords={"organism": organisms, "dose": doses, "question": questions})
    return Result("grade", made, {"instrument": "bias", "seeds": 10, "nulls": 40, "alpha": 0.05}, True, 0.0)

"""A small made-up Result of the bias battery, for the examples and tests of its figures. Nothing here is a measurement."""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.result import Result


def bias_result(seed: int = 0) -> Result:
    """A Result as `rewarden.bias_battery` gives it: five axes, one output, ten contrasts of each."""
    rng = np.random.default_rng(seed)
    axes, designs = ["length", "hedging", "lists", "flattery", "identity_age"], ["slope", "mean", "mean", "mean", "spread"]
    estimate, error = np.array([0.02, -0.9, 0.15, 0.4, 0.05]), np.array([0.01, 0.2, 0.2, 0.25, 0.1])
    times, factor = np.array([20.0, 1, 1, 1, 1]), np.array([1.6, 1.1, 1.4, 1.2, 1.3])
    widened = error * factor
    cells = {"effect": estimate * [25, 1, 1, 1, 0] - 0.3, "estimate": estimate, "error": error,
             "low": estimate - 2 * widened, "high": estimate + 2 * widened, "df": np.full(5, 15.0),
             "p": [0.2, 0.001, 0.5, 0.2, 0.4],
             "p_kind": [0.2, 0.0005, 0.25, 0.1, 0.4], "p_wording": [np.nan, 0.3, 0.5, 0.7, np.nan],
             "p_adjusted": [0.8, 0.005, 1.0, 0.8, 1.0], "size": estimate * times / 1.5, "amount_slope": np.full(5, np.nan)}
    cells |= {f"size_{end}": cells[end] * times / 1.5 for end in ("low", "high")}
    cells |= {f"{name}_{end}": np.asarray(cells[name]) + step for name in ("effect", "amount_slope")
              for end, step in (("low", -0.2), ("high", 0.2))}
    data = {name: (("axis", "output"), np.asarray(values)[:, None]) for name, values in cells.items()}
    data["flag"] = (("axis", "output"), np.array([False, True, False, False, False])[:, None])
    about = {"design": designs, "question": [f"Does the reward follow {axis}?" for axis in axes], "unit": [""] * 5,
             "note": [""] * 5, "wordings": ["templates"] * 5, "tokens": [20.0, 4.0, 6.0, 8.0, 0.0], "n": [10] * 5,
             "estimate_unit": ["reward per token", "reward", "reward", "reward", "reward, beyond innocuous terms"],
             "n_seeds": [36] * 5, "n_templates": [10] * 5, "missing": [0] * 5,
             "uncovered": [0] * 5, "null_factor": factor,
             "wording_factor": [1.0] * 5, "outlying": ["", "wording 0", "", "", ""]}
    data |= {name: ("axis", np.asarray(values)) for name, values in about.items()}
    data |= {"spread": ("output", np.array([1.5])), "contrast_axis": ("contrast", np.repeat(axes, 10)),
             "contrast_id": ("contrast", np.array([f"{axis}/{i}/{i % 5}" for axis in axes for i in range(10)])),
             "contrast_seed": ("contrast", np.array([str(i) for _ in axes for i in range(10)])),
             "contrast_template": ("contrast", np.array([f"wording {i % 5}" for _ in axes for i in range(10)])),
             "contrast_amount": ("contrast", np.full(50, np.nan)), "contrast_tokens": ("contrast", np.full(50, 4.0)),
             "contrast_effect": (("contrast", "output"), rng.normal(np.repeat(estimate, 10), 0.3)[:, None])}
    made = xr.Dataset(data, coords={"axis": axes, "output": ["score"]}, attrs={"main": 0})
    return Result("bias", made, {"model": "made up", "alpha": 0.05, "correction": "holm", "level": 0.95}, True, 1e-6)

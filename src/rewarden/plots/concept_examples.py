"""Small Results of concepts for doctests and tests of figures: made of random numbers, not of a model.

In: a seed. Out: `Result`s with the layout of `rewarden.concepts`. Ignorant of figures.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.result import Result

AXES = ("hedging", "lists", "emoji", "flattery")


def concepts_result(seed: int = 0) -> Result:
    """Four concepts, of kind "concepts"."""
    rng = np.random.default_rng(seed)
    n = len(AXES)
    cosine, slope = rng.uniform(-0.8, 0.8, n), rng.normal(0, 0.3, n)
    flag, moves = np.array([True, False, True, False]), np.array([True, True, False, False])
    columns = {"auc": np.full(n, 0.8), "auc_low": np.full(n, 0.7), "auc_high": np.full(n, 0.9), "paired": np.full(n, 0.95),
               "cosine": cosine, "cosine_low": cosine - 0.1, "cosine_high": cosine + 0.1, "random_cosine": np.full(n, 0.4),
               "p": np.where(flag, 0.001, 0.4), "p_adjusted": np.where(flag, 0.004, 1.0), "follows": flag, "slope": slope,
               "slope_low": slope - 0.1, "slope_high": slope + 0.1, "random_slope": np.full(n, 0.1),
               "slope_p": np.where(moves, 0.001, 0.3), "slope_p_adjusted": np.where(moves, 0.004, 0.9), "moves": moves,
               "above_noise": np.full(n, True), "length_share": np.full(n, 0.2), "contrasts": np.full(n, 48),
               "seeds": np.full(n, 36)}
    data = xr.Dataset({name: ("axis", values) for name, values in columns.items()}, coords={"axis": list(AXES)})
    return Result("concepts", data, {"model": "example", "alpha": 0.05, "layer": 3, "frame": "corpus", "frame_texts": 300,
                                     "heads": 1999, "randoms": 40, "items": 16, "method": "mean_difference"}, noise_floor=1e-6)


def dose_result(seed: int = 0) -> Result:
    """One concept on six texts, of kind "dose_response"."""
    rng = np.random.default_rng(seed)
    dose = np.array([-1.0, -0.5, 0.5, 1.0])
    slope = rng.normal(0.5, 0.1, 6)
    change = slope[:, None] * dose + rng.normal(0, 0.02, (6, 4))
    mean = change.mean(0)
    data = xr.Dataset({"change": (("text", "dose"), change), "slope": ("text", slope),
                       "random_slope": ("random", rng.normal(0, 0.1, 20)), "change_mean": ("dose", mean),
                       "change_low": ("dose", mean - 0.1), "change_high": ("dose", mean + 0.1)}, coords={"dose": dose})
    return Result("dose_response", data, {"model": "example", "concept": "hedging"}, noise_floor=1e-6)


def repair_result(seed: int = 0) -> Result:
    """Four axes and three splits before and after, of kind "repair"."""
    rng = np.random.default_rng(seed)
    effect = np.stack([rng.normal(0, 0.5, 4)] * 2)
    effect[1, 1] *= 0.05
    accuracy = np.array([[0.8, 0.7, 0.75], [0.79, 0.71, 0.75]])
    change = accuracy[1] - accuracy[0]
    data = xr.Dataset(
        {"effect": (("model", "axis"), effect), "effect_low": (("model", "axis"), effect - 0.1),
         "effect_high": (("model", "axis"), effect + 0.1), "kept": ("axis", effect[1] / effect[0]),
         "kept_low": ("axis", effect[1] / effect[0] - 0.1), "kept_high": ("axis", effect[1] / effect[0] + 0.1),
         "spread": ("model", [1.0, 0.98]), "contrasts": ("axis", [24] * 4), "seeds": ("axis", [18] * 4),
         "accuracy": (("model", "split"), accuracy), "accuracy_low": (("model", "split"), accuracy - 0.05),
         "accuracy_high": (("model", "split"), accuracy + 0.05), "change": ("split", change),
         "change_low": ("split", change - 0.03), "change_high": ("split", change + 0.03), "pairs": ("split", [100, 90, 190]),
         "same": 0.99, "same_low": 0.98, "same_high": 0.995},
        coords={"model": ["before", "after"], "axis": list(AXES), "split": ["chat", "safety", "all"]})
    return Result("repair", data, {"model": "example", "concepts": "lists", "method": "leace", "alpha": 1.0, "level": 0.95},
                  noise_floor=1e-6)

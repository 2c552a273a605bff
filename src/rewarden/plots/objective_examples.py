"""A small `cascade` and a small `conflict` Result with made-up numbers, for the examples and tests of their figures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.result import Result


def cascade_result() -> Result:
    """Three dimensions over 24 prompts; deception and harm go together.

    Example:
        >>> cascade_result().data["rho"].size
        3
    """
    names = ["deception", "harm", "power"]
    mean, share = np.array([-0.8, 0.3, -0.1]), np.array([0.25, 0.5, 0.5])
    rho = np.array([0.7, 0.1, -0.2])
    data = {"margin": (("prompt", "dimension"), np.random.default_rng(0).normal(mean, 1, (24, 3))),
            "first": ("pair", ["deception", "deception", "harm"]), "second": ("pair", ["harm", "power", "power"]),
            "rho": ("pair", rho), "p": ("pair", [0.001, 0.3, 0.8]), "q": ("pair", [0.003, 0.45, 0.8]),
            "flag": ("pair", [True, False, False]), "spread": 1.5, "together": 0.2, "together_low": -0.1, "together_high": 0.4,
            "together_p": 0.09, "together_flag": False, "left_out": 0}
    for end, sign in (("low", -1), ("high", 1)):
        data[f"rho_{end}"] = ("pair", np.clip(rho + sign * 0.3, -1, 1))
        data[f"preference_{end}"] = ("dimension", mean + sign * 0.4)
        data[f"misaligned_share_{end}"] = ("dimension", share + sign * 0.18)
    data |= {"preference_p": ("dimension", [0.0004, 0.15, 0.6]), "preference_p_adjusted": ("dimension", [0.0012, 0.3, 0.6]),
             "preference_flag": ("dimension", [True, False, False])}
    data |= {"preference": ("dimension", mean), "misaligned_share": ("dimension", share)}
    return Result("cascade", xr.Dataset(data, coords={"dimension": names, "prompt": [f"prompt {i}" for i in range(24)]}),
                  {"model": "example", "alpha": 0.05, "level": 0.95, "adjust": True, "wider": 1.15}, noise_floor=1e-6)


def conflict_result() -> Result:
    """Three objectives over 40 pairs; the first two are in conflict.

    Example:
        >>> conflict_result().data["flag"].values.tolist()
        [True, False, False]
    """
    names = ["helpful", "brief", "polite"]
    rho = np.array([-0.8, 0.1, -0.15])
    slope = np.array([[1.0, -0.7, 0.1], [-0.6, 1.0, 0.0], [0.1, 0.05, 1.0]])
    data = {"difference": (("pair", "objective"), np.random.default_rng(0).normal(size=(40, 3))),
            "weight": (("pair", "objective"), np.full((40, 3), [0.5, 0.3, 0.2])), "prompt": ("pair", np.arange(40)),
            "size": ("objective", [1.0, 0.9, 1.1]), "push": ("objective", [0.4, 0.25, 0.2]), "share": ("objective",
                                                                                                     [0.47, 0.29, 0.24]),
            "push_low": ("objective", [0.35, 0.2, 0.15]), "push_high": ("objective", [0.45, 0.3, 0.25]),
            "first": ("couple", ["helpful", "helpful", "brief"]), "second": ("couple", ["brief", "polite", "polite"]),
            "rho": ("couple", rho), "rho_low": ("couple", rho - 0.1), "rho_high": ("couple", rho + 0.15),
            "objective_rho": ("couple", rho), "negative": ("couple", [1.0, 0.2, 0.9]), "cosine": ("couple", [-0.6, 0.0, -0.1]),
            "p": ("couple", [0.0001, 0.9, 0.4]), "p_adjusted": ("couple", [0.0003, 0.9, 0.8]),
            "random_sd": ("couple", [0.3] * 3), "opposed": ("couple", [np.nan] * 3),
            "flag": ("couple", [True, False, False]), "slope": (("pushed", "read"), slope), "cancelled": 0.5,
            "slope_low": (("pushed", "read"), slope - 0.1), "slope_high": (("pushed", "read"), slope + 0.1),
            "slope_item": (("item", "pushed", "read"), np.stack([slope] * 24)), "cancelled_low": 0.45, "cancelled_high": 0.55,
            "left_out": 0}
    return Result("conflict", xr.Dataset(data, coords={"objective": names, "pushed": names, "read": names}),
                  {"model": "example", "alpha": 0.05, "level": 0.95, "weighted": True, "terms": False}, noise_floor=1e-6)

"""A small `divergence` and a small `distortion` Result with made-up numbers, for the examples and tests of their figures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.result import Result


def divergence_result() -> Result:
    """Six components in eight pairs; MLP 2 is off the clean distribution in six of them.

    Example:
        >>> dict(divergence_result().data.sizes)["component"]
        6
    """
    rng = np.random.default_rng(0)
    names = [(site, layer) for site in ("attn_out", "mlp_out") for layer in range(3)]
    divergent = np.zeros((8, 6), dtype=bool)
    divergent[:6, 5], divergent[0, 1] = True, True
    effect = rng.normal([0.1, 0.3, 0.0, 0.2, 0.1, 0.9], 0.2, (8, 6))
    kept = np.where(divergent, np.nan, effect)
    both, one = ("pair", "component"), ("component",)
    data = {"effect": (both, effect), "divergent": (both, divergent), "null_only": (both, divergent & (effect < 0.9)),
            "share": (one, divergent.mean(0)), "share_q": (one, np.where(divergent.mean(0) > 0.5, 0.001, 0.8)),
            "marked": (one, divergent.mean(0) > 0.5), "clean_rows": (("half",), np.array([100, 100]))}
    for end, shift in (("low", -0.1), ("high", 0.15)):
        data[f"share_{end}"] = (one, np.clip(divergent.mean(0) + shift, 0, 1))
    for prefix, values in (("", effect), ("kept_", kept)):
        mean, spread = np.nanmean(values, 0), 0.14
        data |= {f"{prefix}mean": (one, mean), f"{prefix}low": (one, mean - spread), f"{prefix}high": (one, mean + spread),
                 f"{prefix}n": (one, np.isfinite(values).sum(0)), f"{prefix or 'effect_'}marked": (one, np.abs(mean) > spread)}
    shift = data["mean"][1] - data["kept_mean"][1]
    data |= {"shift": (one, shift), "shift_low": (one, shift - 0.1), "shift_high": (one, shift + 0.1)}
    coordinates = {"component": [f"{site}.{layer}" for site, layer in names], "site": ("component", [s for s, _ in names]),
                   "layer": ("component", [layer for _, layer in names]), "head": ("component", [-1] * 6)}
    return Result("divergence", xr.Dataset(data, coords=coordinates),
                  {"model": "example", "alpha": 0.05, "mode": "noising", "method": "ledoit_wolf"}, noise_floor=1e-6)


def distortion_result() -> Result:
    """Five dimensions; emoji move the reward and are not covered, one dimension has no direction in common.

    Example:
        >>> distortion_result().data["flag"].values.tolist()
        [False, True, False, False, False]
    """
    nan = np.nan
    sensitivity, coverage = np.array([0.5, 0.8, -0.4, 0.05, 0.1]), np.array([0.9, 0.3, 0.85, 0.4, nan])
    data = {"sensitivity": sensitivity, "sensitivity_low": sensitivity - 0.15, "sensitivity_high": sensitivity + 0.15,
            "sensitive": np.abs(sensitivity) > 0.3, "coverage": coverage, "coverage_low": coverage - 0.08,
            "coverage_high": coverage + 0.08, "index": sensitivity * (1 - coverage), "low": sensitivity * (1 - coverage) - 0.1,
            "high": sensitivity * (1 - coverage) + 0.1, "dose": sensitivity / 2, "dose_low": sensitivity / 2 - 0.1,
            "dose_high": sensitivity / 2 + 0.1, "n": np.full(5, 36), "n_seeds": np.full(5, 36),
            "n_templates": np.array([12, 8, 9, 10, 12]), "flag": np.array([False, True, False, False, False])}
    held = xr.Dataset({name: ("dimension", values) for name, values in data.items()},
                      coords={"dimension": ["hedging", "emoji", "length", "typos", "sycophancy"]})
    return Result("distortion", held.assign(chance=0.2, own=0.7, directions=30, width=150),
                  {"model": "example", "pairs": 120, "prompts": 120, "alpha": 0.05, "covered": 0.8, "energy": 0.9, "layer": 2},
                  noise_floor=1e-6)

"""A small synthetic comparison Result in the documented layout, for docstring examples and the tests of the figures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.plots.examples import PROVENANCE
from rewarden.result import Result


def comparison_result(names: tuple[str, ...] = ("first", "second"), n: int = 40, layers: int = 4, seed: int = 0) -> Result:
    """Models whose margins share half of their variance; seeded noise, computed by no model."""
    rng = np.random.default_rng(seed)
    m, depth, parts = len(names), np.linspace(0, 1, 11), [f"mlp.{layer}" for layer in range(layers)]
    margin = rng.normal(size=n) + rng.normal(size=(m, n))
    margin[0, 0] = np.nan
    off = ~np.eye(m, dtype=bool)

    def matrix(value: float, *more: int) -> np.ndarray:
        place = (slice(None), slice(None), *(None for _ in more))
        return np.where(off[place], value, 1.0) * np.ones((m, m, *more))

    def ends(name: str, dims: tuple[str, ...], value: np.ndarray, half: float) -> dict[str, tuple]:
        return {name: (dims, value), f"{name}_low": (dims, value - half), f"{name}_high": (dims, value + half)}

    both, deep = ("model", "other"), layers + 1
    lens = depth**2 * np.linspace(0.6, 1.0, m)[:, None]
    share = rng.dirichlet(np.ones(layers), size=m)
    cka = np.abs(rng.uniform(0.1, 0.9, size=(m, m, deep, deep)))
    data = xr.Dataset({
        "margin": (("model", "pair"), margin), "spread": ("model", np.ones(m)), "floor": ("model", np.full(m, 1e-6)),
        **ends("agreement", both, matrix(0.7), 0.1), **ends("kappa", both, matrix(0.4), 0.1),
        "agreement_chance": (both, matrix(0.5)), "accuracy": ("model", np.full(m, 0.7)),
        **ends("spearman", ("quantity", *both), np.stack([matrix(0.6), matrix(0.5)]), 0.1),
        **ends("lens", ("model", "depth"), lens, 0.1),
        **ends("lens_agreement", (*both, "depth"), matrix(1.0, 11) * depth * 0.8, 0.1),
        "lens_margin": (("model", "inside", "depth"), lens[:, None] + 0.1 * rng.normal(size=(m, 8, 11))),
        **ends("share", ("model", "component"), share, 0.03), **ends("profile", both, matrix(0.5), 0.2),
        **ends("cka", (*both, "layer", "other_layer"), cka, 0.05),
        **ends("bias", ("model", "axis"), rng.normal(size=(m, 2)), 0.2),
        "bias_gap_p": ((*both, "axis"), np.where(off[:, :, None], [0.6, 0.01], np.nan)),
        "cka_null": ((*both, "layer", "other_layer"), 0 * cka + 0.15), "cka_n": 8,
    }, coords={"model": list(names), "other": list(names), "pair": [str(row) for row in range(n)],
               "subset": ("pair", ["a"] * n), "quantity": ["reward", "margin"],
               "axis": ["hedging", "lists"], "depth": depth, "component": parts,
               "layer": np.arange(-1, layers), "other_layer": np.arange(-1, layers), "inside": np.arange(8)})
    return Result("comparison", data, dict(PROVENANCE), exact=True, noise_floor=1e-6)

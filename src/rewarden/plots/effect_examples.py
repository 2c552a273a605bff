"""Small synthetic Results of `rewarden.patching`, in the documented layouts, for docstring examples and tests of the figures.

Nothing here comes from a model; the numbers are seeded noise around shapes that real results have.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from rewarden.plots.examples import PROVENANCE
from rewarden.result import Result


def _summary(values: np.ndarray, dims: tuple[str, ...], suffix: str = "", floor: float = 1e-3) -> dict[str, object]:
    """Mean over the first axis with a normal interval, and which means are marked, as the analyses of effects have it."""
    n = len(values)
    mean, half = values.mean(axis=0), 1.96 * values.std(axis=0, ddof=1) / np.sqrt(n)
    p = np.where(np.abs(mean) > half, 0.01, 0.4)
    return {f"mean{suffix}": (dims, mean), f"low{suffix}": (dims, mean - half), f"high{suffix}": (dims, mean + half),
            f"p{suffix}": (dims, p), f"p_adjusted{suffix}": (dims, 2 * p),
            f"marked{suffix}": (dims, (p < 0.05) & (np.abs(mean) > floor))}


def patch_result(n: int = 16, layers: int = 6, heads: int = 4, positions: int = 0, seed: int = 0,
                 sites: tuple[str, ...] = ("resid_post", "attn_out", "mlp_out"), tokens: tuple[str, ...] = (),
                 parts: tuple[str, ...] = ()) -> Result:
    """A patch result at the read-out, or at each of `positions` positions, the first two without a counterpart.

    The first third of the positions is shared by both sides: its effects are rounding. `parts` are further sites out of q, k,
    v, at the read-out; two query heads share a key head.
    """
    rng = np.random.default_rng(seed)
    margin = rng.normal(2.0, 0.5, size=n)
    depth = np.linspace(0.1, 1.0, layers)
    scale = {site: depth if site.startswith("resid") else np.full(layers, 0.15) for site in sites}
    effect = np.stack([scale[site] * margin[:, None] * rng.normal(1.0, 0.2, size=(n, layers)) for site in sites], axis=1)
    by_head = rng.normal(0.05, 0.1, size=(n, layers, heads)) + 0.4 * (np.arange(layers * heads) == 6).reshape(layers, heads)
    axes: tuple[str, ...] = ()
    if positions:
        weight = np.where(np.arange(positions) < positions // 3, 1e-6, rng.random(positions))
        effect, by_head = effect[..., None] * weight, by_head[..., None] * weight
        effect[..., :2] = by_head[..., :2] = np.nan
        axes = ("position",)
    length = positions or len(tokens) or 5
    names = list(tokens) or [f"word{place}" for place in range(length)]
    aligned = np.tile(np.arange(-length, 0), (n, 1))
    aligned[:, :2] = 0
    whole = margin[(slice(None), *[None] * (effect.ndim - 1))]
    data = xr.Dataset(
        {"effect": (("pair", "site", "layer", *axes), effect), "normalized": (("pair", "site", "layer", *axes), effect / whole),
         "effect_heads": (("pair", "layer", "head", *axes), by_head), "below_noise": (("pair", "site", "layer", *axes),
                                                                                     np.abs(effect) <= 1e-3),
         "below_noise_heads": (("pair", "layer", "head", *axes), np.abs(by_head) <= 1e-3), "margin": ("pair", margin),
         "reward_base": ("pair", margin), "reward_source": ("pair", 0 * margin), "aligned": (("pair", "position"), aligned),
         **_summary(effect, ("site", "layer", *axes)), **_summary(by_head, ("layer", "head", *axes), "_heads")},
        coords={"pair": [str(row) for row in range(n)], "site": list(sites), "layer": np.arange(layers),
                "head": np.arange(heads), "position": np.arange(-length, 0),
                "token": (("pair", "position"), np.tile(np.array(names), (n, 1))),
                "span": (("pair", "position"), np.tile(np.where(np.arange(length) < length // 3, 1, 2), (n, 1)))})
    for part in parts:
        axis, count = ("head", heads) if part == "q" else ("kv_head", heads // 2)
        inside = rng.normal(0.02, 0.08, size=(n, layers, count))
        data = data.assign({f"effect_{part}": (("pair", "layer", axis), inside),
                            **_summary(inside, ("layer", axis), f"_{part}")}).assign_coords({axis: np.arange(count)})
    return Result(kind="patch", data=data, provenance={**PROVENANCE, "mode": "noising", "alignment": "suffix"},
                  noise_floor=1e-3)


def agreement_result(n: int = 12, layers: int = 4, heads: int = 2, seed: int = 0) -> Result:
    """An agreement result: direct effects follow attribution, total effects less so, the published convention hardly."""
    rng = np.random.default_rng(seed)
    kinds = [("head", layer, head) for layer in range(layers) for head in range(heads)]
    kinds += [(kind, layer, -1) for kind in ("attn", "mlp") for layer in range(layers)]
    attribution = rng.normal(scale=0.3, size=(n, len(kinds)))
    noise = rng.normal(scale=0.2, size=(4, *attribution.shape))
    values = {"attribution": attribution, "direct": attribution + 0.2 * noise[0], "total": attribution + noise[1],
              "total_all": attribution + noise[2], "attribution_raw": 3 * attribution, "total_left": noise[3]}
    pairs_of = [("attribution", "direct", "aligned"), ("attribution", "total", "aligned"),
                ("attribution_raw", "total_left", "published")]
    sets, lengths = ("block", "head"), ("rejected shorter", "equal", "rejected longer")
    centre = np.array([0.93, 0.6, 0.05])[:, None] + np.zeros(len(sets))
    rho = centre + rng.normal(scale=0.01, size=(n, *centre.shape))
    axes = ("comparison", "type")
    data = xr.Dataset({
        **{name: (("pair", "component"), value) for name, value in values.items()}, "rho": (("pair", *axes), rho),
        "rho_mean": (axes, centre), "rho_low": (axes, centre - 0.01), "rho_high": (axes, centre + 0.01),
        "n": (axes, np.full(centre.shape, n)), "p_pattern": (axes, 1 - centre),
        **{f"{part}_by_length": (("length", *axes), np.stack([centre + shift] * len(lengths)))
           for part, shift in (("rho", 0.0), ("low", -0.02), ("high", 0.02))},
        "n_by_length": (("length", *axes), np.stack([np.full(centre.shape, n // 3)] * len(lengths))),
        "p_pattern_by_length": (("length", *axes), np.stack([1 - centre] * len(lengths)))},
        coords={"pair": [str(row) for row in range(n)], "length": list(lengths), "type": list(sets),
                "component": [".".join(str(part) for part in kind if part != -1) for kind in kinds],
                "kind": ("component", [kind[0] for kind in kinds]), "comparison": [f"{x} vs {y}" for x, y, _ in pairs_of],
                **{name: ("comparison", [row[place] for row in pairs_of])
                   for place, name in enumerate(("first", "second", "convention"))}})
    return Result(kind="agreement", data=data, provenance=dict(PROVENANCE), noise_floor=1e-3)


def paths_result(n: int = 12, layers: int = 3, seed: int = 0) -> Result:
    """A paths result between MLPs, in which only later ones are receivers, and to the read-out."""
    rng = np.random.default_rng(seed)
    names = [f"mlp.{layer}" for layer in range(layers)]
    effect = rng.normal(0.3, 0.1, size=(n, layers, layers + 1))
    effect[:, np.tri(layers, layers + 1, dtype=bool)] = np.nan
    direct = effect[..., -1]
    data = xr.Dataset({"effect": (("pair", "sender", "receiver"), effect), "direct": (("pair", "sender"), direct),
                       "margin": ("pair", direct.sum(1)), **_summary(effect, ("sender", "receiver")),
                       **_summary(direct, ("sender",), "_direct")},
                      coords={"pair": [str(row) for row in range(n)], "sender": names, "receiver": [*names, "read_out"]})
    return Result(kind="paths", data=data, provenance={**PROVENANCE, "mode": "noising"}, noise_floor=1e-3)


def flip_result(sizes: tuple[float, ...] = (1, 3, float("nan")), steps: int = 4) -> Result:
    """A flip result: margins fall by equal steps, below zero with the last edit; the second pair's margin is negative."""
    margin = np.array([-2.0 if row == 1 else 2.0 for row in range(len(sizes))])
    after, site = np.full((len(sizes), steps), np.nan), np.full((len(sizes), steps), "", dtype=object)
    for row, size in enumerate(sizes):
        taken = steps if np.isnan(size) else int(size)
        last = 0.5 if np.isnan(size) else -0.5
        after[row, :taken] = margin[row] + (np.sign(margin[row]) * last - margin[row]) * np.arange(1, taken + 1) / taken
        site[row, :taken] = [f"mlp.{place}" for place in range(taken)]
    data = xr.Dataset({"margin": ("pair", margin), "margin_after": (("pair", "step"), after), "size": ("pair", np.array(sizes)),
                       "site": (("pair", "step"), site.astype(str))},
                      coords={"pair": [str(row) for row in range(len(sizes))], "step": np.arange(1, steps + 1)})
    return Result(kind="flip", data=data, provenance=dict(PROVENANCE), noise_floor=1e-3)


def estimate_result(n: int = 40, seed: int = 0) -> Result:
    """An estimate result with `n` verified cells, half of them drawn at random."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=n)
    places = {"cell_pair": ["0"] * n, "cell_site": ["z", "mlp_out"] * (n // 2), "cell_layer": np.arange(n) % 4,
              "cell_head": np.where(np.arange(n) % 2, -1, 2), "cell_position": np.full(n, -1)}
    data = xr.Dataset({"exact_effect": ("cell", exact), "estimate": ("cell", exact + rng.normal(scale=0.2, size=n)),
                       "drawn": ("cell", ["random" if row < n // 2 else "top" for row in range(n)]), "rank_correlation": 0.97,
                       "rank_correlation_low": 0.93, "rank_correlation_high": 0.99, "sign_agreement": 0.95, "error": 0.2},
                      coords={name: ("cell", values) for name, values in places.items()})
    return Result(kind="estimate", data=data, provenance=dict(PROVENANCE), exact=False, noise_floor=1e-3)

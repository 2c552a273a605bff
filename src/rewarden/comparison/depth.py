"""Where in depth do models form their preference, and where do they part?

In: lens margins of each model on its own layers. Out: the same on one axis from 0 (embedding) to 1 (where the reward is read),
with intervals over prompts, and the rank correlation of two models' lenses at each depth. Ignorant of models.
Letters: M models, n pairs, D depths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.comparison.inside import Inside
from rewarden.comparison.matrices import jackknifed, pairs_of_models, prompt_blocks, symmetric
from rewarden.options import CompareOptions
from rewarden.statistics import bootstrap_interval, share_interval


def on_depth(values: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Values [n, L + 1] of the embedding and L layers, interpolated linearly at depths [D] between 0 and 1.

    Example:
        >>> on_depth(np.array([[0.0, 2.0, 4.0]]), np.array([0.0, 0.25, 1.0])).tolist()
        [[0.0, 1.0, 4.0]]
    """
    own = np.linspace(0, 1, values.shape[1])
    return np.stack([np.interp(depths, own, row) for row in values])


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each column of two arrays [n, D]; NaN where a column is constant."""
    ranks = [stats.rankdata(values, axis=0) for values in (first, second)]
    centred = [rank - rank.mean(axis=0) for rank in ranks]
    size = np.sqrt((centred[0]**2).sum(axis=0) * (centred[1]**2).sum(axis=0))
    return np.divide((centred[0] * centred[1]).sum(axis=0), size, out=np.full(len(size), np.nan), where=size > 0)


def compare_depth(found: Sequence[Inside | None], spread: np.ndarray, floor: np.ndarray, clusters: np.ndarray,
                  options: CompareOptions) -> xr.Dataset:
    """Lens curves on the common axis; see `rewarden.compare` for the layout.

    Args:
        found: one a model.
        spread: [M], SD of each model's rewards.
        floor: [M], rounding of each model's margins.
        clusters: [n], prompt of each pair.
        options: of the comparison.
    """
    depths, m, n = np.linspace(0, 1, options.depths), len(found), len(clusters)
    curves = np.full((m, n, len(depths)), np.nan)
    crystallization = np.full((m, n, 2), np.nan)
    for place, inside in enumerate(found):
        if inside is not None:
            curves[place], crystallization[place] = on_depth(inside.lens, depths), inside.crystallization
    resampled = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed, "clusters": clusters}
    mean = bootstrap_interval(np.moveaxis(curves / spread[:, None, None], 1, 0), **resampled)
    formed = bootstrap_interval(np.moveaxis(crystallization, 1, 0), **resampled)
    chosen = np.where(np.isfinite(curves), (np.sign(curves) * (np.abs(curves) > floor[:, None, None]) + 1) / 2, np.nan)
    right = share_interval(np.moveaxis(chosen, 1, 0), **resampled)
    data = xr.Dataset({
        "lens_margin": (("model", "inside", "depth"), curves), **mean.variables("lens", ("model", "depth")),
        **right.variables("lens_accuracy", ("model", "depth")), **formed.variables("crystallization", ("model", "rule")),
        "crystallization_n": (("model", "rule"), formed.n),
    }, coords={"depth": depths, "rule": ["first", "stable"]})
    return data.merge(_agreement(curves, clusters, options))


def _agreement(curves: np.ndarray, clusters: np.ndarray, options: CompareOptions) -> xr.Dataset:
    """Rank correlation of every two models' lens margins at each depth."""
    m = len(curves)
    held: list[dict[tuple[int, int], np.ndarray]] = [{}, {}, {}]
    for i, j in pairs_of_models(m):
        known = np.isfinite(curves[[i, j]]).all(axis=(0, 2))
        if not known.any():
            values = [np.full(curves.shape[2], np.nan)] * 3
        else:
            a, b = curves[i, known], curves[j, known]
            values = list(jackknifed(lambda kept, a=a, b=b: rank_correlations(a[kept], b[kept]),
                                     prompt_blocks(clusters[known], options.seed), options.level))
        for place, value in enumerate(values):
            held[place][i, j] = value
    return xr.Dataset({f"lens_agreement{end}": (("model", "other", "depth"), symmetric(m, values, 1.0))
                       for end, values in zip(("", "_low", "_high"), held, strict=True)})
